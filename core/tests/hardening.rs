//! What `harden_process` leaves behind, read back from the kernel. A test program of its own: the
//! measures cannot be undone, and other tests read their own memory.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use quorate_core::hardening::harden_process;
use rustix::process::{DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, setrlimit};

/// Soft and hard core limit, as `/proc` shows them.
fn core_limits(limits: &str) -> Vec<&str> {
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a core limit");
    line["Max core file size".len()..].split_whitespace().take(2).collect()
}

#[test]
fn n86_a_hardened_process_and_its_children_leave_no_core_and_admit_no_debugger() {
    // From a state that the call has to change: else this could not fail where cores are off anyway.
    let before = getrlimit(Resource::Core);
    setrlimit(Resource::Core, Rlimit { current: before.maximum, ..before }).expect("up to the hard limit");
    assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));

    harden_process().expect("the system allows it");

    assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
    assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
    assert_eq!(core_limits(&fs::read_to_string("/proc/self/limits").expect("readable")), ["0", "0"]);

    let child = Command::new("cat").arg("/proc/self/limits").output().expect("cat runs");
    assert_eq!(core_limits(&String::from_utf8(child.stdout).expect("text")), ["0", "0"]);
    let crashed = Command::new("sh").args(["-c", "kill -SEGV $$"]).status().expect("sh runs");
    assert!(crashed.signal().is_some() && !crashed.core_dumped(), "{crashed:?}");

    harden_process().expect("a second call finds it done");
}
