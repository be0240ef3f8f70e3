//! A lease: the bounded right of this module to use what a session gave it. It ends by itself, in time or
//! in uses, and its keys are erased then.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::{Code, Result, fail};
use crate::memory::Secret;
use crate::module::messages::Limits;

/// A domain's wrapping key, and the backing keys opened with it, until the lease ends.
pub struct Lease {
    pub wrap: Secret<32>,
    pub backing: HashMap<([u8; 16], u32), Secret<32>>,
    ends: Duration,
    uses_left: u32,
    seconds: u32,
    uses: u32,
}

/// How many backing keys one lease keeps open; past that, one is opened again for each use.
const MAX_BACKING: usize = 4096;

/// What is left of a lease, for whoever plans its renewal.
pub struct Remaining {
    pub time: Duration,
    pub uses: u32,
    pub of_seconds: u32,
    pub of_uses: u32,
}

impl Lease {
    pub fn start(wrap: Secret<32>, limits: &Limits, now: Duration) -> Self {
        Self {
            wrap,
            backing: HashMap::new(),
            ends: now + Duration::from_secs(u64::from(limits.lease_seconds)),
            uses_left: limits.lease_uses,
            seconds: limits.lease_seconds,
            uses: limits.lease_uses,
        }
    }

    pub fn over(&self, now: Duration) -> bool {
        now >= self.ends || self.uses_left == 0
    }

    pub fn ends(&self) -> Duration {
        self.ends
    }

    pub fn remaining(&self, now: Duration) -> Remaining {
        Remaining {
            time: self.ends.saturating_sub(now),
            uses: self.uses_left,
            of_seconds: self.seconds,
            of_uses: self.uses,
        }
    }

    /// Counts one KMS operation.
    ///
    /// # Errors
    /// `no_lease` when time or uses are spent; the caller drops the lease then.
    pub fn spend(&mut self, now: Duration) -> Result<()> {
        if self.over(now) {
            return fail(Code::NoLease, "the lease of this domain has ended");
        }
        self.uses_left -= 1;
        Ok(())
    }

    pub fn keep_backing(&mut self, key: ([u8; 16], u32), backing: Secret<32>) {
        if self.backing.len() < MAX_BACKING {
            self.backing.insert(key, backing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { uses_per_epoch: 100, rate_per_second: 10, burst: 5, lease_seconds: 30, lease_uses: 2 };
    const T0: Duration = Duration::from_secs(50);

    fn lease() -> Lease {
        Lease::start(Secret::zeroed().expect("arena"), &LIMITS, T0)
    }

    #[test]
    fn a_lease_ends_by_uses() {
        let mut l = lease();
        l.spend(T0).expect("first");
        l.spend(T0).expect("second");
        assert_eq!(l.spend(T0).expect_err("spent").code, Code::NoLease);
        assert!(l.over(T0));
    }

    #[test]
    fn a_lease_ends_by_time_to_the_nanosecond() {
        let mut l = lease();
        let last = (T0 + Duration::from_secs(30)).checked_sub(Duration::from_nanos(1)).unwrap();
        l.spend(last).expect("within");
        assert_eq!(l.spend(T0 + Duration::from_secs(30)).expect_err("over").code, Code::NoLease);
    }
}
