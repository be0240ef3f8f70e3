//! What the process does to keep its memory to itself: no core dumps, no debugger of the same user.
//!
//! Not here: the locked arena (`memory`). Root, and whoever controls the kernel, can read any process.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::error::{Code, Error, Result};

/// Forbids core dumps, for good and for every child, and makes the process not dumpable, so that
/// another process of the same user can neither trace it nor read its `/proc/<pid>/mem` (prctl(2)).
/// Call it before there is a secret, after any change of user (which makes a process dumpable again).
///
/// Both are needed: a `core_pattern` that is a pipe gets the dump whatever the limit says (core(5)),
/// and an `execve` makes the child dumpable again, while the limit stays.
///
/// # Errors
/// `memory_lock` when the system refuses; the process should not start.
pub fn harden_process() -> Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|e| refused("forbid core dumps (RLIMIT_CORE)", e))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| refused("shut debuggers out (PR_SET_DUMPABLE)", e))
}

fn refused(what: &str, why: Errno) -> Error {
    Error::new(
        Code::MemoryLock,
        format!("cannot {what}: {why}; a sandbox or seccomp profile must allow prlimit64 and prctl"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_a_code_and_says_which_measure_failed() {
        let error = refused("forbid core dumps (RLIMIT_CORE)", Errno::PERM);
        assert_eq!(error.code, Code::MemoryLock);
        assert!(error.what.contains("RLIMIT_CORE") && error.what.contains("seccomp"));
    }
}
