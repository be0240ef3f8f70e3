//! Sessions: what a holder refuses in a grant, what a requester refuses in an answer, and what survives a
//! restart of either.

use std::time::Duration;

use quorate_core::error::Code;
use quorate_core::ids::{DomainId, Epoch, Hash, SessionId};
use quorate_core::module::messages::{
    Answer, Called, Charter, Closed, Grant, Limits, Outcome, SessionRequest,
};

use crate::fixture::{Fleet, charter, domain, index, node_id, refused, said};

const SLOT_TTL: Duration = Duration::from_millis(1200);

/// A session of node-1 with the answers of the shards 1 to 3.
fn answers(fleet: &mut Fleet) -> (SessionId, Vec<Vec<u8>>) {
    let (session, request) = fleet.open_session(1);
    let grant = fleet.grant(&request, &[1, 2, 3]);
    (session, [1, 2, 3].map(|n| fleet.answer(n, &grant)).to_vec())
}

fn is_unlocked(fleet: &Fleet, n: u8) -> bool {
    fleet.node(n).lease(&domain()).expect("asked").is_some()
}

#[test]
fn n07_a_corrupt_answer_is_blamed_and_a_substitutes_combines() {
    let mut fleet = Fleet::ready();
    fleet.node(2).corrupt_answers(true).expect("set");
    let (_, request) = fleet.open_session(1);
    let grant = fleet.grant(&request, &[1, 2, 3, 4]);
    let corrupt = fleet.answer(2, &grant);
    fleet.node(1).receive(&fleet.answer(1, &grant)).expect("taken");
    fleet.node(1).receive(&corrupt).expect("taken");
    let progress = fleet.node(1).receive(&fleet.answer(3, &grant)).expect("taken");
    assert_eq!(progress.culprits, [(index(2), node_id(2))]);
    assert_eq!((progress.have, progress.need), (2, 3));
    assert!(progress.closed.is_none() && !is_unlocked(&fleet, 1), "no key was rebuilt");
    // Whoever was blamed is not heard again in this session, whatever it says now.
    let again = fleet.forge("node-2", said::<Answer>(&corrupt));
    refused(fleet.node(1).receive(&again), Code::Replayed);
    let progress = fleet.node(1).receive(&fleet.answer(4, &grant)).expect("taken");
    let closed = said::<Closed>(&progress.closed.expect("combined"));
    assert_eq!((closed.outcome, closed.culprits), (Outcome::Combined, vec![index(2)]));
    assert!(is_unlocked(&fleet, 1));
}

#[test]
fn n07_each_of_two_corrupt_answers_is_blamed() {
    let mut fleet = Fleet::ready();
    for n in [1, 3] {
        fleet.node(n).corrupt_answers(true).expect("set");
    }
    let (_, request) = fleet.open_session(1);
    let grant = fleet.grant(&request, &[1, 2, 3, 4, 5]);
    let progress: Vec<_> = [1, 2, 3, 4, 5]
        .map(|n| fleet.node(1).receive(&fleet.answer(n, &grant)).expect("taken"))
        .into_iter()
        .collect();
    assert_eq!(progress[2].culprits, [(index(1), node_id(1)), (index(3), node_id(3))]);
    assert!(progress[3].closed.is_none() && progress[4].closed.is_some());
}

#[test]
fn n08_fewer_than_k_members_unlock_nothing() {
    let mut fleet = Fleet::ready();
    let (_, got) = answers(&mut fleet);
    for answer in &got[..2] {
        assert!(fleet.node(1).receive(answer).expect("taken").closed.is_none());
    }
    refused(fleet.node(1).receive(&got[0]), Code::Replayed);
    assert!(!is_unlocked(&fleet, 1));
    // A third voice from outside the committee, and a member with another's index, count for nothing.
    let third = said::<Answer>(&got[2]);
    let stranger = fleet.forge("node-6", third.clone());
    refused(fleet.node(1).receive(&stranger), Code::NotAMember);
    let usurper = fleet.forge("node-2", third.clone());
    refused(fleet.node(1).receive(&usurper), Code::NotAMember);
    let nowhere = fleet.forge("node-3", Answer { index: index(9), ..third });
    refused(fleet.node(1).receive(&nowhere), Code::NotAMember);
    assert!(!is_unlocked(&fleet, 1));
    fleet.node(1).receive(&got[2]).expect("taken");
    assert!(is_unlocked(&fleet, 1));
}

#[test]
fn n09_an_answer_counts_in_its_own_epoch_configuration_and_session_only() {
    let mut fleet = Fleet::ready();
    let (_, got) = answers(&mut fleet);
    let honest = said::<Answer>(&got[1]);
    let node = fleet.node(1);
    let forge = |change: fn(&mut Answer)| {
        let mut answer = honest.clone();
        change(&mut answer);
        fleet.forge("node-2", answer)
    };
    refused(node.receive(&forge(|a| a.epoch = Epoch(2))), Code::WrongEpoch);
    refused(node.receive(&forge(|a| a.configuration = Hash([1; 32]))), Code::WrongEpoch);
    refused(node.receive(&forge(|a| a.request = Hash([1; 32]))), Code::Replayed);
    let elsewhere = forge(|a| a.domain = DomainId::new("other").expect("a label"));
    refused(node.receive(&elsewhere), Code::Replayed);
    refused(node.receive(&forge(|a| a.session = SessionId([1; 16]))), Code::NoSession);
    // The sealed shard of another session opens nothing, whatever the statement around it says.
    let (other, _) = fleet.open_session(1);
    let moved = fleet.forge("node-2", Answer { session: other, ..honest.clone() });
    refused(node.receive(&moved), Code::Replayed);
    // Nor does another holder's, under one's own name and index.
    let borrowed = Answer { sealed: said::<Answer>(&got[2]).sealed, ..honest.clone() };
    refused(node.receive(&fleet.forge("node-2", borrowed)), Code::NotOpened);
    let garbage = forge(|a| *a.sealed.0.last_mut().expect("bytes") ^= 1);
    let e = refused(node.receive(&garbage), Code::NotOpened);
    assert_eq!(e.culprits, [node_id(2)]);
    for answer in &got {
        node.receive(answer).expect("none of it ended the session");
    }
    assert!(is_unlocked(&fleet, 1));
}

#[test]
fn n48_a_request_for_another_epoch_gets_no_shard() {
    let mut fleet = Fleet::ready();
    let (_, request) = fleet.open_session(1);
    let honest = said::<SessionRequest>(&request);
    for (request, reason) in [
        (SessionRequest { epoch: Epoch(2), ..honest.clone() }, "wrong_epoch"),
        (SessionRequest { configuration: Hash([1; 32]), ..honest.clone() }, "wrong_epoch"),
        (SessionRequest { purpose: "backup".to_owned(), ..honest }, "not_authorized"),
    ] {
        let request = fleet.forge("node-1", request);
        let grant = fleet.grant(&request, &[2]);
        assert_eq!(fleet.refusal(2, &grant).reason, reason);
    }
}

#[test]
fn n55_a_hub_neither_invents_nor_redirects_a_request() {
    let mut fleet = Fleet::ready();
    let (_, request) = fleet.open_session(1);
    let honest = said::<SessionRequest>(&request);
    // As itself, and as a module outside the domain.
    for outsider in ["hub", "node-6"] {
        let request = fleet.forge(outsider, honest.clone());
        let grant = fleet.grant(&request, &[2]);
        assert_eq!(fleet.refusal(2, &grant).reason, "not_a_member");
    }
    // In a member's name, with the hub's own key.
    let altered = fleet.forge_as("hub", "node-1", honest);
    let called = vec![Called { index: index(2), node: node_id(2), term: 1, fence: 50 }];
    let grant = Grant {
        fleet: fleet.operator.fleet(),
        request: quorate_core::encoding::Bytes(altered),
        called: called.clone(),
    };
    refused(fleet.node(2).answer(&fleet.forge("hub", grant.clone())), Code::BadSignature);
    // Nobody else grants.
    let grant = Grant { request: quorate_core::encoding::Bytes(request.clone()), ..grant };
    refused(fleet.node(2).answer(&fleet.forge("node-3", grant)), Code::NotAuthorized);
    // A grant that calls nobody here, or an index that is not here.
    let elsewhere = fleet.grant(&request, &[3]);
    refused(fleet.node(2).answer(&elsewhere), Code::WrongRecipient);
    refused(
        fleet.node(2).answer(&fleet.hub.grant(&request, Vec::new()).expect("granted")),
        Code::WrongRecipient,
    );
    // Its requester reads whom it calls, and gives nothing.
    let read = fleet.node(1).answer(&elsewhere).expect("read");
    assert_eq!((read.requester, read.called.len(), read.given.len()), (node_id(1), 1, 0));
    let wrong = vec![Called { index: index(3), ..called[0].clone() }];
    let wrong = fleet.hub.grant(&request, wrong).expect("granted");
    assert_eq!(fleet.refusal(2, &wrong).reason, "bad_index");
    // An honest answer serves its requester only.
    let grant = fleet.grant(&request, &[2]);
    let answer = fleet.answer(2, &grant);
    refused(fleet.node(4).receive(&answer), Code::NoSession);
    fleet.node(1).receive(&answer).expect("taken");
}

#[test]
fn n55_a_request_signed_again_by_another_member_harms_no_honest_holder() {
    let mut fleet = Fleet::ready();
    let (_, request) = fleet.open_session(1);
    // node-4, with the hub, signs node-1's request as its own: session, key and all.
    let stolen = fleet.forge("node-4", said::<SessionRequest>(&request));
    let grant = fleet.grant(&stolen, &[2]);
    let answer = fleet.answer(2, &grant);
    let e = refused(fleet.node(1).receive(&answer), Code::Replayed);
    assert!(e.culprits.is_empty(), "node-2 answered honestly");
}

#[test]
fn n56_nothing_is_answered_or_taken_twice() {
    let mut fleet = Fleet::ready();
    let (session, request) = fleet.open_session(1);
    let grant = fleet.grant(&request, &[1, 2, 3]);
    let got: Vec<_> = [1, 2, 3].iter().map(|n| fleet.answer(*n, &grant)).collect();
    // The grant again; the request again under a fresh grant; both while the slot is free and while not.
    assert_eq!(fleet.refusal(2, &grant).reason, "replayed");
    let again = fleet.grant(&request, &[2]);
    assert_eq!(fleet.refusal(2, &again).reason, "replayed");
    fleet.clock.advance(SLOT_TTL);
    let again = fleet.grant(&request, &[2]);
    assert_eq!(fleet.refusal(2, &again).reason, "replayed");
    // The answer again, in its session and after it.
    fleet.node(1).receive(&got[0]).expect("taken");
    refused(fleet.node(1).receive(&got[0]), Code::Replayed);
    fleet.node(1).receive(&got[1]).expect("taken");
    fleet.node(1).receive(&got[2]).expect("taken");
    refused(fleet.node(1).receive(&got[2]), Code::NoSession);
    refused(fleet.node(1).abandon(session, Outcome::Expired), Code::NoSession);
}

#[test]
fn n56_nothing_is_answered_or_taken_twice_after_a_restart() {
    let mut fleet = Fleet::ready();
    let (_, got) = answers(&mut fleet);
    let (_, request) = fleet.open_session(1);
    fleet.clock.advance(SLOT_TTL);
    let grant = fleet.grant(&request, &[1, 2, 3]);
    fleet.answer(2, &grant);
    fleet.crash(2);
    assert_eq!(fleet.refusal(2, &grant).reason, "stale_fence");
    fleet.reopen(1);
    refused(fleet.node(1).receive(&got[0]), Code::NoSession);
}

#[test]
fn n57_a_slot_is_freed_by_its_requester_or_by_time() {
    let mut fleet = Fleet::ready();
    let (session, request) = fleet.open_session(1);
    let grant = fleet.grant(&request, &[2]);
    fleet.answer(2, &grant);
    let (_, other) = fleet.open_session(4);
    let grant = fleet.grant(&other, &[2]);
    assert_eq!(fleet.refusal(2, &grant).reason, "slot_busy");
    // Another member's word frees nothing, nor does a stranger's, nor the requester's for another session.
    let closed = fleet.node(1).abandon(session, Outcome::Expired).expect("closed");
    let honest = said::<Closed>(&closed);
    let forged = fleet.forge("node-4", honest.clone());
    fleet.node(2).close_session(&forged).expect("heard");
    let another = fleet.forge("node-1", Closed { session: SessionId([1; 16]), ..honest.clone() });
    fleet.node(2).close_session(&another).expect("heard");
    refused(fleet.node(2).close_session(&fleet.forge("node-6", honest)), Code::NotAMember);
    let grant = fleet.grant(&other, &[2]);
    assert_eq!(fleet.refusal(2, &grant).reason, "slot_busy");
    // The requester's own does; so does time, and nothing before it.
    fleet.node(2).close_session(&closed).expect("heard");
    let grant = fleet.grant(&other, &[2]);
    fleet.answer(2, &grant);
    let (_, third) = fleet.open_session(5);
    fleet.clock.advance(SLOT_TTL.checked_sub(Duration::from_millis(1)).unwrap());
    let grant = fleet.grant(&third, &[2]);
    assert_eq!(fleet.refusal(2, &grant).reason, "slot_busy");
    fleet.clock.advance(Duration::from_millis(1));
    let grant = fleet.grant(&third, &[2]);
    fleet.answer(2, &grant);
    // The slot of one shard is its own: others were free all along.
    let (_, fourth) = fleet.open_session(1);
    let grant = fleet.grant(&fourth, &[2, 3]);
    assert_eq!(fleet.refusal(2, &grant).reason, "slot_busy");
    fleet.answer(3, &grant);
}

#[test]
fn n57_an_older_grant_finds_no_shard() {
    let fleet = Fleet::ready();
    let (_, late) = fleet.open_session(1);
    let late = fleet.grant_at(&late, &[2], 10);
    let (_, early) = fleet.open_session(4);
    fleet.answer(2, &fleet.grant_at(&early, &[2], 11));
    fleet.clock.advance(SLOT_TTL);
    let refusal = fleet.refusal(2, &late);
    assert_eq!((refusal.reason.as_str(), refusal.term, refusal.fence), ("stale_fence", 1, 11));
}

#[test]
fn n58_a_crash_never_refunds_a_use() {
    let mut fleet = Fleet::ready();
    let mut given = 0;
    let mut fence = 0;
    let mut answer = |fleet: &mut Fleet| {
        fence += 1000;
        let (session, request) = fleet.open_session(1);
        let answer = fleet.answer(2, &fleet.grant_at(&request, &[2], fence));
        let closed = fleet.node(1).abandon(session, Outcome::Expired).expect("closed");
        fleet.node(2).close_session(&closed).expect("heard");
        given += 1;
        let uses = said::<Answer>(&answer).uses;
        assert!(uses >= given, "{given} answers left, {uses} are counted");
        uses
    };
    assert_eq!(answer(&mut fleet), 1);
    let mut before = 1;
    for round in 0..5 {
        // More than one block of uses in one life, and one use in the next.
        for _ in 0..if round % 2 == 0 { 70 } else { 1 } {
            before = answer(&mut fleet);
        }
        fleet.crash(2);
        let after = answer(&mut fleet);
        assert!(after > before, "a use was counted twice");
        before = after;
    }
}

#[test]
fn n58_a_restart_renews_no_limit() {
    let mut fleet = Fleet::founded();
    let limits = Limits { uses_per_epoch: 2, ..charter().limits };
    let tight =
        fleet.operator.charter(Charter { limits, ..charter() }, Some(&fleet.charter)).expect("signed");
    fleet.tell_all(std::slice::from_ref(&tight));
    fleet.charter = tight;
    fleet.create_epoch(1);
    for _ in 0..2 {
        fleet.clock.advance(SLOT_TTL);
        let (_, request) = fleet.open_session(1);
        let grant = fleet.grant(&request, &[2]);
        fleet.answer(2, &grant);
    }
    fleet.clock.advance(SLOT_TTL);
    let (_, request) = fleet.open_session(1);
    let grant = fleet.grant(&request, &[2]);
    assert_eq!(fleet.refusal(2, &grant).reason, "use_limit");
    fleet.crash(2);
    let later = fleet.grant_at(&request, &[2], 10_000);
    assert_eq!(fleet.refusal(2, &later).reason, "use_limit");
}

#[test]
fn a_rate_holds_back_a_burst() {
    let mut fleet = Fleet::founded();
    let limits = Limits { rate_per_second: 1, burst: 2, ..charter().limits };
    let slow = fleet.operator.charter(Charter { limits, ..charter() }, Some(&fleet.charter)).expect("signed");
    fleet.tell_all(std::slice::from_ref(&slow));
    fleet.charter = slow;
    fleet.create_epoch(1);
    let ask = |fleet: &mut Fleet| {
        let (session, request) = fleet.open_session(1);
        let closed = fleet.node(1).abandon(session, Outcome::Expired).expect("closed");
        (fleet.grant(&request, &[2]), closed)
    };
    for _ in 0..2 {
        let (grant, closed) = ask(&mut fleet);
        fleet.answer(2, &grant);
        fleet.node(2).close_session(&closed).expect("heard");
    }
    let (grant, _) = ask(&mut fleet);
    assert_eq!(fleet.refusal(2, &grant).reason, "rate_limited");
    fleet.clock.advance(Duration::from_secs(1));
    let (grant, _) = ask(&mut fleet);
    fleet.answer(2, &grant);
}

#[test]
fn n97_a_jump_of_fences_is_refused_and_exhausts_nothing() {
    let fleet = Fleet::ready();
    let (_, request) = fleet.open_session(1);
    for far in [u64::MAX, (1 << 32) + 1] {
        let refusal = fleet.refusal(2, &fleet.grant_at(&request, &[2], far));
        assert_eq!((refusal.reason.as_str(), refusal.fence), ("stale_fence", 0));
    }
    fleet.answer(2, &fleet.grant_at(&request, &[2], 1 << 32));
    let (_, request) = fleet.open_session(4);
    fleet.clock.advance(SLOT_TTL);
    fleet.answer(2, &fleet.grant_at(&request, &[2], (1 << 32) + 1));
}

#[test]
fn n97_a_jump_of_terms_is_refused_and_exhausts_nothing() {
    let mut fleet = Fleet::ready();
    let (_, request) = fleet.open_session(1);
    // No honest hub follows a term further than 2^32: a shard that took such a term would be lost to it.
    for far in [u64::MAX, (1 << 32) + 1] {
        let refusal = fleet.refusal(2, &fleet.grant_in(&request, &[2], far, 1));
        assert_eq!((refusal.reason.as_str(), refusal.term, refusal.fence), ("stale_fence", 0, 0));
    }
    fleet.answer(2, &fleet.grant_in(&request, &[2], 1 << 32, 1));
    // Durably: the step counts from the highest term seen, also after a crash.
    fleet.crash(2);
    let (_, request) = fleet.open_session(4);
    let refusal = fleet.refusal(2, &fleet.grant_in(&request, &[2], (1 << 33) + 1, 1));
    assert_eq!((refusal.reason.as_str(), refusal.term), ("stale_fence", 1 << 32));
    fleet.answer(2, &fleet.grant_in(&request, &[2], (1 << 32) + 1, 1));
}

#[test]
fn n62_half_open_sessions_are_bounded_and_end_by_themselves() {
    let fleet = Fleet::ready();
    let first = fleet.open_session(1).0;
    for _ in 1..256 {
        fleet.open_session(1);
    }
    refused(fleet.node(1).open_session(&domain()), Code::RateLimited);
    fleet.clock.advance(Duration::from_secs(5));
    fleet.open_session(1);
    refused(fleet.node(1).abandon(first, Outcome::Expired), Code::NoSession);
}

#[test]
fn only_a_holder_of_a_current_epoch_opens_a_session() {
    let fleet = Fleet::founded();
    refused(fleet.node(1).open_session(&domain()), Code::NotAMember);
    let c = fleet.deal_epoch(1);
    fleet.prepare(&c);
    refused(fleet.node(1).open_session(&domain()), Code::NotAMember);
    refused(fleet.hub.open_session(&domain()), Code::NotAMember);
    refused(fleet.node(6).open_session(&domain()), Code::NotAMember);
}

#[test]
fn a_prepared_epoch_gives_no_shard() {
    let mut fleet = Fleet::founded();
    let c = fleet.deal_epoch(1);
    let receipts = fleet.prepare(&c);
    fleet.node(1).activate(&c.configuration, &receipts, &[]).expect("activated");
    let (_, request) = fleet.open_session(1);
    let grant = fleet.grant(&request, &[2]);
    let refusal = fleet.refusal(2, &grant);
    assert_eq!((refusal.reason.as_str(), refusal.index), ("not_a_member", index(2)));
}

#[test]
fn a_module_that_begins_to_stop_drops_its_leases_and_sessions() {
    let mut fleet = Fleet::ready();
    let (_, got) = answers(&mut fleet);
    for answer in &got {
        fleet.node(1).receive(answer).expect("taken");
    }
    assert!(is_unlocked(&fleet, 1));
    fleet.clock.advance(SLOT_TTL);
    let (_, waiting) = answers(&mut fleet);
    fleet.node(1).drop_uses().expect("dropped");
    assert!(!is_unlocked(&fleet, 1));
    refused(fleet.node(1).receive(&waiting[0]), Code::NoSession);
}
