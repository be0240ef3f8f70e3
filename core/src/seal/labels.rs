//! Labels of statements: every kind of signed message has its own, so that one never passes for
//! another. `statements!` declares a file's statements and lists their labels; [`ALL`] joins the lists
//! and does not compile when a label is malformed or used twice.
//!
//! Not here: the statements themselves (`seal::fleet`, `module::messages`).

/// The list of each file that declares statements.
pub const ALL: &[&[&str]] = &[super::fleet::LABELS, crate::module::messages::LABELS];

const _: () = assert!(all_well_formed(ALL), "a label is not quorate/v1/<protocol>/<message>");
const _: () = assert!(all_distinct(ALL), "two statements have one label");

/// Whether every label is `quorate/v1/<protocol>/<message>` in lower-case letters and hyphens.
#[must_use]
pub const fn all_well_formed(lists: &[&[&str]]) -> bool {
    let mut i = 0;
    while i < lists.len() {
        let mut j = 0;
        while j < lists[i].len() {
            if !well_formed(lists[i][j].as_bytes()) {
                return false;
            }
            j += 1;
        }
        i += 1;
    }
    true
}

/// Whether no label occurs twice, in one list or in two.
#[must_use]
pub const fn all_distinct(lists: &[&[&str]]) -> bool {
    let mut i = 0;
    while i < lists.len() {
        let mut j = 0;
        while j < lists[i].len() {
            if count(lists, lists[i][j].as_bytes()) != 1 {
                return false;
            }
            j += 1;
        }
        i += 1;
    }
    true
}

const fn well_formed(label: &[u8]) -> bool {
    const PREFIX: &[u8] = b"quorate/v1/";
    if label.len() <= PREFIX.len() {
        return false;
    }
    let mut slashes = 0;
    let mut part = 0;
    let mut at = 0;
    while at < label.len() {
        let c = label[at];
        if at < PREFIX.len() {
            if c != PREFIX[at] {
                return false;
            }
        } else if c == b'/' {
            if part == 0 {
                return false;
            }
            slashes += 1;
            part = 0;
        } else if c.is_ascii_lowercase() || c == b'-' {
            part += 1;
        } else {
            return false;
        }
        at += 1;
    }
    slashes == 1 && part > 0
}

const fn count(lists: &[&[&str]], label: &[u8]) -> usize {
    let mut found = 0;
    let mut i = 0;
    while i < lists.len() {
        let mut j = 0;
        while j < lists[i].len() {
            if same(lists[i][j].as_bytes(), label) {
                found += 1;
            }
            j += 1;
        }
        i += 1;
    }
    found
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_label_for_two_statements_is_found() {
        assert!(all_distinct(ALL));
        assert!(all_distinct(&[&["quorate/v1/a/b"], &["quorate/v1/a/c"]]));
        assert!(!all_distinct(&[&["quorate/v1/a/b", "quorate/v1/a/b"]]));
        assert!(!all_distinct(&[&["quorate/v1/a/b"], &["quorate/v1/a/c", "quorate/v1/a/b"]]));
    }

    #[test]
    fn a_label_names_version_protocol_and_message() {
        assert!(all_well_formed(ALL));
        assert!(all_well_formed(&[&["quorate/v1/epoch-change/plan"]]));
        for bad in [
            "",
            "quorate/v1/",
            "quorate/v1/plan",
            "quorate/v1/epoch/",
            "quorate/v1//plan",
            "quorate/v1/epoch/plan/more",
            "quorate/v2/epoch/plan",
            "quorate/v1/Epoch/plan",
            "quorate/v1/epoch/plan ",
        ] {
            assert!(!all_well_formed(&[&[bad]]), "{bad}");
        }
    }
}
