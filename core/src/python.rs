//! The only file that knows `PyO3`: opaque handles out, sealed bytes in. It converts and forwards; it
//! decides nothing, and holds no secret.
//!
//! `src/quorate/_core.pyi` states this interface for Python, with its docstrings.

#![expect(clippy::needless_pass_by_value, reason = "PyO3 extracts owned values")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyInt, PyList, PyNone, PyString, PyTuple};
use zeroize::Zeroizing;

use crate::encoding::{Bytes, View, Wire, decode, encode};
use crate::error::{Code, Error, Result};
use crate::hardening;
use crate::ids::{DomainId, Epoch, Hash, NodeId, SessionId, ShareIndex};
use crate::memory::wiping_stack;
use crate::module::messages::{
    AccessKey, AccessRole, Allowed, Called, Charter, Dealer, DealerKind, Invitation, KeyState, Limits, Mode,
    Outcome, Purpose, Role, Seat, Tag,
};
use crate::module::operator::{Invite, Operator};
use crate::module::{
    EpochState, Learnt, Module, PlanOrder, PublicKeys, RecordKind, Sources, SubShare, WINDOW, views,
};
use crate::rng::SystemRng;
use crate::seal::signing::VerifyKey;
use crate::seal::tls::Validity;
use crate::vault::{Root, read_passphrase};

/// A dealing, and its sealed sub-shares.
type PyDealing<'py> = (Bound<'py, PyBytes>, Vec<Bound<'py, PyBytes>>);

/// A configuration, the receipts of its commit, the dealings that it is made of.
type PyCommit<'py> = (Bound<'py, PyBytes>, Vec<Bound<'py, PyBytes>>, Vec<Bound<'py, PyBytes>>);

pyo3::create_exception!(_core, CoreError, pyo3::exceptions::PyException, "A check that failed in the core.");

type Context = Vec<(String, String)>;

/// The typed error as a Python exception: `code`, `message`, `culprits`, `complaints`.
fn raise(py: Python<'_>, e: &Error) -> PyErr {
    let err = CoreError::new_err(e.to_string());
    let value = err.value(py);
    let culprits: Vec<String> = e.culprits.iter().map(ToString::to_string).collect();
    let set = value
        .setattr("code", e.code.as_str())
        .and_then(|()| value.setattr("message", e.what.as_str()))
        .and_then(|()| value.setattr("culprits", culprits))
        .and_then(|()| value.setattr("complaints", all_bytes(py, &e.complaints)));
    match set {
        Ok(()) => err,
        Err(other) => other,
    }
}

/// Runs a command without holding the interpreter's lock.
pub(crate) fn run<T: Send>(py: Python<'_>, command: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(|| wiping_stack(command)).map_err(|e| raise(py, &e))
}

/// Runs a command of microseconds, on each client's way, with the interpreter's lock held: giving it up and getting
/// it back costs more. Nothing that has the module's own lock ever waits for the interpreter's.
fn run_briefly<T>(py: Python<'_>, command: impl FnOnce() -> Result<T>) -> PyResult<T> {
    wiping_stack(command).map_err(|e| raise(py, &e))
}

/// Tells of a check that needs no secret and no waiting.
pub(crate) fn check<T>(py: Python<'_>, r: Result<T>) -> PyResult<T> {
    r.map_err(|e| raise(py, &e))
}

fn to_python<'py>(py: Python<'py>, view: &View) -> PyResult<Bound<'py, PyAny>> {
    Ok(match view {
        View::Nil => PyNone::get(py).to_owned().into_any(),
        View::Bool(b) => PyBool::new(py, *b).to_owned().into_any(),
        View::Int(n) => PyInt::new(py, *n).into_any(),
        View::Bytes(b) => PyBytes::new(py, b).into_any(),
        View::Text(t) => PyString::new(py, t).into_any(),
        View::List(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(to_python(py, item)?)?;
            }
            list.into_any()
        }
        View::Record(fields) => {
            let dict = PyDict::new(py);
            for (name, value) in fields {
                dict.set_item(*name, to_python(py, value)?)?;
            }
            dict.into_any()
        }
    })
}

fn from_python(value: &Bound<'_, PyAny>, depth: usize) -> PyResult<View> {
    if depth == 0 {
        return Err(PyValueError::new_err("nested too deeply to be encoded"));
    }
    if value.is_none() {
        return Ok(View::Nil);
    }
    if let Ok(b) = value.cast::<PyBool>() {
        return Ok(View::Bool(b.is_true()));
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(View::Int(value.extract()?));
    }
    if let Ok(b) = value.cast::<PyBytes>() {
        return Ok(View::Bytes(b.as_bytes().to_vec()));
    }
    if let Ok(t) = value.cast::<PyString>() {
        return Ok(View::Text(t.to_str()?.to_owned()));
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let items = value.try_iter()?.map(|item| from_python(&item?, depth - 1)).collect::<PyResult<_>>()?;
        return Ok(View::List(items));
    }
    Err(PyTypeError::new_err("only None, bool, int, bytes, str and lists of these can be encoded"))
}

/// Runs `open` with the root of a vault: its key file, or the passphrase in `file`, which never leaves here.
fn with_root<T>(file: Option<&PathBuf>, open: impl FnOnce(&Root<'_>) -> Result<T>) -> Result<T> {
    match file {
        None => open(&Root::KeyFile),
        Some(file) => open(&Root::Passphrase(&read_passphrase(file)?)),
    }
}

pub(crate) fn node(py: Python<'_>, name: &str) -> PyResult<NodeId> {
    check(py, NodeId::new(name))
}

pub(crate) fn domain(py: Python<'_>, name: &str) -> PyResult<DomainId> {
    check(py, DomainId::new(name))
}

fn array<const N: usize>(bytes: &[u8], what: &str) -> PyResult<[u8; N]> {
    bytes.try_into().map_err(|_| PyValueError::new_err(format!("{what} is {N} bytes, got {}", bytes.len())))
}

pub(crate) fn bytes<'py>(py: Python<'py>, data: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, data)
}

fn all_bytes<'py>(py: Python<'py>, items: &[Vec<u8>]) -> Vec<Bound<'py, PyBytes>> {
    items.iter().map(|b| bytes(py, b)).collect()
}

fn verify_key(py: Python<'_>, data: &[u8]) -> PyResult<VerifyKey> {
    check(py, VerifyKey::from_bytes(&array(data, "an operator key")?))
}

const INVITATION: &str = "quorate-invitation-1.";

fn invitation_text(invitation: &Invitation) -> String {
    use std::fmt::Write as _;
    encode(invitation).iter().fold(INVITATION.to_owned(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn read_invitation(py: Python<'_>, text: &str) -> PyResult<Invitation> {
    let malformed = || PyValueError::new_err("this is no invitation: it begins with quorate-invitation-1.");
    let hex = text.trim().strip_prefix(INVITATION).ok_or_else(malformed)?;
    if hex.len() % 2 != 0 || !hex.is_ascii() {
        return Err(malformed());
    }
    let data = (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| malformed()))
        .collect::<PyResult<Vec<u8>>>()?;
    check(py, decode(&data))
}

#[pyfunction]
fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("testing", cfg!(feature = "testing"))?;
    Ok(info)
}

#[pyfunction]
fn harden_process(py: Python<'_>) -> PyResult<bool> {
    run(py, || {
        hardening::harden_process()?;
        crate::memory::keep_heap_small();
        crate::memory::lock_memory()
    })
}

#[pyfunction]
#[pyo3(name = "encode")]
fn encode_value<'py>(py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(bytes(py, &encode(&from_python(value, crate::encoding::MAX_DEPTH)?)))
}

#[pyfunction]
#[pyo3(name = "decode")]
fn decode_value<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    to_python(py, &check(py, decode::<View>(data))?)
}

#[pyfunction]
fn view<'py>(py: Python<'py>, statement: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    to_python(py, &check(py, views::unverified(statement))?)
}

#[pyfunction]
fn view_approved<'py>(py: Python<'py>, statement: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    to_python(py, &check(py, views::unverified_approved(statement))?)
}

#[pyfunction]
fn token_key_version(py: Python<'_>, token: &[u8]) -> PyResult<u64> {
    check(py, crate::keys::token::domain_key_version(token))
}

#[pyfunction]
fn view_invitation<'py>(py: Python<'py>, invitation: &str) -> PyResult<Bound<'py, PyDict>> {
    let invitation = read_invitation(py, invitation)?;
    let out = PyDict::new(py);
    out.set_item("token", to_python(py, &check(py, views::unverified_approved(&invitation.token.0))?)?)?;
    out.set_item("operator", bytes(py, invitation.operator.as_bytes()))?;
    out.set_item("tls_root", bytes(py, &invitation.tls_root.0))?;
    Ok(out)
}

#[pyfunction]
fn write_tls_key(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyBytes>> {
    Ok(bytes(py, &run(py, || crate::seal::tls::write_leaf_key(&path))?))
}

#[pyclass(frozen, name = "Operator", module = "quorate._core")]
struct PyOperator(std::sync::Mutex<Operator>);

impl PyOperator {
    fn get(&self) -> std::sync::MutexGuard<'_, Operator> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[pymethods]
impl PyOperator {
    #[staticmethod]
    #[pyo3(signature = (path, *, region, account, not_before, passphrase_file=None))]
    fn create(
        py: Python<'_>,
        path: PathBuf,
        region: &str,
        account: &str,
        not_before: u64,
        passphrase_file: Option<PathBuf>,
    ) -> PyResult<Self> {
        run(py, || {
            with_root(passphrase_file.as_ref(), |root| {
                Operator::create(&path, root, region, account, not_before, Box::new(SystemRng))
            })
        })
        .map(|o| Self(std::sync::Mutex::new(o)))
    }

    #[staticmethod]
    #[pyo3(name = "open", signature = (path, *, passphrase_file=None))]
    fn open(py: Python<'_>, path: PathBuf, passphrase_file: Option<PathBuf>) -> PyResult<Self> {
        run(py, || {
            with_root(passphrase_file.as_ref(), |root| Operator::open(&path, root, Box::new(SystemRng)))
        })
        .map(|o| Self(std::sync::Mutex::new(o)))
    }

    #[getter]
    fn fleet<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, &self.get().fleet().0)
    }

    #[getter]
    fn public_key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, self.get().public().as_bytes())
    }

    #[getter]
    fn tls_root<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, self.get().tls_root())
    }

    #[getter]
    fn fleet_info<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        bytes(py, self.get().fleet_info())
    }

    #[pyo3(signature = (*, name, role, zone, enrol_address, expires, fingerprint=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn invite<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        role: &str,
        zone: String,
        enrol_address: String,
        expires: u64,
        fingerprint: Option<&[u8]>,
    ) -> PyResult<(Bound<'py, PyBytes>, String)> {
        let fingerprint = fingerprint.map(|f| array(f, "a fingerprint").map(Hash)).transpose()?;
        let name = node(py, name)?;
        let role = check(py, Role::parse(role))?;
        let invite = Invite { name, role, zone, enrol_address, expires, fingerprint };
        let (token, invitation) = check(py, self.get().invite(invite))?;
        Ok((bytes(py, &token), invitation_text(&invitation)))
    }

    #[pyo3(signature = (request, *, not_before))]
    fn approve_entry<'py>(
        &self,
        py: Python<'py>,
        request: &[u8],
        not_before: u64,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (entry, ca) = check(py, self.get().approve_entry(request, not_before))?;
        Ok((bytes(py, &entry), bytes(py, &ca)))
    }

    fn retire<'py>(&self, py: Python<'py>, entry: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &check(py, self.get().retire(entry))?))
    }

    #[pyo3(signature = (*, domain, allowed, threshold_floor, mode, dealer, uses_per_epoch, rate_per_second, burst,
        lease_seconds, lease_uses, root_rule="any".to_owned(), parent=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn charter<'py>(
        &self,
        py: Python<'py>,
        domain: &str,
        allowed: Vec<(String, String)>,
        threshold_floor: u8,
        mode: &str,
        dealer: &str,
        uses_per_epoch: u64,
        rate_per_second: u32,
        burst: u32,
        lease_seconds: u32,
        lease_uses: u32,
        root_rule: String,
        parent: Option<&[u8]>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let statement = (|| {
            let allowed = allowed
                .iter()
                .map(|(n, r)| Ok(Allowed { node: NodeId::new(n.as_str())?, role: Role::parse(r)? }))
                .collect::<Result<_>>()?;
            let operator = self.get();
            let charter = Charter {
                fleet: operator.fleet(),
                domain: DomainId::new(domain)?,
                version: 1,
                parent: Hash([0; 32]),
                allowed,
                threshold_floor,
                mode: Mode::parse(mode)?,
                dealer: DealerKind::parse(dealer)?,
                root_rule,
                limits: Limits { uses_per_epoch, rate_per_second, burst, lease_seconds, lease_uses },
            };
            operator.charter(charter, parent)
        })();
        Ok(bytes(py, &check(py, statement)?))
    }

    fn new_access_secret<'py>(
        &self,
        py: Python<'py>,
        hub_entry: &[u8],
    ) -> PyResult<(String, String, Bound<'py, PyBytes>)> {
        let new = check(py, self.get().new_access(hub_entry))?;
        Ok((new.access_key_id, new.secret.to_string(), bytes(py, &new.sealed_to_hub)))
    }

    #[pyo3(signature = (*, access_key_id, user, role, enabled, created, sealed, parent=None, secret=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn access_key<'py>(
        &self,
        py: Python<'py>,
        access_key_id: String,
        user: String,
        role: &str,
        enabled: bool,
        created: u64,
        sealed: Vec<u8>,
        parent: Option<&[u8]>,
        secret: Option<&str>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let role = check(py, AccessRole::parse(role))?;
        let operator = self.get();
        let key = AccessKey {
            fleet: operator.fleet(),
            access_key_id,
            version: 1,
            parent: Hash([0; 32]),
            user,
            role,
            enabled,
            created,
            sealed: Bytes(sealed),
        };
        Ok(bytes(py, &check(py, operator.access_key(key, parent, secret))?))
    }

    #[expect(clippy::unused_self, reason = "Python's protocol")]
    fn __repr__(&self) -> &'static str {
        "<Operator>"
    }

    #[expect(clippy::unused_self, reason = "Python's protocol")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("an operator key cannot be pickled or copied"))
    }
}

#[pyclass(frozen, name = "Module", module = "quorate._core")]
pub(crate) struct PyModule_(pub(crate) Module);

#[pymethods]
impl PyModule_ {
    #[staticmethod]
    #[pyo3(signature = (path, name, *, passphrase_file=None))]
    fn create(py: Python<'_>, path: PathBuf, name: &str, passphrase_file: Option<PathBuf>) -> PyResult<Self> {
        let name = node(py, name)?;
        run(py, || {
            with_root(passphrase_file.as_ref(), |root| Module::create(&path, &name, root, Sources::system()))
        })
        .map(Self)
    }

    #[staticmethod]
    #[pyo3(name = "open", signature = (path, *, passphrase_file=None))]
    fn open(py: Python<'_>, path: PathBuf, passphrase_file: Option<PathBuf>) -> PyResult<Self> {
        run(py, || with_root(passphrase_file.as_ref(), |root| Module::open(&path, root, Sources::system())))
            .map(Self)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }

    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        Ok(check(py, self.0.name())?.to_string())
    }

    #[getter]
    fn fleet<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        Ok(check(py, self.0.fleet())?.map(|f| bytes(py, &f.0)))
    }

    #[getter]
    fn role(&self, py: Python<'_>) -> PyResult<Option<&'static str>> {
        Ok(check(py, self.0.role())?.map(Role::as_str))
    }

    #[getter]
    fn boot(&self, py: Python<'_>) -> PyResult<u64> {
        check(py, self.0.boot())
    }

    #[getter]
    fn generation(&self, py: Python<'_>) -> PyResult<u64> {
        check(py, self.0.generation())
    }

    #[getter]
    fn fingerprint<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &check(py, self.0.fingerprint())?.0))
    }

    #[getter]
    fn failed(&self) -> bool {
        self.0.failed()
    }

    #[getter]
    fn failure(&self) -> Option<String> {
        self.0.failure()
    }

    fn pin(&self, py: Python<'_>, fleet_info: &[u8], operator: &[u8]) -> PyResult<()> {
        let operator = verify_key(py, operator)?;
        run(py, || self.0.pin(fleet_info, &operator))
    }

    #[pyo3(signature = (*, zone, address))]
    fn enrol_request_hub<'py>(
        &self,
        py: Python<'py>,
        zone: &str,
        address: &str,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.enrol_request_hub(zone, address))?))
    }

    #[pyo3(signature = (invitation, *, address))]
    fn enrol_request<'py>(
        &self,
        py: Python<'py>,
        invitation: &str,
        address: &str,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let invitation = read_invitation(py, invitation)?;
        Ok(bytes(py, &run(py, || self.0.enrol_request(&invitation, address))?))
    }

    fn tls_spki<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &check(py, self.0.tls_spki())?))
    }

    #[pyo3(signature = (spki, *, names, not_before, not_after))]
    fn certify_tls<'py>(
        &self,
        py: Python<'py>,
        spki: &[u8],
        names: Vec<String>,
        not_before: u64,
        not_after: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.certify_tls(spki, &names, Validity { not_before, not_after }))?))
    }

    fn install_roster<'py>(&self, py: Python<'py>, roster: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        run(py, || self.0.install_roster(roster))?;
        view(py, roster)
    }

    fn roster<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        Ok(check(py, self.0.roster_bytes())?.map(|b| bytes(py, &b)))
    }

    fn entries<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let entries = check(py, self.0.entries())?;
        entries
            .iter()
            .map(|(entry, statement)| {
                let out = to_python(py, &entry.view())?;
                out.set_item("statement", bytes(py, statement))?;
                out.set_item("fingerprint", bytes(py, &PublicKeys::of_entry(entry).fingerprint().0))?;
                Ok(out)
            })
            .collect()
    }

    #[pyo3(signature = (rekey, *, window=None))]
    fn accept_rekey(&self, py: Python<'_>, rekey: &[u8], window: Option<u64>) -> PyResult<u64> {
        run(py, || self.0.accept_rekey(rekey, window.map_or(WINDOW, Duration::from_secs)))
    }

    fn fleet_key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = run(py, || self.0.fleet_key())?;
        let out = PyDict::new(py);
        out.set_item("epoch", state.epoch)?;
        out.set_item("previous", state.previous)?;
        out.set_item("keys", state.keys)?;
        let left: Vec<_> = state.keys_left.iter().map(|id| bytes(py, id)).collect();
        out.set_item("keys_left", left)?;
        out.set_item("access_left", state.access_left)?;
        out.set_item("uncommitted", state.uncommitted)?;
        Ok(out)
    }

    fn fleet_key_kept<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.fleet_key_kept())?))
    }

    fn retire_fleet_key<'py>(
        &self,
        py: Python<'py>,
        receipts: Vec<Vec<u8>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.retire_fleet_key(&receipts))?))
    }

    fn renew_outer<'py>(&self, py: Python<'py>, key_id: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let key_id = array(key_id, "a key id")?;
        Ok(bytes(py, &run(py, || self.0.renew_outer(&key_id))?))
    }

    fn renew_access<'py>(&self, py: Python<'py>, access_key_id: &str) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.renew_access(access_key_id))?))
    }

    #[pyo3(signature = (*, window))]
    fn rotate_fleet_key(&self, py: Python<'_>, window: u64) -> PyResult<u64> {
        run(py, || self.0.rotate_fleet_key(Duration::from_secs(window)))
    }

    fn seal<'py>(&self, py: Python<'py>, to: &str, kind: &str, body: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let to = node(py, to)?;
        Ok(bytes(py, &run(py, || self.0.seal(&to, kind, body))?))
    }

    fn hellos<'py>(&self, py: Python<'py>, to: &str) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let to = node(py, to)?;
        Ok(all_bytes(py, &run(py, || self.0.hellos(&to))?))
    }

    fn open_message<'py>(
        &self,
        py: Python<'py>,
        message: &[u8],
    ) -> PyResult<(String, String, Bound<'py, PyBytes>)> {
        let (from, kind, body) = run(py, || self.0.open_message(message))?;
        Ok((from.to_string(), kind, bytes(py, &body)))
    }

    fn peer_boot(&self, py: Python<'_>, peer: &str) -> PyResult<Option<u64>> {
        let peer = node(py, peer)?;
        check(py, self.0.peer_boot(&peer))
    }

    fn peer_version(&self, py: Python<'_>, peer: &str) -> PyResult<Option<u8>> {
        let peer = node(py, peer)?;
        check(py, self.0.peer_version(&peer))
    }

    fn opened_versions(&self, py: Python<'_>) -> PyResult<BTreeMap<u8, u64>> {
        check(py, self.0.opened_versions())
    }

    fn mark<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.mark())?))
    }

    fn note_mark(&self, py: Python<'_>, peer: &str, mark: &[u8]) -> PyResult<()> {
        let peer = node(py, peer)?;
        run(py, || self.0.note_mark(&peer, mark))
    }

    fn keep_marks(&self, py: Python<'_>) -> PyResult<bool> {
        run(py, || self.0.keep_marks())
    }

    fn mark_of<'py>(&self, py: Python<'py>, peer: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let peer = node(py, peer)?;
        Ok(check(py, self.0.mark_of(&peer))?.map(|m| bytes(py, &m)))
    }

    fn evidence<'py>(&self, py: Python<'py>, peer: &str) -> PyResult<Bound<'py, PyBytes>> {
        let peer = node(py, peer)?;
        Ok(bytes(py, &run(py, || self.0.evidence(&peer))?))
    }

    fn take_evidence(&self, py: Python<'_>, mark: &[u8]) -> PyResult<bool> {
        run(py, || self.0.take_evidence(mark))
    }

    fn verify<'py>(&self, py: Python<'py>, statement: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &run(py, || self.0.verify_view(statement))?)
    }

    fn found_fleet<'py>(&self, py: Python<'py>, entry: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.found_fleet(entry))?))
    }

    #[pyo3(signature = (request, token, *, now))]
    fn check_enrolment<'py>(
        &self,
        py: Python<'py>,
        request: &[u8],
        token: &[u8],
        now: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let fingerprint = run(py, || self.0.check_enrolment(request, token, now))?;
        let out = view(py, request)?;
        out.set_item("fingerprint", bytes(py, &fingerprint.0))?;
        out.del_item("token_secret")?;
        Ok(out)
    }

    fn admit<'py>(&self, py: Python<'py>, entry: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.admit(entry))?))
    }

    fn rekey_for<'py>(&self, py: Python<'py>, node_name: &str) -> PyResult<Bound<'py, PyBytes>> {
        let name = node(py, node_name)?;
        Ok(bytes(py, &run(py, || self.0.rekey_for(&name))?))
    }

    #[pyo3(signature = (*, charter, purpose, from_epoch, to_epoch, threshold, dealers, committee, key_version=1))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn plan<'py>(
        &self,
        py: Python<'py>,
        charter: &[u8],
        purpose: &str,
        from_epoch: u64,
        to_epoch: u64,
        threshold: u8,
        dealers: Vec<(String, Option<u64>)>,
        committee: Vec<(u64, String, String)>,
        key_version: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let made = run(py, || {
            let dealers = dealers
                .iter()
                .map(|(n, x)| {
                    Ok(Dealer { node: NodeId::new(n.as_str())?, index: x.map(ShareIndex::new).transpose()? })
                })
                .collect::<Result<_>>()?;
            let committee = committee
                .iter()
                .map(|(x, n, r)| {
                    Ok(Seat {
                        index: ShareIndex::new(*x)?,
                        node: NodeId::new(n.as_str())?,
                        role: Role::parse(r)?,
                    })
                })
                .collect::<Result<_>>()?;
            let purpose = Purpose::parse(purpose)?;
            let (from_epoch, to_epoch) = (Epoch(from_epoch), Epoch(to_epoch));
            let order =
                PlanOrder { key_version, purpose, from_epoch, to_epoch, threshold, dealers, committee };
            self.0.plan(charter, order)
        })?;
        Ok(bytes(py, &made))
    }

    fn configure<'py>(
        &self,
        py: Python<'py>,
        plan: &[u8],
        dealings: Vec<Vec<u8>>,
        sealed: Vec<Vec<Vec<u8>>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.configure(plan, &dealings, &sealed))?))
    }

    fn grant<'py>(
        &self,
        py: Python<'py>,
        request: &[u8],
        called: Vec<(u64, String, (u64, u64))>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let made = run(py, || {
            let called = called
                .iter()
                .map(|(x, n, (term, fence))| {
                    let (index, node) = (ShareIndex::new(*x)?, NodeId::new(n.as_str())?);
                    Ok(Called { index, node, term: *term, fence: *fence })
                })
                .collect::<Result<_>>()?;
            self.0.grant(request, called)
        })?;
        Ok(bytes(py, &made))
    }

    fn reseal_access_secret<'py>(
        &self,
        py: Python<'py>,
        access_key_id: &str,
        sealed: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.reseal_access_secret(access_key_id, sealed))?))
    }

    fn accept_plan<'py>(
        &self,
        py: Python<'py>,
        plan: &[u8],
        charter: &[u8],
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        Ok(all_bytes(py, &run(py, || self.0.accept_plan(plan, charter))?))
    }

    fn deal<'py>(
        &self,
        py: Python<'py>,
        plan: &[u8],
        charter: &[u8],
        plan_keys: Vec<Vec<u8>>,
    ) -> PyResult<Vec<PyDealing<'py>>> {
        let made = run(py, || self.0.deal(plan, charter, &plan_keys))?;
        Ok(made.iter().map(|(dealing, sealed)| (bytes(py, dealing), all_bytes(py, sealed))).collect())
    }

    fn prepare<'py>(
        &self,
        py: Python<'py>,
        configuration: &[u8],
        dealings: Vec<Vec<u8>>,
        sealed: Vec<(u64, usize, Vec<u8>)>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let receipts = run(py, || {
            let subs = sealed
                .into_iter()
                .map(|(x, dealer, sealed)| Ok(SubShare { index: ShareIndex::new(x)?, dealer, sealed }))
                .collect::<Result<Vec<_>>>()?;
            self.0.prepare(configuration, &dealings, &subs)
        })?;
        Ok(all_bytes(py, &receipts))
    }

    fn answer_complaint<'py>(
        &self,
        py: Python<'py>,
        configuration: &[u8],
        complaint: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.answer_complaint(configuration, complaint))?))
    }

    #[pyo3(signature = (configuration, dealing, complaint, opening=None))]
    fn judge<'py>(
        &self,
        py: Python<'py>,
        configuration: &[u8],
        dealing: &[u8],
        complaint: &[u8],
        opening: Option<&[u8]>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let verdict = run(py, || self.0.judge(configuration, dealing, complaint, opening))?;
        let out = PyDict::new(py);
        out.set_item("convicted", verdict.convicted.as_str())?;
        out.set_item("reason", verdict.reason.as_str())?;
        out.set_item("proven", verdict.is_proven())?;
        Ok(out)
    }

    fn activate<'py>(
        &self,
        py: Python<'py>,
        configuration: &[u8],
        receipts: Vec<Vec<u8>>,
        dealings: Vec<Vec<u8>>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        Ok(all_bytes(py, &run(py, || self.0.activate(configuration, &receipts, &dealings))?))
    }

    fn erase<'py>(&self, py: Python<'py>, receipts: Vec<Vec<u8>>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.erase(&receipts))?))
    }

    fn commit_certificate<'py>(&self, py: Python<'py>, domain_name: &str) -> PyResult<PyCommit<'py>> {
        let name = domain(py, domain_name)?;
        let (configuration, receipts, dealings) = run(py, || self.0.commit_certificate(&name))?;
        Ok((bytes(py, &configuration), all_bytes(py, &receipts), all_bytes(py, &dealings)))
    }

    fn abort_plan(&self, py: Python<'_>, plan_hash: &[u8]) -> PyResult<()> {
        let hash = Hash(array(plan_hash, "a plan's hash")?);
        run(py, || self.0.abort_plan(hash))
    }

    #[pyo3(signature = (domain_name=None))]
    fn epochs<'py>(&self, py: Python<'py>, domain_name: Option<&str>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let held = match domain_name {
            None => self.0.epochs(),
            Some(name) => self.0.epochs_of(&domain(py, name)?),
        };
        check(py, held)?
            .iter()
            .map(|(configuration, state, indices, threshold, barred, worn)| {
                let out = PyDict::new(py);
                let c = configuration.body();
                out.set_item("domain", c.domain.as_str())?;
                out.set_item("epoch", c.epoch.0)?;
                out.set_item("configuration", bytes(py, &configuration.hash().0))?;
                out.set_item("state", state.as_str())?;
                out.set_item("indices", indices.iter().map(|x| x.get()).collect::<Vec<u8>>())?;
                out.set_item("threshold", *threshold)?;
                out.set_item("barred", *barred)?;
                out.set_item("worn", *worn)?;
                out.set_item("statement", bytes(py, configuration.bytes()))?;
                Ok(out)
            })
            .collect()
    }

    fn is_worn(&self, py: Python<'_>, domain_name: &str) -> PyResult<bool> {
        let name = domain(py, domain_name)?;
        check(py, self.0.is_worn(&name))
    }

    fn charter<'py>(&self, py: Python<'py>, domain_name: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let name = domain(py, domain_name)?;
        Ok(check(py, self.0.charter(&name))?.map(|c| bytes(py, &c)))
    }

    fn configuration<'py>(
        &self,
        py: Python<'py>,
        domain_name: &str,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let name = domain(py, domain_name)?;
        let held = check(py, self.0.epochs_of(&name))?;
        let current = held.iter().find(|(_, state, ..)| *state == EpochState::Current);
        Ok(current.map(|(c, ..)| bytes(py, c.bytes())))
    }

    fn open_session<'py>(
        &self,
        py: Python<'py>,
        domain_name: &str,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let name = domain(py, domain_name)?;
        let (session, request) = run(py, || self.0.open_session(&name))?;
        Ok((bytes(py, &session.0), bytes(py, &request)))
    }

    fn answer<'py>(&self, py: Python<'py>, grant: &[u8]) -> PyResult<Bound<'py, PyDict>> {
        let answered = run(py, || self.0.answer(grant))?;
        let out = PyDict::new(py);
        out.set_item("session", bytes(py, &answered.session.0))?;
        out.set_item("domain", answered.domain.to_string())?;
        out.set_item("epoch", answered.epoch.0)?;
        out.set_item("requester", answered.requester.to_string())?;
        let called: Vec<_> = answered.called.iter().map(|c| (c.index.get(), c.node.to_string())).collect();
        out.set_item("called", called)?;
        let given: Vec<_> = answered
            .given
            .iter()
            .map(|g| (g.index.get(), bytes(py, &g.statement), g.refused.map(Code::as_str)))
            .collect();
        out.set_item("given", given)?;
        Ok(out)
    }

    fn receive<'py>(&self, py: Python<'py>, answer: &[u8]) -> PyResult<Bound<'py, PyDict>> {
        let progress = run(py, || self.0.receive(answer))?;
        let out = PyDict::new(py);
        out.set_item("state", if progress.closed.is_some() { "combined" } else { "collecting" })?;
        out.set_item("have", progress.have)?;
        out.set_item("need", progress.need)?;
        let culprits: Vec<(u8, String)> =
            progress.culprits.iter().map(|(x, n)| (x.get(), n.to_string())).collect();
        out.set_item("culprits", culprits)?;
        out.set_item("closed", progress.closed.map(|b| bytes(py, &b)))?;
        Ok(out)
    }

    fn abandon<'py>(&self, py: Python<'py>, session: &[u8], outcome: &str) -> PyResult<Bound<'py, PyBytes>> {
        let session = SessionId(array(session, "a session id")?);
        let outcome = check(py, Outcome::parse(outcome))?;
        Ok(bytes(py, &run(py, || self.0.abandon(session, outcome))?))
    }

    fn close_session(&self, py: Python<'_>, closed: &[u8]) -> PyResult<()> {
        run(py, || self.0.close_session(closed))
    }

    fn lease<'py>(&self, py: Python<'py>, domain_name: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
        let name = domain(py, domain_name)?;
        let Some(left) = check(py, self.0.lease(&name))? else { return Ok(None) };
        let out = PyDict::new(py);
        out.set_item("seconds_left", left.time.as_secs_f64())?;
        out.set_item("uses_left", left.uses)?;
        out.set_item("seconds", left.of_seconds)?;
        out.set_item("uses", left.of_uses)?;
        Ok(Some(out))
    }

    fn lock(&self, py: Python<'_>, domain_name: &str) -> PyResult<bool> {
        let name = domain(py, domain_name)?;
        run(py, || self.0.lock(&name))
    }

    fn drop_uses(&self, py: Python<'_>) -> PyResult<()> {
        run(py, || self.0.drop_uses())
    }

    fn learn(&self, py: Python<'_>, statements: Vec<Vec<u8>>) -> PyResult<Vec<String>> {
        let learnt = run(py, || self.0.learn(&statements))?;
        Ok(learnt
            .iter()
            .map(|l| match l {
                Learnt::New => "new".to_owned(),
                Learnt::Known => "known".to_owned(),
                Learnt::Refused(e) => e.code.as_str().to_owned(),
            })
            .collect())
    }

    fn records<'py>(&self, py: Python<'py>, kind: &str) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let kind = check(py, RecordKind::parse(kind))?;
        Ok(all_bytes(py, &run(py, || self.0.records(kind))?))
    }

    #[pyo3(signature = (*, key_id, domain, description, tags, created))]
    fn make_key<'py>(
        &self,
        py: Python<'py>,
        key_id: &[u8],
        domain: &str,
        description: String,
        tags: Vec<(String, String)>,
        created: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let key_id = array(key_id, "a key id")?;
        let name = check(py, DomainId::new(domain))?;
        let tags = tags.into_iter().map(|(key, value)| Tag { key, value }).collect();
        Ok(bytes(py, &run(py, || self.0.make_key(key_id, &name, description, tags, created))?))
    }

    #[pyo3(signature = (key_id, *, state, deletion))]
    fn revise_key<'py>(
        &self,
        py: Python<'py>,
        key_id: &[u8],
        state: &str,
        deletion: Option<u64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let key_id = array(key_id, "a key id")?;
        let state = check(py, KeyState::parse(state))?;
        Ok(bytes(py, &run(py, || self.0.revise_key(&key_id, state, deletion))?))
    }

    fn key_sharings(&self, py: Python<'_>, key_id: &[u8]) -> PyResult<(String, String)> {
        let key_id = array(key_id, "a key id")?;
        let (used, present) = run_briefly(py, || self.0.key_sharings(&key_id))?;
        Ok((used.to_string(), present.to_string()))
    }

    fn newest_sharing(&self, py: Python<'_>, domain_name: &str) -> PyResult<String> {
        let name = domain(py, domain_name)?;
        Ok(run_briefly(py, || self.0.newest_sharing(&name))?.to_string())
    }

    fn rewrap_key<'py>(&self, py: Python<'py>, key_id: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let key_id = array(key_id, "a key id")?;
        Ok(bytes(py, &run(py, || self.0.rewrap_key(&key_id))?))
    }

    fn unchecked_keys<'py>(&self, py: Python<'py>, domain_name: &str) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let name = domain(py, domain_name)?;
        Ok(run(py, || self.0.unchecked_keys(&name))?.iter().map(|id| bytes(py, id)).collect())
    }

    fn check_rewrapped(&self, py: Python<'_>, key_id: &[u8]) -> PyResult<()> {
        let key_id = array(key_id, "a key id")?;
        run(py, || self.0.check_rewrapped(&key_id))
    }

    fn clean<'py>(
        &self,
        py: Python<'py>,
        domain_name: &str,
        key_version: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let name = domain(py, domain_name)?;
        Ok(bytes(py, &run(py, || self.0.clean(&name, key_version))?))
    }

    fn drop_version<'py>(&self, py: Python<'py>, cleans: Vec<Vec<u8>>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run(py, || self.0.drop_version(&cleans))?))
    }

    #[pyo3(signature = (alias, *, target, now))]
    fn revise_alias<'py>(
        &self,
        py: Python<'py>,
        alias: &str,
        target: Option<&[u8]>,
        now: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let target = target.map(|t| array(t, "a key id")).transpose()?;
        Ok(bytes(py, &run(py, || self.0.revise_alias(alias, target, now))?))
    }

    fn encrypt<'py>(
        &self,
        py: Python<'py>,
        key_id: &[u8],
        plaintext: &[u8],
        context: Context,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let key_id = array(key_id, "a key id")?;
        Ok(bytes(py, &run_briefly(py, || self.0.encrypt(&key_id, plaintext, &context))?))
    }

    fn decrypt<'py>(&self, py: Python<'py>, blob: &[u8], context: Context) -> PyResult<Bound<'py, PyBytes>> {
        let plaintext: Zeroizing<Vec<u8>> = run_briefly(py, || self.0.decrypt(blob, &context))?;
        Ok(bytes(py, &plaintext))
    }

    fn reencrypt<'py>(
        &self,
        py: Python<'py>,
        blob: &[u8],
        context: Context,
        key_id: &[u8],
        new_context: Context,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let key_id = array(key_id, "a key id")?;
        Ok(bytes(py, &run(py, || self.0.reencrypt(blob, &context, &key_id, &new_context))?))
    }

    #[pyo3(signature = (key_id, length, context, *, plaintext))]
    fn data_key<'py>(
        &self,
        py: Python<'py>,
        key_id: &[u8],
        length: usize,
        context: Context,
        plaintext: bool,
    ) -> PyResult<(Option<Bound<'py, PyBytes>>, Bound<'py, PyBytes>)> {
        let key_id = array(key_id, "a key id")?;
        let (key, sealed) = run_briefly(py, || self.0.data_key(&key_id, length, &context))?;
        Ok((plaintext.then(|| bytes(py, &key)), bytes(py, &sealed)))
    }

    #[expect(clippy::unused_self, reason = "a command of the module, like its siblings")]
    fn blob_key<'py>(&self, py: Python<'py>, blob: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &check(py, crate::keys::blob::parse_header(blob))?.key_id))
    }

    fn random<'py>(&self, py: Python<'py>, length: usize) -> PyResult<Bound<'py, PyBytes>> {
        Ok(bytes(py, &run_briefly(py, || self.0.random(length))?))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a request's scope")]
    fn check_signature(
        &self,
        py: Python<'_>,
        access_key_id: &str,
        date: &str,
        region: &str,
        service: &str,
        string_to_sign: &[u8],
        signature: &str,
    ) -> PyResult<(String, &'static str)> {
        let (user, role) = run_briefly(py, || {
            self.0.check_signature(access_key_id, date, region, service, string_to_sign, signature)
        })?;
        Ok((user, role.as_str()))
    }

    #[cfg(feature = "testing")]
    fn corrupt_answers(&self, py: Python<'_>, on: bool) -> PyResult<()> {
        run(py, || self.0.corrupt_answers(on))
    }

    #[expect(clippy::unused_self, reason = "Python's protocol")]
    fn __repr__(&self) -> &'static str {
        "<Module>"
    }

    #[expect(clippy::unused_self, reason = "Python's protocol")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("a module cannot be pickled or copied"))
    }
}

/// The extension module `quorate._core`.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("CoreError", m.py().get_type::<CoreError>())?;
    m.add("CODES", Code::ALL.iter().map(|c| c.as_str()).collect::<Vec<_>>())?;
    m.add_class::<PyOperator>()?;
    m.add_class::<PyModule_>()?;
    m.add_function(wrap_pyfunction!(build_info, m)?)?;
    m.add_function(wrap_pyfunction!(harden_process, m)?)?;
    m.add_function(wrap_pyfunction!(encode_value, m)?)?;
    m.add_function(wrap_pyfunction!(decode_value, m)?)?;
    m.add_function(wrap_pyfunction!(view, m)?)?;
    m.add_function(wrap_pyfunction!(view_approved, m)?)?;
    m.add_function(wrap_pyfunction!(token_key_version, m)?)?;
    m.add_function(wrap_pyfunction!(view_invitation, m)?)?;
    m.add_function(wrap_pyfunction!(write_tls_key, m)?)?;
    #[cfg(feature = "testing")]
    crate::python_testing::register(m)?;
    Ok(())
}
