//! Export tokens: a KMS key's backing key as it is stored outside the module. Format (1) ‖ fleet epoch
//! (8, big-endian) ‖ in format 2, the domain's key version (8, big-endian) ‖ sealed text, whose plaintext is a
//! second sealed text: the backing key under the domain's wrapping key, and that under the fleet's. Opening one takes
//! a quorum *and* the fleet. Format 1 is that of the first key version, so that releases before rotation read it.
//!
//! Not here: where the two wrapping keys come from, storage of tokens.

use minicbor::Encoder;
use zeroize::Zeroizing;

use crate::encoding::{Wire, encode, put};
use crate::error::{Code, Error, Result, fail};
use crate::ids::DomainId;
use crate::keys::{label, sealed};
use crate::memory::Secret;
use crate::record;
use crate::rng::CryptoRng;

/// The format of a token of a domain's first key version, and that of a later one's.
const FIRST: u8 = 1;
const LATER: u8 = 2;

const FIRST_HEADER_LEN: usize = 1 + 8;
const LATER_HEADER_LEN: usize = FIRST_HEADER_LEN + 8;
const SEALED_LEN: usize = 2 * sealed::OVERHEAD + 32;
/// The length of a token of the first key version, in bytes.
pub const LEN: usize = FIRST_HEADER_LEN + SEALED_LEN;
/// The length of a token of a later one.
pub const LATER_LEN: usize = LATER_HEADER_LEN + SEALED_LEN;

record! {
    /// What a token belongs to; it opens only when shown the same again.
    pub struct TokenContext {
        pub domain: DomainId,
        pub key_id: String,
        /// Version of the backing key.
        pub key_version: u64,
        /// Version of the domain's wrapping key.
        pub domain_key_version: u64,
    }
}

fn outer_aad(ctx: &TokenContext, header: &[u8]) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    put(e.array(2));
    ctx.put(&mut e);
    put(e.bytes(header));
    e.into_writer()
}

fn header(fleet_epoch: u64, domain_key_version: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(LATER_LEN);
    header.push(if domain_key_version == 1 { FIRST } else { LATER });
    header.extend_from_slice(&fleet_epoch.to_be_bytes());
    if domain_key_version != 1 {
        header.extend_from_slice(&domain_key_version.to_be_bytes());
    }
    header
}

/// What stands before a token's sealed text: its length, the fleet epoch, the domain's key version.
fn read_header(token: &[u8]) -> Result<(usize, u64, u64)> {
    let number = |at: usize| u64::from_be_bytes(token[at..at + 8].try_into().expect("8 bytes"));
    match (token.first(), token.len()) {
        (Some(&FIRST), LEN) => Ok((FIRST_HEADER_LEN, number(1), 1)),
        (Some(&LATER), LATER_LEN) if number(FIRST_HEADER_LEN) >= 2 => {
            Ok((LATER_HEADER_LEN, number(1), number(FIRST_HEADER_LEN)))
        }
        _ => fail(
            Code::BadEncoding,
            format!("an export token is {LEN} bytes of format {FIRST}, or {LATER_LEN} of format {LATER}"),
        ),
    }
}

/// The domain's key version that a token names; nothing of it is verified.
///
/// # Errors
/// `bad_encoding` for another length or format.
pub fn domain_key_version(token: &[u8]) -> Result<u64> {
    read_header(token).map(|(_, _, version)| version)
}

/// Wraps `backing` under `domain_wrap`, then under `fleet_wrap`, the fleet's wrapping key of
/// `fleet_epoch`. Returns [`LEN`] bytes for the domain's first key version, [`LATER_LEN`] for a later one.
///
/// # Errors
/// None in practice: `too_large` is for texts past GCM's limit.
pub fn wrap(
    backing: &Secret<32>,
    ctx: &TokenContext,
    domain_wrap: &Secret<32>,
    fleet_wrap: &Secret<32>,
    fleet_epoch: u64,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    let inner = sealed::seal(domain_wrap.expose(), label::TOKEN_INNER, &encode(ctx), backing.expose(), rng)?;
    wrap_outer(&inner, ctx, fleet_wrap, fleet_epoch, rng)
}

/// Wraps what [`open_outer`] gave, the backing key under the domain's wrapping key, under another fleet key.
///
/// # Errors
/// As [`wrap`].
pub fn wrap_outer(
    inner: &[u8],
    ctx: &TokenContext,
    fleet_wrap: &Secret<32>,
    fleet_epoch: u64,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    let mut token = header(fleet_epoch, ctx.domain_key_version);
    let outer = sealed::seal(fleet_wrap.expose(), label::TOKEN_OUTER, &outer_aad(ctx, &token), inner, rng)?;
    token.extend_from_slice(&outer);
    Ok(token)
}

/// Opens a token: the fleet's layer first, then the domain's.
///
/// `fleet_wrap_for_epoch` answers with the fleet's wrapping key of an epoch, if this module still has it.
///
/// # Errors
/// `bad_encoding` for another length or format; `no_fleet_key` when the fleet epoch's key is not here;
/// `key_commitment` for another key or context; `not_opened` when the token was altered.
pub fn unwrap<'k>(
    token: &[u8],
    ctx: &TokenContext,
    domain_wrap: &Secret<32>,
    fleet_wrap_for_epoch: &dyn Fn(u64) -> Option<&'k Secret<32>>,
) -> Result<Secret<32>> {
    let inner = open_outer(token, ctx, fleet_wrap_for_epoch)?;
    let backing = sealed::open(domain_wrap.expose(), label::TOKEN_INNER, &encode(ctx), &inner)?;
    let mut backing: Zeroizing<[u8; 32]> = Zeroizing::new(
        backing
            .as_slice()
            .try_into()
            .map_err(|_| Error::new(Code::BadEncoding, "an export token holds a backing key of 32 bytes"))?,
    );
    Secret::take_from(&mut backing)
}

/// The fleet epoch whose key a token's outer layer needs; nothing of it is verified.
///
/// # Errors
/// `bad_encoding` for another length or format.
pub fn fleet_epoch(token: &[u8]) -> Result<u64> {
    read_header(token).map(|(_, epoch, _)| epoch)
}

/// Opens the fleet's layer alone; what is left is still sealed under the domain's wrapping key.
///
/// # Errors
/// As [`unwrap`].
pub fn open_outer<'k>(
    token: &[u8],
    ctx: &TokenContext,
    fleet_wrap_for_epoch: &dyn Fn(u64) -> Option<&'k Secret<32>>,
) -> Result<Zeroizing<Vec<u8>>> {
    let (header_len, epoch, _) = read_header(token)?;
    let (header, outer) = token.split_at(header_len);
    let Some(fleet_wrap) = fleet_wrap_for_epoch(epoch) else {
        return fail(Code::NoFleetKey, format!("the token needs the fleet key of fleet epoch {epoch}"));
    };
    sealed::open(fleet_wrap.expose(), label::TOKEN_OUTER, &outer_aad(ctx, header), outer)
}
