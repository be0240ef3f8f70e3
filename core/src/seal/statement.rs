//! Statements: signed structures (`COSE_Sign1`, RFC 9052, with Ed25519).
//!
//! Protected header `{1: -8 (EdDSA), 4: signer's name, 16: label}`, nothing unprotected, the payload
//! the body's canonical CBOR, the fleet's id as external data. The label stands in `typ` (RFC 9596),
//! the parameter made to keep one kind of message from passing for another. What a module signs has
//! one signature; what the operator approves has a list of them over one payload.
//!
//! Only the canonical form is read. Not here: what a statement permits.

use coset::cbor::Value;
use coset::{
    AsCborValue, CborSerializable, CoseSign1, HeaderBuilder, Label, ProtectedHeader, SignatureContext, iana,
    sig_structure_data,
};

use crate::encoding::{MAX_LEN, Wire, decode, digest, encode};
use crate::error::{Code, Error, Result, fail};
use crate::ids::{FleetId, Hash, NodeId};
use crate::seal::signing::{SigningKey, VerifyKey};

/// COSE header parameter `typ` (RFC 9596).
const TYP: i64 = 16;
/// The most signatures that an approval may carry.
const MAX_APPROVALS: usize = 16;

/// A structure that is only ever passed on signed; its label is its kind.
pub trait Statement: Wire {
    const LABEL: &'static str;
}

/// Declares one statement: a `record!` with a label.
#[macro_export]
macro_rules! statement {
    ($(#[$meta:meta])* pub struct $name:ident = $label:literal { $($body:tt)+ }) => {
        $crate::record! { $(#[$meta])* pub struct $name { $($body)+ } }

        impl $crate::seal::statement::Statement for $name {
            const LABEL: &'static str = $label;
        }
    };
}

/// Declares all statements of a file, and `LABELS`, the list of their labels for `seal::labels::ALL`.
#[macro_export]
macro_rules! statements {
    ($($(#[$meta:meta])* pub struct $name:ident = $label:literal { $($body:tt)+ })+) => {
        $($crate::statement! { $(#[$meta])* pub struct $name = $label { $($body)+ } })+

        /// The labels of this file's statements.
        pub const LABELS: &[&str] = &[$($label),+];
    };
}

/// A statement whose signature was made here or verified; its bytes are kept as they were signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    body: T,
    signer: NodeId,
    bytes: Vec<u8>,
    hash: Hash,
}

impl<T> Signed<T> {
    #[must_use]
    pub fn body(&self) -> &T {
        &self.body
    }

    #[must_use]
    pub fn into_body(self) -> T {
        self.body
    }

    #[must_use]
    pub fn signer(&self) -> &NodeId {
        &self.signer
    }

    /// The whole `COSE_Sign1`, as signed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `encoding::digest` of label and payload: what other statements name this one by.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }
}

/// A statement that the operator signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved<T> {
    body: T,
    bytes: Vec<u8>,
    hash: Hash,
}

impl<T> Approved<T> {
    #[must_use]
    pub fn body(&self) -> &T {
        &self.body
    }

    #[must_use]
    pub fn into_body(self) -> T {
        self.body
    }

    /// Payload and signatures, as signed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `encoding::digest` of label and payload.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }
}

/// The hash by which statements name one with this body.
#[must_use]
pub fn hash_of<T: Statement>(body: &T) -> Hash {
    Hash(digest(T::LABEL, &encode(body)))
}

/// Signs `body` as `signer`.
#[must_use]
pub fn sign<T: Statement>(body: T, fleet: &FleetId, signer: &NodeId, key: &SigningKey) -> Signed<T> {
    let payload = encode(&body);
    let hash = Hash(digest(T::LABEL, &payload));
    let signature = key.sign(&to_be_signed(T::LABEL, signer, fleet, &payload));
    let bytes = write(cose(T::LABEL, signer, Some(payload), signature.to_vec()));
    Signed { body, signer: signer.clone(), bytes, hash }
}

/// Verifies a statement of kind `T`; `key_of` gives a name's key, or `None` for one not in the roster.
///
/// # Errors
/// `bad_encoding` or `too_large` for anything but the canonical form, `wrong_kind` when the label is
/// another's, `unknown_signer`, `bad_signature`.
pub fn open<T: Statement>(
    bytes: &[u8],
    fleet: &FleetId,
    key_of: &dyn Fn(&NodeId) -> Option<VerifyKey>,
) -> Result<Signed<T>> {
    Unverified::read(bytes)?.verify(fleet, key_of)
}

/// Verifies a statement that carries its own signer's key (an enrolment request): it proves
/// possession of that key, and nothing about who holds it.
///
/// # Errors
/// As [`open`], without `unknown_signer`.
pub fn open_self_signed<T: Statement>(
    bytes: &[u8],
    fleet: &FleetId,
    key_in: &dyn Fn(&T) -> VerifyKey,
) -> Result<Signed<T>> {
    let unverified = Unverified::<T>::read(bytes)?;
    let key = key_in(&unverified.body);
    unverified.verify(fleet, &|_| Some(key))
}

/// Reads a statement whose signature is not checked here: one that this module's own vault vouches for,
/// one whose verifying key stands in it, or one that is only shown.
///
/// # Errors
/// `bad_encoding`, `too_large`, `wrong_kind`.
pub fn read_unverified<T: Statement>(bytes: &[u8]) -> Result<Signed<T>> {
    let Unverified { body, parsed, bytes } = Unverified::read(bytes)?;
    let hash = Hash(digest(T::LABEL, &parsed.payload));
    Ok(Signed { body, signer: parsed.signer, bytes, hash })
}

/// The hash of a statement of any kind, unverified.
///
/// # Errors
/// `bad_encoding`, `too_large`.
pub fn hash_in(bytes: &[u8]) -> Result<Hash> {
    let parsed = Parsed::read(bytes)?;
    Ok(Hash(digest(&parsed.label, &parsed.payload)))
}

/// The label of a statement, or of an operator-signed one, unverified.
///
/// # Errors
/// `bad_encoding`, `too_large`.
pub fn peek_any(bytes: &[u8]) -> Result<String> {
    if let Ok((label, _)) = peek(bytes) {
        return Ok(label);
    }
    check_size(bytes)?;
    let (payload, signatures) = read_approved_parts(bytes)?;
    match signatures.into_iter().next() {
        Some(first) => Ok(Parsed::from_cose(first, Some(&payload))?.label),
        None => fail(Code::BadSignature, "an approval carries no signature"),
    }
}

/// Label and claimed signer of a statement, unverified: for choosing who should open it.
///
/// # Errors
/// `bad_encoding` or `too_large`.
pub fn peek(bytes: &[u8]) -> Result<(String, NodeId)> {
    let parsed = Parsed::read(bytes)?;
    Ok((parsed.label, parsed.signer))
}

/// Signs `body` with the operator key: CBOR `[payload, [+ COSE_Sign1 with detached payload]]`.
#[must_use]
pub fn approve<T: Statement>(body: &T, fleet: &FleetId, key: &SigningKey) -> Vec<u8> {
    let payload = encode(body);
    let operator = NodeId::operator();
    let signature = key.sign(&to_be_signed(T::LABEL, &operator, fleet, &payload));
    write_approved(payload, vec![cose(T::LABEL, &operator, None, signature.to_vec())])
}

/// Verifies an operator-signed statement of kind `T`: every signature in the list must hold, no
/// signer may stand in it twice, and the operator's must be there.
///
/// # Errors
/// `bad_encoding` or `too_large`, `wrong_kind`, `unknown_signer`, `bad_signature` (also for an empty
/// list), in this order.
pub fn open_approved<T: Statement>(
    bytes: &[u8],
    fleet: &FleetId,
    operator: &VerifyKey,
) -> Result<Approved<T>> {
    check_size(bytes)?;
    let (payload, signatures) = read_approved_parts(bytes)?;
    if signatures.is_empty() {
        return fail(Code::BadSignature, "an approval carries no signature");
    }
    let mut seen: Vec<NodeId> = Vec::new();
    let mut canonical = Vec::new();
    for signature in signatures {
        let parsed = Parsed::from_cose(signature, Some(&payload))?;
        parsed.expect_label(T::LABEL)?;
        if parsed.signer != NodeId::operator() {
            return fail(Code::UnknownSigner, format!("{} is not an operator", parsed.signer));
        }
        if seen.contains(&parsed.signer) {
            return fail(Code::BadSignature, "an approval carries two signatures of one operator");
        }
        parsed.verify(fleet, operator)?;
        canonical.push(cose(&parsed.label, &parsed.signer, None, parsed.signature));
        seen.push(parsed.signer);
    }
    if write_approved(payload.clone(), canonical) != bytes {
        return fail(Code::BadEncoding, "an approval is not in canonical form");
    }
    let hash = Hash(digest(T::LABEL, &payload));
    Ok(Approved { body: decode(&payload)?, bytes: bytes.to_vec(), hash })
}

/// A statement of kind `T` that was read but not verified: nothing in it is to be believed.
pub struct Unverified<T> {
    body: T,
    parsed: Parsed,
    bytes: Vec<u8>,
}

impl<T: Statement> Unverified<T> {
    /// # Errors
    /// `bad_encoding` or `too_large` for anything but the canonical form, `wrong_kind`.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let parsed = Parsed::read(bytes)?;
        parsed.expect_label(T::LABEL)?;
        Ok(Self { body: decode(&parsed.payload)?, parsed, bytes: bytes.to_vec() })
    }

    #[must_use]
    pub fn body(&self) -> &T {
        &self.body
    }

    /// The claimed signer.
    #[must_use]
    pub fn signer(&self) -> &NodeId {
        &self.parsed.signer
    }

    /// # Errors
    /// `unknown_signer`, `bad_signature`.
    pub fn verify(self, fleet: &FleetId, key_of: &dyn Fn(&NodeId) -> Option<VerifyKey>) -> Result<Signed<T>> {
        let Some(key) = key_of(&self.parsed.signer) else {
            return fail(
                Code::UnknownSigner,
                format!("no key is known for the signer {}", self.parsed.signer),
            );
        };
        self.parsed.verify(fleet, &key)?;
        let hash = Hash(digest(T::LABEL, &self.parsed.payload));
        Ok(Signed { body: self.body, signer: self.parsed.signer, bytes: self.bytes, hash })
    }
}

/// Reads an operator-signed statement without checking its signatures, to learn whose it claims to be or
/// to show it.
///
/// # Errors
/// `bad_encoding`, `too_large`, `wrong_kind`.
pub fn read_approved<T: Statement>(bytes: &[u8]) -> Result<Approved<T>> {
    check_size(bytes)?;
    let (payload, signatures) = read_approved_parts(bytes)?;
    for signature in signatures {
        Parsed::from_cose(signature, Some(&payload))?.expect_label(T::LABEL)?;
    }
    let hash = Hash(digest(T::LABEL, &payload));
    Ok(Approved { body: decode(&payload)?, bytes: bytes.to_vec(), hash })
}

/// A `COSE_Sign1` of our one shape, not yet verified.
struct Parsed {
    label: String,
    signer: NodeId,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl Parsed {
    fn read(bytes: &[u8]) -> Result<Self> {
        check_size(bytes)?;
        let parsed = Self::from_cose(CoseSign1::from_slice(bytes).map_err(malformed)?, None)?;
        let again =
            cose(&parsed.label, &parsed.signer, Some(parsed.payload.clone()), parsed.signature.clone());
        if write(again) != bytes {
            return fail(Code::BadEncoding, "a statement is not in canonical form");
        }
        Ok(parsed)
    }

    /// Takes the four values of our shape; a header with anything more differs when written again.
    fn from_cose(from: CoseSign1, detached: Option<&[u8]>) -> Result<Self> {
        let header = from.protected.header;
        let [(Label::Int(TYP), Value::Text(label))] = header.rest.as_slice() else {
            return fail(Code::BadEncoding, "a statement's header has no label, or more than one");
        };
        let signer = String::from_utf8(header.key_id)
            .map_err(|_| Error::new(Code::BadEncoding, "a signer's name is not text"))?;
        let payload = match (from.payload, detached) {
            (Some(payload), None) => payload,
            (None, Some(detached)) => detached.to_vec(),
            _ => return fail(Code::BadEncoding, "a statement's payload is not where its form has it"),
        };
        Ok(Self { label: label.clone(), signer: NodeId::new(signer)?, payload, signature: from.signature })
    }

    fn expect_label(&self, want: &str) -> Result<()> {
        if self.label == want {
            return Ok(());
        }
        fail(Code::WrongKind, format!("expected a statement {want}, got {}", self.label))
    }

    fn verify(&self, fleet: &FleetId, key: &VerifyKey) -> Result<()> {
        key.verify(&to_be_signed(&self.label, &self.signer, fleet, &self.payload), &self.signature).map_err(
            |_| {
                Error::new(
                    Code::BadSignature,
                    format!("the signature of {} on {} does not verify", self.signer, self.label),
                )
            },
        )
    }
}

fn check_size(bytes: &[u8]) -> Result<()> {
    if bytes.len() > MAX_LEN {
        return fail(
            Code::TooLarge,
            format!("a statement of {} bytes is over the limit of {MAX_LEN}", bytes.len()),
        );
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "a map_err function")]
fn malformed(e: coset::CoseError) -> Error {
    Error::new(Code::BadEncoding, format!("not a statement: {e}"))
}

fn header(label: &str, signer: &NodeId) -> ProtectedHeader {
    let header = HeaderBuilder::new()
        .algorithm(iana::Algorithm::EdDSA)
        .key_id(signer.as_str().as_bytes().to_vec())
        .value(TYP, Value::Text(label.to_owned()))
        .build();
    ProtectedHeader { original_data: None, header }
}

fn cose(label: &str, signer: &NodeId, payload: Option<Vec<u8>>, signature: Vec<u8>) -> CoseSign1 {
    CoseSign1 { protected: header(label, signer), payload, signature, ..CoseSign1::default() }
}

/// `Sig_structure` (RFC 9052 §4.4).
fn to_be_signed(label: &str, signer: &NodeId, fleet: &FleetId, payload: &[u8]) -> Vec<u8> {
    sig_structure_data(SignatureContext::CoseSign1, header(label, signer), None, &fleet.0, payload)
}

fn write(value: impl CborSerializable) -> Vec<u8> {
    value.to_vec().unwrap_or_else(|e| panic!("writing CBOR to memory failed: {e}"))
}

fn write_approved(payload: Vec<u8>, signatures: Vec<CoseSign1>) -> Vec<u8> {
    let list = signatures
        .into_iter()
        .map(|s| s.to_cbor_value().unwrap_or_else(|e| panic!("making CBOR in memory failed: {e}")));
    write(Value::Array(vec![Value::Bytes(payload), Value::Array(list.collect())]))
}

fn read_approved_parts(bytes: &[u8]) -> Result<(Vec<u8>, Vec<CoseSign1>)> {
    let value = Value::from_slice(bytes).map_err(malformed)?;
    let parts: Option<[Value; 2]> = match value {
        Value::Array(parts) => parts.try_into().ok(),
        _ => None,
    };
    match parts {
        Some([Value::Bytes(payload), Value::Array(list)]) if list.len() <= MAX_APPROVALS => {
            let signatures = list.into_iter().map(|s| CoseSign1::from_cbor_value(s).map_err(malformed));
            Ok((payload, signatures.collect::<Result<_>>()?))
        }
        _ => fail(Code::BadEncoding, "an approval is not [payload, [signatures]]"),
    }
}

#[cfg(test)]
mod tests;
