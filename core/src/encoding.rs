//! Canonical CBOR (RFC 8949 §4.2.1) for every signed, hashed or stored structure.
//!
//! Structures are CBOR arrays in field order, so an encoding has no names to order and no delimiter
//! to move. A decoder reads strictly, then re-encodes and compares: one value, one encoding.
//! `record!` makes a structure, its coding, and its public view (for readers outside the core).

use minicbor::{Decoder, Encoder};
use sha2_digest::sha256;

use crate::error::{Code, Error, Result, fail};

/// The largest encoding that is read, in bytes.
pub const MAX_LEN: usize = 1 << 20;
/// The deepest nesting of a value without a declared shape.
pub const MAX_DEPTH: usize = 8;
/// The longest list that is read.
pub const MAX_ITEMS: u64 = 4096;

/// A value with exactly one encoding.
pub trait Wire: Sized {
    fn put(&self, to: &mut Encoder<Vec<u8>>);
    /// # Errors
    /// `bad_encoding` when the bytes are not this value's canonical form.
    fn get(from: &mut Decoder<'_>) -> Result<Self>;
    fn view(&self) -> View;
}

/// A public structure as a reader outside the core sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    Nil,
    Bool(bool),
    Int(u64),
    Bytes(Vec<u8>),
    Text(String),
    List(Vec<View>),
    Record(Vec<(&'static str, View)>),
}

impl View {
    fn get_at(from: &mut Decoder<'_>, depth: usize) -> Result<Self> {
        use minicbor::data::Type;
        if depth == 0 {
            return fail(Code::TooLarge, "a message is nested too deeply");
        }
        match read(from.datatype())? {
            Type::Null => read(from.null()).map(|()| Self::Nil),
            Type::Bool => read(from.bool()).map(Self::Bool),
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => read(from.u64()).map(Self::Int),
            Type::Bytes => Bytes::get(from).map(|b| Self::Bytes(b.0)),
            Type::String => String::get(from).map(Self::Text),
            Type::Array => match read(from.array())? {
                Some(n) if n <= MAX_ITEMS => {
                    (0..n).map(|_| Self::get_at(from, depth - 1)).collect::<Result<_>>().map(Self::List)
                }
                _ => fail(
                    Code::TooLarge,
                    format!("a list is over the limit of {MAX_ITEMS} items, or has no length"),
                ),
            },
            other => fail(Code::BadEncoding, format!("{other} has no place in a message")),
        }
    }
}

/// A value without a declared shape: bodies of fleet messages, which Python reads and writes.
impl Wire for View {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        match self {
            Self::Nil => {
                put(to.null());
            }
            Self::Bool(b) => b.put(to),
            Self::Int(n) => n.put(to),
            Self::Bytes(b) => {
                put(to.bytes(b));
            }
            Self::Text(t) => t.put(to),
            Self::List(items) => items.put(to),
            Self::Record(fields) => {
                put(to.array(fields.len() as u64));
                for (_, value) in fields {
                    value.put(to);
                }
            }
        }
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        Self::get_at(from, MAX_DEPTH)
    }
    fn view(&self) -> View {
        self.clone()
    }
}

/// Encodes `value` canonically.
#[must_use]
pub fn encode<T: Wire>(value: &T) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    value.put(&mut e);
    e.into_writer()
}

/// Decodes exactly one canonical value.
///
/// # Errors
/// `too_large` past [`MAX_LEN`]; `bad_encoding` for anything but the canonical form.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T> {
    if bytes.len() > MAX_LEN {
        return fail(
            Code::TooLarge,
            format!("a message of {} bytes is over the limit of {MAX_LEN}", bytes.len()),
        );
    }
    let mut d = Decoder::new(bytes);
    let value = T::get(&mut d)?;
    if encode(&value) != bytes {
        return fail(Code::BadEncoding, "not in canonical form");
    }
    Ok(value)
}

/// SHA-256 over the CBOR array [label, bytes]: the hash by which records name each other.
#[must_use]
pub fn digest(label: &str, bytes: &[u8]) -> [u8; 32] {
    let mut e = Encoder::new(Vec::new());
    put(e.array(2));
    put(e.str(label));
    put(e.bytes(bytes));
    sha256(&e.into_writer())
}

/// Compares byte strings in a time that depends on their lengths only.
#[must_use]
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(a, b).into()
}

mod sha2_digest {
    pub fn sha256(bytes: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
        out
    }
}

/// Writing CBOR to a `Vec` cannot fail; this says so in one place.
pub fn put<T, E: std::fmt::Display>(r: std::result::Result<T, E>) -> T {
    match r {
        Ok(v) => v,
        Err(e) => panic!("writing CBOR to memory failed: {e}"),
    }
}

/// Maps a CBOR reader's error.
///
/// # Errors
/// `bad_encoding`, with the reader's reason.
pub fn read<T>(r: std::result::Result<T, minicbor::decode::Error>) -> Result<T> {
    r.map_err(|e| Error::new(Code::BadEncoding, format!("malformed CBOR: {e}")))
}

/// Reads the head of an array of exactly `want` items.
///
/// # Errors
/// `bad_encoding` for another length or an indefinite one.
pub fn read_array(from: &mut Decoder<'_>, want: u64) -> Result<()> {
    match read(from.array())? {
        Some(n) if n == want => Ok(()),
        _ => fail(Code::BadEncoding, format!("expected an array of {want}")),
    }
}

macro_rules! wire_int {
    ($($t:ty => $m:ident),+) => {$(
        impl Wire for $t {
            fn put(&self, to: &mut Encoder<Vec<u8>>) { put(to.$m(*self)); }
            fn get(from: &mut Decoder<'_>) -> Result<Self> { read(from.$m()) }
            fn view(&self) -> View { View::Int(u64::from(*self)) }
        }
    )+};
}
wire_int!(u8 => u8, u16 => u16, u32 => u32, u64 => u64);

impl Wire for bool {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        put(to.bool(*self));
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        read(from.bool())
    }
    fn view(&self) -> View {
        View::Bool(*self)
    }
}

impl Wire for String {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        put(to.str(self));
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        Ok(read(from.str())?.to_owned())
    }
    fn view(&self) -> View {
        View::Text(self.clone())
    }
}

/// A byte string of any length up to [`MAX_LEN`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl Wire for Bytes {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        put(to.bytes(&self.0));
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        Ok(Self(read(from.bytes())?.to_vec()))
    }
    fn view(&self) -> View {
        View::Bytes(self.0.clone())
    }
}

impl<const N: usize> Wire for [u8; N] {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        put(to.bytes(self));
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        read(from.bytes())?
            .try_into()
            .map_err(|_| Error::new(Code::BadEncoding, format!("expected {N} bytes")))
    }
    fn view(&self) -> View {
        View::Bytes(self.to_vec())
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        put(to.array(self.len() as u64));
        for item in self {
            item.put(to);
        }
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        match read(from.array())? {
            Some(n) if n <= MAX_ITEMS => (0..n).map(|_| T::get(from)).collect(),
            Some(n) => fail(Code::TooLarge, format!("a list of {n} items is over the limit of {MAX_ITEMS}")),
            None => fail(Code::BadEncoding, "indefinite lengths are not canonical"),
        }
    }
    fn view(&self) -> View {
        View::List(self.iter().map(Wire::view).collect())
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, to: &mut Encoder<Vec<u8>>) {
        match self {
            Some(v) => v.put(to),
            None => {
                put(to.null());
            }
        }
    }
    fn get(from: &mut Decoder<'_>) -> Result<Self> {
        if read(from.datatype())? == minicbor::data::Type::Null {
            read(from.null())?;
            return Ok(None);
        }
        T::get(from).map(Some)
    }
    fn view(&self) -> View {
        self.as_ref().map_or(View::Nil, Wire::view)
    }
}

/// A structure that is coded as the CBOR array of its fields, in order.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $type:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $type),+ }

        impl $crate::encoding::Wire for $name {
            fn put(&self, to: &mut minicbor::Encoder<Vec<u8>>) {
                const FIELDS: &[&str] = &[$(stringify!($field)),+];
                $crate::encoding::put(to.array(FIELDS.len() as u64));
                $($crate::encoding::Wire::put(&self.$field, to);)+
            }
            fn get(from: &mut minicbor::Decoder<'_>) -> $crate::error::Result<Self> {
                const FIELDS: &[&str] = &[$(stringify!($field)),+];
                $crate::encoding::read_array(from, FIELDS.len() as u64)?;
                Ok(Self { $($field: $crate::encoding::Wire::get(from)?),+ })
            }
            fn view(&self) -> $crate::encoding::View {
                $crate::encoding::View::Record(vec![
                    $((stringify!($field), $crate::encoding::Wire::view(&self.$field))),+
                ])
            }
        }
    };
}

/// A closed set of words, coded as text.
#[macro_export]
macro_rules! words {
    ($(#[$m:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$m])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant),+ }

        impl $name {
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// # Errors
            /// `bad_encoding` for any other word.
            pub fn parse(text: &str) -> $crate::error::Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    other => $crate::error::fail(
                        $crate::error::Code::BadEncoding,
                        format!("{other:?} is not a {}", stringify!($name)),
                    ),
                }
            }
        }

        impl $crate::encoding::Wire for $name {
            fn put(&self, to: &mut minicbor::Encoder<Vec<u8>>) {
                $crate::encoding::Wire::put(&self.as_str().to_owned(), to);
            }
            fn get(from: &mut minicbor::Decoder<'_>) -> $crate::error::Result<Self> {
                Self::parse(&<String as $crate::encoding::Wire>::get(from)?)
            }
            fn view(&self) -> $crate::encoding::View {
                $crate::encoding::View::Text(self.as_str().to_owned())
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        /// Two fields.
        pub struct Pair { pub a: u64, pub b: Option<Bytes> }
    }

    #[test]
    fn a_record_is_the_array_of_its_fields() {
        let pair = Pair { a: 500, b: Some(Bytes(vec![1])) };
        let bytes = encode(&pair);
        assert_eq!(bytes, [0x82, 0x19, 0x01, 0xf4, 0x41, 0x01]);
        assert_eq!(decode::<Pair>(&bytes).expect("decodes"), pair);
    }

    #[test]
    fn anything_but_the_canonical_form_is_refused() {
        let cases: [&[u8]; 5] = [
            &[0x82, 0x1a, 0, 0, 0x01, 0xf4, 0x41, 0x01], // a longer integer than needed
            &[0x9f, 0x19, 0x01, 0xf4, 0x41, 0x01, 0xff], // indefinite length
            &[0x82, 0x19, 0x01, 0xf4, 0x41, 0x01, 0x00], // trailing byte
            &[0x83, 0x19, 0x01, 0xf4, 0x41, 0x01, 0x00], // a field too many
            &[0x82, 0x19, 0x01, 0xf4, 0x58, 0x01, 0x01], // a longer length than needed
        ];
        for case in cases {
            assert_eq!(decode::<Pair>(case).expect_err("refused").code, Code::BadEncoding, "{case:02x?}");
        }
    }
}
