//! What only the simulator asks of the core (`tests/simulation`): modules on a virtual clock, with seeded randomness
//! and disks that fail; what lies on their media; statements signed with stolen keys. It converts and forwards.
//!
//! Not here: anything of a shipped build.

#![expect(clippy::needless_pass_by_value, reason = "PyO3 extracts owned values")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::clock::VirtualClock;
use crate::ids::{Epoch, ShareIndex};
use crate::module::inspect::{self, Medium, Shard, Thief, durable_shards, key_of, settled_shards};
use crate::module::{Module, Sources};
use crate::python::{PyModule_, bytes, check, domain, node, run};
use crate::rng::SeededRng;
use crate::seal::statement;
use crate::stand_in;
use crate::vault::Root;
use crate::vault::faults::{Fault, FaultyDisk, Memory, Unsynced};

/// A clock that moves only when told to.
#[pyclass(frozen, name = "VirtualClock", module = "quorate._core")]
struct PyClock(Arc<VirtualClock>);

#[pymethods]
impl PyClock {
    #[new]
    fn new() -> Self {
        Self(Arc::new(VirtualClock::default()))
    }

    fn advance(&self, seconds: f64) {
        self.0.advance(Duration::from_secs_f64(seconds));
    }
}

/// A machine's disk: a vault's directory as it was at first, and what was written since, in memory.
#[pyclass(frozen, name = "Medium", module = "quorate._core")]
struct PyMedium(Medium);

#[pymethods]
impl PyMedium {
    #[new]
    fn new(dir: PathBuf) -> Self {
        Self(Medium { dir, memory: Memory::default() })
    }

    /// As a backup has it.
    fn copy(&self) -> Self {
        Self(Medium { dir: self.0.dir.clone(), memory: self.0.memory.copy() })
    }
}

/// A medium's disk that fails when it is told to.
#[pyclass(frozen, name = "FaultyDisk", module = "quorate._core")]
struct PyDisk(FaultyDisk);

fn unsynced(name: &str, seed: u64) -> PyResult<Unsynced> {
    Ok(match name {
        "lost" => Unsynced::Lost,
        "kept" => Unsynced::Kept,
        "torn" => Unsynced::Torn(seed),
        _ => return Err(PyValueError::new_err("lost, kept or torn")),
    })
}

#[pymethods]
impl PyDisk {
    #[new]
    fn new(medium: &PyMedium) -> Self {
        Self(FaultyDisk::on(&medium.0.memory))
    }

    fn arm(&self, nth: usize, fault: &str, becomes: &str, seed: u64) -> PyResult<()> {
        let fault = match fault {
            "crash" => Fault::Crash,
            "fail" => Fault::Fail,
            _ => return Err(PyValueError::new_err("crash or fail")),
        };
        self.0.arm(nth, fault, unsynced(becomes, seed)?);
        Ok(())
    }

    fn lie(&self) {
        self.0.lie();
    }

    fn crash(&self, becomes: &str, seed: u64) -> PyResult<()> {
        self.0.crash(unsynced(becomes, seed)?);
        Ok(())
    }
}

fn sources(clock: &PyClock, seed: u64) -> Sources {
    Sources { clock: clock.0.clone(), rng: Box::new(SeededRng::new(seed)) }
}

#[pyfunction]
fn create_module(
    py: Python<'_>,
    path: PathBuf,
    name: &str,
    clock: &PyClock,
    seed: u64,
) -> PyResult<PyModule_> {
    let name = node(py, name)?;
    let sources = sources(clock, seed);
    run(py, || Module::create(&path, &name, &Root::KeyFile, sources)).map(PyModule_)
}

#[pyfunction]
fn open_module(
    py: Python<'_>,
    medium: &PyMedium,
    clock: &PyClock,
    disk: &PyDisk,
    seed: u64,
) -> PyResult<PyModule_> {
    let sources = sources(clock, seed);
    run(py, || Module::open_on(&medium.0.dir, &Root::KeyFile, sources, &disk.0)).map(PyModule_)
}

#[pyfunction]
#[pyo3(name = "durable_shards")]
fn shards<'py>(py: Python<'py>, medium: &PyMedium) -> PyResult<Vec<Bound<'py, PyDict>>> {
    listed(py, &run(py, || durable_shards(&medium.0))?)
}

/// The same of a module that is open on `disk`; None while something that it wrote is not on the medium.
#[pyfunction]
#[pyo3(name = "settled_shards")]
fn settled<'py>(
    py: Python<'py>,
    module: &PyModule_,
    disk: &PyDisk,
) -> PyResult<Option<Vec<Bound<'py, PyDict>>>> {
    if !disk.0.is_settled() {
        return Ok(None);
    }
    listed(py, &run(py, || settled_shards(&module.0))?).map(Some)
}

fn listed<'py>(py: Python<'py>, found: &[Shard]) -> PyResult<Vec<Bound<'py, PyDict>>> {
    found
        .iter()
        .map(|shard| {
            let out = PyDict::new(py);
            out.set_item("domain", shard.domain.as_str())?;
            out.set_item("epoch", shard.epoch.0)?;
            out.set_item("state", shard.state.as_str())?;
            out.set_item("index", shard.index.get())?;
            out.set_item("threshold", shard.threshold)?;
            out.set_item("configuration", bytes(py, &shard.configuration.0))?;
            out.set_item("constant", bytes(py, &shard.constant))?;
            out.set_item("valid", shard.valid)?;
            Ok(out)
        })
        .collect()
}

#[pyfunction]
fn durable_key<'py>(
    py: Python<'py>,
    media: Vec<PyRef<'py, PyMedium>>,
    domain_name: &str,
    epoch: u64,
) -> PyResult<Bound<'py, PyBytes>> {
    let name = domain(py, domain_name)?;
    let media: Vec<Medium> = media.iter().map(|medium| medium.0.clone()).collect();
    Ok(bytes(py, &run(py, || key_of(&media, &name, Epoch(epoch)))?.0))
}

/// Every module of this process computes with the stand-in from now on; `bad_state` once anything was computed.
#[pyfunction]
fn use_stand_in(py: Python<'_>) -> PyResult<()> {
    check(py, stand_in::switch_on())
}

/// Every module of this process makes this mistake from now on; "" for none.
#[pyfunction]
fn make_mistake(name: &str) -> PyResult<()> {
    if inspect::make_mistake(name) { Ok(()) } else { Err(PyValueError::new_err("no such mistake")) }
}

/// Signs as a module whose vault was stolen.
#[pyclass(frozen, name = "Thief", module = "quorate._core")]
struct PyThief(Thief);

#[pymethods]
impl PyThief {
    #[new]
    fn new(py: Python<'_>, medium: &PyMedium) -> PyResult<Self> {
        Ok(Self(run(py, || Thief::of(&medium.0))?))
    }

    fn prepared<'py>(
        &self,
        py: Python<'py>,
        configuration: &[u8],
        index: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let made = ShareIndex::new(index).and_then(|x| self.0.prepared(configuration, x));
        Ok(bytes(py, &check(py, made)?))
    }

    fn activated<'py>(
        &self,
        py: Python<'py>,
        configuration: &[u8],
        index: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let made = ShareIndex::new(index).and_then(|x| self.0.activated(configuration, x));
        Ok(bytes(py, &check(py, made)?))
    }

    fn erased<'py>(&self, py: Python<'py>, configuration: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &check(py, self.0.erased(configuration))?))
    }

    fn complaint<'py>(
        &self,
        py: Python<'py>,
        configuration: &[u8],
        dealing: &[u8],
        index: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let made = ShareIndex::new(index)
            .and_then(|x| self.0.complaint(configuration, statement::hash_in(dealing)?, x));
        Ok(bytes(py, &check(py, made)?))
    }

    fn opening<'py>(&self, py: Python<'py>, complaint: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &check(py, self.0.opening(complaint))?))
    }

    fn deal_afresh<'py>(
        &self,
        py: Python<'py>,
        dealing: &[u8],
        plan: &[u8],
        plan_keys: Vec<Vec<u8>>,
        seed: u64,
    ) -> PyResult<(Bound<'py, PyBytes>, Vec<Bound<'py, PyBytes>>)> {
        let (made, sealed) = check(py, self.0.deal_afresh(dealing, plan, &plan_keys, seed))?;
        Ok((bytes(py, &made), sealed.iter().map(|part| bytes(py, part)).collect()))
    }

    #[pyo3(signature = (dealing, sealed, commitments_of=None))]
    fn dealing<'py>(
        &self,
        py: Python<'py>,
        dealing: &[u8],
        sealed: Vec<Vec<u8>>,
        commitments_of: Option<&[u8]>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &check(py, self.0.dealing(dealing, &sealed, commitments_of))?))
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyClock>()?;
    m.add_class::<PyMedium>()?;
    m.add_class::<PyDisk>()?;
    m.add_class::<PyThief>()?;
    m.add_function(wrap_pyfunction!(create_module, m)?)?;
    m.add_function(wrap_pyfunction!(open_module, m)?)?;
    m.add_function(wrap_pyfunction!(shards, m)?)?;
    m.add_function(wrap_pyfunction!(settled, m)?)?;
    m.add_function(wrap_pyfunction!(use_stand_in, m)?)?;
    m.add_function(wrap_pyfunction!(durable_key, m)?)?;
    m.add_function(wrap_pyfunction!(make_mistake, m)?)?;
    Ok(())
}
