//! Labels of statements: every kind of signed message has its own, so that one never passes for
//! another. The crate does not compile when a label is malformed or listed twice; a test compares the
//! list with the declarations in the source.
//!
//! Not here: the statements themselves (`seal::fleet`, `module::messages`).

/// Every label, once: `quorate/v1/<protocol>/<message>`.
pub const ALL: &[&str] = &["quorate/v1/fleet/message"];

const _: () = assert!(all_well_formed(ALL), "a label is not quorate/v1/<protocol>/<message>");
const _: () = assert!(all_distinct(ALL), "two statements have one label");

/// Whether every label is `quorate/v1/<protocol>/<message>` in lower-case letters and hyphens.
const fn all_well_formed(labels: &[&str]) -> bool {
    let mut i = 0;
    while i < labels.len() {
        if !well_formed(labels[i].as_bytes()) {
            return false;
        }
        i += 1;
    }
    true
}

const fn all_distinct(labels: &[&str]) -> bool {
    let mut i = 0;
    while i < labels.len() {
        let mut j = 0;
        while j < i {
            if same(labels[i].as_bytes(), labels[j].as_bytes()) {
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
    let mut slashes = 0;
    let mut part = 0;
    let mut at = 0;
    while at < label.len() {
        let c = label[at];
        if at < PREFIX.len() {
            if c != PREFIX[at] {
                return false;
            }
        } else if c == b'/' && part > 0 {
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
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The labels of all `statement!` declarations below `dir`, tests' own left out.
    fn declared(dir: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(dir).expect("the source is readable") {
            let path = entry.expect("the source is readable").path();
            if path.is_dir() {
                declared(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("the source is readable");
                into.extend(text.lines().filter_map(|line| {
                    let (_, rest) = line.trim().strip_prefix("pub struct ")?.split_once(" = \"")?;
                    let label = rest.strip_suffix("\" {")?;
                    (!label.starts_with("quorate/v1/test/")).then(|| label.to_owned())
                }));
            }
        }
    }

    #[test]
    fn every_declared_statement_has_a_label_of_its_own_in_the_list() {
        let mut found = Vec::new();
        declared(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        found.sort();
        let mut listed = ALL.to_vec();
        listed.sort_unstable();
        assert!(!listed.is_empty());
        assert_eq!(found, listed, "declared statements (left) and seal::labels::ALL (right) differ");
    }

    #[test]
    fn one_label_for_two_statements_is_found() {
        assert!(all_distinct(&["quorate/v1/a/b", "quorate/v1/a/c"]));
        assert!(!all_distinct(&["quorate/v1/a/b", "quorate/v1/a/c", "quorate/v1/a/b"]));
    }

    #[test]
    fn a_label_names_version_protocol_and_message() {
        assert!(all_well_formed(&["quorate/v1/epoch-change/plan"]));
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
            assert!(!all_well_formed(&["quorate/v1/a/b", bad]), "{bad}");
        }
    }
}
