//! What limits one shard: its slot, its fences, its durable use counter, its rate
//! (docs/protocols/sessions.md, "3. Answer"). Pure: time is an argument; what must be durable is said before the answer may leave.

use std::collections::VecDeque;
use std::time::Duration;

use crate::error::{Code, Result, fail};
use crate::ids::{NodeId, SessionId};
use crate::module::messages::Limits;
use crate::record;

/// How long a slot stays taken when its requester never closes the session.
pub const SLOT_TTL: Duration = Duration::from_millis(1200);
/// Uses and fences that one durable write reserves; a crash may over-count by as much, never under-count.
pub const BLOCK: u64 = 64;
/// The furthest that one grant may move a shard's term, or its fence within a term: a hub that was stolen,
/// or a holder's lie that an honest hub follows, exhausts neither.
pub const MAX_FENCE_STEP: u64 = 1 << 32;
/// A shard is worn when a fifth of its uses is left.
const WORN_AFTER: u64 = 5;
/// Sessions remembered for each shard; older ones are caught by the fence.
const SEEN: usize = 1024;

record! {
    /// The durable part: nothing at or below these is ever accepted or counted again.
    pub struct Reserved {
        pub term: u64,
        pub fence: u64,
        pub uses: u64,
    }
}

impl Reserved {
    pub const NONE: Self = Self { term: 0, fence: 0, uses: 0 };
}

/// One shard's usage since this module started.
pub struct Usage {
    reserved: Reserved,
    /// Highest fence accepted, as (term, number).
    fence: (u64, u64),
    uses: u64,
    slot: Option<(SessionId, NodeId, Duration)>,
    seen: VecDeque<SessionId>,
    tokens: f64,
    filled: Duration,
}

impl Usage {
    /// After a start, everything that was reserved counts as used.
    pub fn resume(reserved: Reserved, limits: &Limits, now: Duration) -> Self {
        Self {
            fence: (reserved.term, reserved.fence),
            uses: reserved.uses,
            reserved,
            slot: None,
            seen: VecDeque::new(),
            tokens: f64::from(limits.burst),
            filled: now,
        }
    }

    pub fn uses(&self) -> u64 {
        self.uses
    }

    pub fn fence(&self) -> (u64, u64) {
        self.fence
    }

    /// Most of its answers in this epoch are given: the next epoch should come before the last.
    pub fn is_worn(&self, limits: &Limits) -> bool {
        self.uses >= limits.uses_per_epoch - limits.uses_per_epoch / WORN_AFTER
    }

    pub fn busy(&self, now: Duration) -> bool {
        self.slot.as_ref().is_some_and(|(_, _, until)| now < *until)
    }

    /// Takes the slot for one answer. Returns what must be durable before the answer leaves, if it is more
    /// than what is.
    ///
    /// # Errors
    /// `replayed`, `stale_fence`, `slot_busy`, `use_limit`, `rate_limited`; nothing has changed then.
    pub fn take(
        &mut self,
        by: (SessionId, NodeId),
        fence: (u64, u64),
        limits: &Limits,
        now: Duration,
    ) -> Result<Option<Reserved>> {
        let (session, requester) = by;
        if self.seen.contains(&session) {
            return fail(Code::Replayed, "this shard has answered this session");
        }
        if fence <= self.fence {
            return fail(Code::StaleFence, "the grant's fence is not above the highest seen for this shard");
        }
        let from = if fence.0 == self.fence.0 { self.fence.1 } else { 0 };
        if fence.0 - self.fence.0 > MAX_FENCE_STEP || fence.1 - from > MAX_FENCE_STEP {
            return fail(Code::StaleFence, "the grant's fence jumps too far ahead");
        }
        if self.busy(now) {
            return fail(Code::SlotBusy, "this shard serves another session");
        }
        if self.uses >= limits.uses_per_epoch {
            return fail(
                Code::UseLimit,
                "this shard has reached its uses for this epoch; refresh the domain",
            );
        }
        let tokens = self.tokens_at(limits, now);
        if tokens < 1.0 {
            return fail(Code::RateLimited, "this shard has reached its rate");
        }
        self.tokens = tokens - 1.0;
        self.filled = now;
        self.fence = fence;
        self.uses += 1;
        self.slot = Some((session, requester, now + SLOT_TTL));
        if self.seen.len() == SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(session);
        if fence <= (self.reserved.term, self.reserved.fence) && self.uses <= self.reserved.uses {
            return Ok(None);
        }
        self.reserved = Reserved {
            term: fence.0,
            fence: fence.1.saturating_add(BLOCK),
            uses: self.uses.saturating_add(BLOCK),
        };
        Ok(Some(self.reserved.clone()))
    }

    /// Frees the slot if `session` of `requester` has it.
    pub fn release(&mut self, session: SessionId, requester: &NodeId) {
        if self.slot.as_ref().is_some_and(|(s, r, _)| *s == session && r == requester) {
            self.slot = None;
        }
    }

    fn tokens_at(&self, limits: &Limits, now: Duration) -> f64 {
        let gained = now.saturating_sub(self.filled).as_secs_f64() * f64::from(limits.rate_per_second);
        (self.tokens + gained).min(f64::from(limits.burst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { uses_per_epoch: 100, rate_per_second: 10, burst: 5, lease_seconds: 30, lease_uses: 10 };
    const T0: Duration = Duration::from_secs(1000);

    fn session(n: u8) -> (SessionId, NodeId) {
        (SessionId([n; 16]), node("a"))
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a label")
    }

    fn fresh() -> Usage {
        Usage::resume(Reserved::NONE, &LIMITS, T0)
    }

    #[test]
    fn n57_a_slot_is_taken_until_its_ttl_and_a_fence_never_falls() {
        let mut u = fresh();
        u.take(session(1), (1, 1), &LIMITS, T0).expect("free");
        let busy = u.take(
            session(2),
            (1, 2),
            &LIMITS,
            (T0 + SLOT_TTL).checked_sub(Duration::from_nanos(1)).unwrap(),
        );
        assert_eq!(busy.expect_err("busy").code, Code::SlotBusy);
        u.take(session(3), (1, 3), &LIMITS, T0 + SLOT_TTL).expect("free after the TTL");
        u.release(session(3).0, &node("a"));
        for stale in [(1, 3), (1, 2), (0, 99)] {
            let e = u.take(session(4), stale, &LIMITS, T0 + SLOT_TTL).expect_err("stale");
            assert_eq!(e.code, Code::StaleFence);
        }
    }

    #[test]
    fn only_the_session_that_has_the_slot_frees_it() {
        let mut u = fresh();
        u.take(session(1), (1, 1), &LIMITS, T0).expect("free");
        u.release(session(2).0, &node("a"));
        u.release(session(1).0, &node("b"));
        assert!(u.busy(T0));
        u.release(session(1).0, &node("a"));
        assert!(!u.busy(T0));
    }

    #[test]
    fn n58_a_crash_never_refunds_a_use_or_a_fence() {
        let mut u = fresh();
        let mut durable = Reserved::NONE;
        for n in 1..=70_u8 {
            let now = T0 + Duration::from_secs(u64::from(n));
            if let Some(r) = u.take(session(n), (1, u64::from(n)), &LIMITS, now).expect("free") {
                durable = r;
            }
            u.release(session(n).0, &node("a"));
            assert!(durable.uses >= u.uses(), "an answer left before its use was durable");
            assert!((durable.term, durable.fence) >= u.fence());
        }
        let resumed = Usage::resume(durable.clone(), &LIMITS, T0);
        assert_eq!((resumed.uses(), resumed.fence()), (durable.uses, (durable.term, durable.fence)));
    }

    #[test]
    fn uses_of_an_epoch_and_rate_are_limited() {
        let mut u = Usage::resume(Reserved { term: 1, fence: 1, uses: 99 }, &LIMITS, T0);
        u.take(session(1), (1, 2), &LIMITS, T0).expect("the last use");
        u.release(session(1).0, &node("a"));
        assert_eq!(u.take(session(2), (1, 3), &LIMITS, T0).expect_err("limit").code, Code::UseLimit);

        let mut u = fresh();
        for n in 1..=5 {
            u.take(session(n), (1, u64::from(n)), &LIMITS, T0).expect("burst");
            u.release(session(n).0, &node("a"));
        }
        assert_eq!(u.take(session(6), (1, 6), &LIMITS, T0).expect_err("rate").code, Code::RateLimited);
        u.take(session(6), (1, 6), &LIMITS, T0 + Duration::from_millis(100)).expect("a token came back");
    }

    #[test]
    fn a_shard_is_worn_at_four_fifths_of_its_uses() {
        let mut u = Usage::resume(Reserved { term: 1, fence: 1, uses: 78 }, &LIMITS, T0);
        for (use_, worn) in [(79, false), (80, true), (81, true)] {
            u.take(session(use_), (1, u64::from(use_)), &LIMITS, T0).expect("free");
            u.release(session(use_).0, &node("a"));
            assert_eq!((u.uses(), u.is_worn(&LIMITS)), (u64::from(use_), worn));
        }
        let few = Limits { uses_per_epoch: 3, ..LIMITS };
        assert!(!Usage::resume(Reserved::NONE, &few, T0).is_worn(&few));
    }

    #[test]
    fn n97_a_grant_cannot_exhaust_a_shards_fences() {
        let mut u = fresh();
        let e = u.take(session(1), (1, u64::MAX), &LIMITS, T0).expect_err("too far");
        assert_eq!(e.code, Code::StaleFence);
        u.take(session(1), (1, MAX_FENCE_STEP), &LIMITS, T0).expect("within the step");
        u.release(session(1).0, &node("a"));
        u.take(session(2), (2, 1), &LIMITS, T0).expect("a new term starts again");
        u.release(session(2).0, &node("a"));
        for far in [u64::MAX, 3 + MAX_FENCE_STEP] {
            let e = u.take(session(3), (far, 1), &LIMITS, T0).expect_err("too far");
            assert_eq!((e.code, u.fence()), (Code::StaleFence, (2, 1)));
        }
        u.take(session(3), (2 + MAX_FENCE_STEP, 1), &LIMITS, T0).expect("within the step");
    }

    #[test]
    fn n56_a_session_is_answered_once() {
        let mut u = fresh();
        u.take(session(1), (1, 1), &LIMITS, T0).expect("free");
        u.release(session(1).0, &node("a"));
        assert_eq!(u.take(session(1), (1, 2), &LIMITS, T0).expect_err("seen").code, Code::Replayed);
    }
}
