//! The HSM module: a fixed command set over a sealed vault, with every limit enforced here, below the
//! network code.
//!
//! A file for each group of commands: `enrolment` (who is who), `hub` (what only the hub's module does),
//! `plans`, `dealings`, `disputes` and `epochs` (what may be changed; by what; who lied; when it holds), `sessions`
//! (asking and answering), `records` (charters, keys, access), `rotation` (a domain's key versions), `client` (what an
//! application asked for), `fleet` (fleet messages), `fleet_key` (its rotation), `marks` (who runs on an older copy).
//! Values they share: `roster`, `usage`, `lease`, `messages`. `operator` is the operator key, which lives with the CLI.
//!
//! Not here: sockets, orchestration, wall clocks (an argument where a certificate needs one).

mod client;
mod dealings;
mod disputes;
mod enrolment;
mod epochs;
mod fleet;
mod fleet_key;
mod hub;
#[cfg(feature = "testing")]
pub mod inspect;
mod lease;
mod marks;
pub mod messages;
pub mod operator;
mod plans;
mod records;
mod roster;
mod rotation;
mod sessions;
mod state;
mod store;
mod usage;
pub mod views;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use dealings::{Made, SubShare};
pub use disputes::{KEPT, Reason, Verdict};
pub use enrolment::PublicKeys;
pub use fleet_key::{FleetKeyState, MAX_WINDOW, WINDOW, access_commitment};
pub use hub::PlanOrder;
pub use records::{Learnt, RecordKind};
pub use sessions::{Answered, Given, Progress};
pub use store::EpochState;

use crate::clock::{BootClock, Clock};
use crate::error::Result;
use crate::ids::NodeId;
use crate::rng::{CryptoRng, SystemRng};
#[cfg(feature = "testing")]
use crate::vault::Disk;
use crate::vault::Root;
use state::State;

/// How often the timer looks while a lease or session is open: suspends stop the timer's own clock, so a
/// lease that ended in a suspend is erased at most this long after the resume.
const TICK: Duration = Duration::from_millis(200);

/// One HSM module.
pub struct Module {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    /// None once closed.
    state: Mutex<Option<State>>,
    changed: Condvar,
}

/// Where a module takes time and randomness from.
pub struct Sources {
    pub clock: Arc<dyn Clock>,
    pub rng: Box<dyn CryptoRng + Send>,
}

impl Sources {
    #[must_use]
    pub fn system() -> Self {
        Self { clock: Arc::new(BootClock), rng: Box::new(SystemRng) }
    }
}

impl Module {
    /// Makes a module: an identity of its own in a fresh vault at `dir`.
    pub fn create(dir: &Path, name: &NodeId, root: &Root<'_>, sources: Sources) -> Result<Self> {
        crate::memory::lock_memory()?;
        crate::keys::selftest::run()?;
        let Sources { clock, rng } = sources;
        Ok(Self::run(State::create(dir, name, root, rng, clock.now())?, clock))
    }

    /// Opens the module at `dir`, after its self-tests, under a new boot number.
    pub fn open(dir: &Path, root: &Root<'_>, sources: Sources) -> Result<Self> {
        crate::memory::lock_memory()?;
        crate::keys::selftest::run()?;
        let Sources { clock, rng } = sources;
        Ok(Self::run(State::open(dir, root, rng, clock.now())?, clock))
    }

    /// As [`Module::open`], on a disk that can be made to fail, and without the timer: on a virtual clock what has
    /// ended goes at the next command, and no thread's turn is part of a schedule.
    #[cfg(feature = "testing")]
    pub fn open_on(dir: &Path, root: &Root<'_>, sources: Sources, disk: &dyn Disk) -> Result<Self> {
        crate::memory::lock_memory()?;
        let Sources { clock, rng } = sources;
        let state = Mutex::new(Some(State::open_on(dir, root, rng, clock.now(), disk)?));
        Ok(Self { inner: Arc::new(Inner { clock, state, changed: Condvar::new() }) })
    }

    fn run(state: State, clock: Arc<dyn Clock>) -> Self {
        let inner = Arc::new(Inner { clock, state: Mutex::new(Some(state)), changed: Condvar::new() });
        let weak = Arc::downgrade(&inner);
        std::thread::spawn(move || {
            // The timer: erases leases and sessions when they end, whether anybody asks or not.
            while let Some(inner) = weak.upgrade() {
                let mut guard = inner.lock();
                let Some(state) = guard.as_mut() else { return };
                let idle = state.sweep(inner.clock.now());
                let wait = if idle { TICK * 5 } else { TICK };
                drop(inner.changed.wait_timeout(guard, wait).unwrap_or_else(PoisonError::into_inner));
            }
        });
        Self { inner }
    }

    /// Erases every lease, session and key in memory, and releases the vault.
    pub fn close(&self) {
        self.inner.lock().take();
        self.inner.changed.notify_all();
    }

    /// Runs one command on the open state.
    fn with<T>(&self, command: impl FnOnce(&mut State, Duration) -> Result<T>) -> Result<T> {
        let mut guard = self.inner.lock();
        let Some(state) = guard.as_mut() else {
            return crate::error::fail(crate::error::Code::BadState, "the module is closed");
        };
        let now = self.inner.clock.now();
        state.sweep(now);
        command(state, now)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        // A panic in a command leaves the state as its last completed step left it; each command makes its
        // changes durable before it changes what others see.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
