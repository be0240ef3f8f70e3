//! How deep commands go: not deeper than what is wiped after each.

use std::thread;

use quorate_core::memory::{STACK, wiping_stack};

use crate::fixture::Fleet;

/// A thread's own needs, and the frames of the test itself.
const ROOM: usize = 16 * 1024;

#[test]
fn n87_no_command_goes_deeper_than_the_stack_that_is_wiped() {
    let whole = || {
        let mut fleet = Fleet::ready();
        let (_, request) = fleet.open_session(1);
        let grant = fleet.grant(&request, &[1, 2, 3]);
        for n in [1, 2, 3] {
            let answer = fleet.answer(n, &grant);
            fleet.node(1).receive(&answer).expect("taken");
        }
        crate::complaints::dispute(&fleet);
    };
    // It overflows its stack, and with it this whole program, where one does.
    let ran = thread::Builder::new().stack_size(STACK + ROOM).spawn(whole).expect("a thread").join();
    assert!(ran.is_ok());
}

#[test]
fn what_a_command_returns_outlives_the_wiping() {
    let made = wiping_stack(|| [7_u8; 4096]);
    assert!(made.iter().all(|b| *b == 7));
}
