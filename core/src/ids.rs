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

macro_rules! name_type {
    ($(#[$m:meta])* $t:ident) => {
        $(#[$m])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $t(String);

        impl $t {
            /// # Errors
            /// `bad_encoding` unless the text is a DNS label.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                if is_label(&text) {
                    return Ok(Self(text));
                }
                fail(Code::BadEncoding, concat!(stringify!($t), " is not 1 to 63 of a-z, 0-9 and inner hyphens"))
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
    NodeId
);
name_type!(
    /// A domain's name.
    DomainId
);

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
