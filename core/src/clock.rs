//! Time for leases and slots: `CLOCK_BOOTTIME`, which counts through suspend and never jumps back.
//! Wall clocks are not used in the core.

use std::time::Duration;

/// A source of monotonic time, as the span since boot.
pub trait Clock: Send + Sync {
    fn now(&self) -> Duration;
}

/// The system's `CLOCK_BOOTTIME`.
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Duration {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
    }
}

/// A clock that moves only when told to.
#[cfg(any(test, feature = "testing"))]
#[derive(Default)]
pub struct VirtualClock(std::sync::atomic::AtomicU64);

#[cfg(any(test, feature = "testing"))]
impl VirtualClock {
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).expect("a test advances by less than 584 years");
        self.0.fetch_add(nanos, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(any(test, feature = "testing"))]
impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}
