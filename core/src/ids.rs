//! Identifiers as types: parsed once at the edge, never bare strings inside.

use std::fmt;

use minicbor::{Decoder, Encoder};

use crate::encoding::{View, Wire};
use crate::error::{Code, Result, fail};

/// Lower-case letters, digits and inner hyphens, 1 to 63 characters (a DNS label, RFC 1123 §2.1).
fn is_label(text: &str) -> bool {
    let ok = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(ok) && !text.starts_with('-') && !text.ends_with('-')
}

/// The name of one sharing of a domain: a label, and for a key version from 2 on, `.` and its canonical number.
fn is_sharing(text: &str) -> bool {
    match text.split_once('.') {
        None => is_label(text),
        Some((base, version)) => {
            let parsed = version.parse::<u64>().is_ok_and(|v| v >= 2 && v.to_string() == version);
            is_label(base) && parsed
        }
    }
}

macro_rules! name_type {
    ($(#[$m:meta])* $t:ident, $is:ident, $what:literal) => {
        $(#[$m])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $t(String);

        impl $t {
            /// # Errors
            /// `bad_encoding` for any other text.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                if $is(&text) {
                    return Ok(Self(text));
                }
                fail(Code::BadEncoding, concat!(stringify!($t), " is not ", $what))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Wire for $t {
            fn put(&self, to: &mut Encoder<Vec<u8>>) {
                self.0.put(to);
            }
            fn get(from: &mut Decoder<'_>) -> Result<Self> {
                Self::new(String::get(from)?)
            }
            fn view(&self) -> View {
                View::Text(self.0.clone())
            }
        }
    };
}

name_type!(
    /// A module's name in its fleet's roster; never used twice. The hub's is [`NodeId::hub`].
    NodeId, is_label, "1 to 63 of a-z, 0-9 and inner hyphens"
);
name_type!(
    /// A domain's name, which is its first key version's too; a later version, which is a sharing of its own, has
    /// its number behind: `default`, `default.2`.
    DomainId, is_sharing, "1 to 63 of a-z, 0-9 and inner hyphens, with a key version of 2 or more after a dot"
);

impl DomainId {
    /// Key version `version` of the domain that this one is of.
    ///
    /// # Errors
    /// `bad_encoding` for version 0.
    pub fn at_version(&self, version: u64) -> Result<Self> {
        match version {
            0 => fail(Code::BadEncoding, "key versions count from 1"),
            1 => Ok(self.base()),
            _ => Self::new(format!("{}.{version}", self.base())),
        }
    }

    /// The domain that this is a key version of: what charters, records and people name.
    #[must_use]
    pub fn base(&self) -> Self {
        Self(self.0.split_once('.').map_or(&*self.0, |(base, _)| base).to_owned())
    }

    #[must_use]
    pub fn is_base(&self) -> bool {
        !self.0.contains('.')
    }

    #[must_use]
    pub fn key_version(&self) -> u64 {
        self.0.split_once('.').map_or(1, |(_, version)| version.parse().expect("checked when it was made"))
    }

    /// # Errors
    /// `bad_encoding` for one key version's name, where a domain is to be named.
    pub fn require_base(&self) -> Result<()> {
        if self.is_base() {
            return Ok(());
        }
        fail(Code::BadEncoding, format!("{self} is one key version's name; a domain's has no dot"))
    }
}

impl NodeId {
    #[must_use]
    pub fn hub() -> Self {
        Self("hub".to_owned())
    }

    /// The name that operator signatures carry; no module may bear it.
    #[must_use]
    pub fn operator() -> Self {
        Self("operator".to_owned())
    }
}

macro_rules! bytes_type {
    ($(#[$m:meta])* $t:ident, $n:literal) => {
        $(#[$m])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $t(pub [u8; $n]);

        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Wire for $t {
            fn put(&self, to: &mut Encoder<Vec<u8>>) {
                self.0.put(to);
            }
            fn get(from: &mut Decoder<'_>) -> Result<Self> {
                Wire::get(from).map(Self)
            }
            fn view(&self) -> View {
                View::Bytes(self.0.to_vec())
            }
        }
    };
}

bytes_type!(
    /// A fleet, named at random when it is made.
    FleetId, 16
);
bytes_type!(
    /// One quorum operation, named at random by its requester.
    SessionId, 16
);
bytes_type!(
    /// SHA-256 of a record, as `encoding::digest` makes it.
    Hash, 32
);

/// Generation of one domain's sharing, counted from 1; 0 stands for "none yet" in plans and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Wire for Epoch {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        self.0.put(to);
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        Wire::get(from).map(Self)
    }
    fn view(&self) -> View {
        View::Int(self.0)
    }
}

/// The x coordinate of a share: 1 to 255, fixed by the signed committee, never chosen by a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareIndex(u8);

impl ShareIndex {
    /// # Errors
    /// `bad_index` for 0 (whose share would be the secret itself) and for anything over 255.
    pub fn new(x: u64) -> Result<Self> {
        match u8::try_from(x) {
            Ok(x) if x > 0 => Ok(Self(x)),
            _ => fail(Code::BadIndex, format!("a share index is 1 to 255, got {x}")),
        }
    }

    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Wire for ShareIndex {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        self.0.put(to);
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        Self::new(u64::get(from)?)
    }
    fn view(&self) -> View {
        View::Int(u64::from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_version_is_named_in_one_way() {
        for good in ["default", "default.2", "a.18446744073709551615"] {
            assert_eq!(DomainId::new(good).expect("a name").as_str(), good);
        }
        for bad in
            ["", ".2", "a.", "a.0", "a.1", "a.02", "a.+2", "a.2.3", "a.18446744073709551616", "A", "a.b"]
        {
            assert_eq!(DomainId::new(bad).expect_err(bad).code, Code::BadEncoding);
        }
        assert!(NodeId::new("node.2").is_err());
        let second = DomainId::new("default.2").expect("a name");
        assert_eq!((second.base().as_str(), second.key_version()), ("default", 2));
        assert_eq!(second.at_version(3).expect("a version").as_str(), "default.3");
        assert_eq!(second.at_version(1).expect("a version"), second.base());
        assert!(second.at_version(0).is_err() && second.require_base().is_err());
    }
}
