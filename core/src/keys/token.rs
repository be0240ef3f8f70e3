//! Export tokens: a KMS key's backing key as it is stored outside the module. Version (1) ‖ fleet epoch
//! (8, big-endian) ‖ sealed text, whose plaintext is a second sealed text: the backing key under the
//! domain's wrapping key, and that under the fleet's. Opening one takes a quorum *and* the fleet.
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

pub const VERSION: u8 = 1;

const HEADER_LEN: usize = 1 + 8;
/// The length of every token, in bytes.
pub const LEN: usize = HEADER_LEN + 2 * sealed::OVERHEAD + 32;

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

/// Wraps `backing` under `domain_wrap`, then under `fleet_wrap`, the fleet's wrapping key of
/// `fleet_epoch`. Returns [`LEN`] bytes.
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
    let mut token = Vec::with_capacity(LEN);
    token.push(VERSION);
    token.extend_from_slice(&fleet_epoch.to_be_bytes());
    let inner = sealed::seal(domain_wrap.expose(), label::TOKEN_INNER, &encode(ctx), backing.expose(), rng)?;
    let outer = sealed::seal(fleet_wrap.expose(), label::TOKEN_OUTER, &outer_aad(ctx, &token), &inner, rng)?;
    token.extend_from_slice(&outer);
    Ok(token)
}

/// Opens a token: the fleet's layer first, then the domain's.
///
/// `fleet_wrap_for_epoch` answers with the fleet's wrapping key of an epoch, if this module still has it.
///
/// # Errors
/// `bad_encoding` for another length or version; `no_fleet_key` when the fleet epoch's key is not here;
/// `key_commitment` for another key or context; `not_opened` when the token was altered.
pub fn unwrap<'k>(
    token: &[u8],
    ctx: &TokenContext,
    domain_wrap: &Secret<32>,
    fleet_wrap_for_epoch: &dyn Fn(u64) -> Option<&'k Secret<32>>,
) -> Result<Secret<32>> {
    if token.len() != LEN || token[0] != VERSION {
        return fail(
            Code::BadEncoding,
            format!("an export token has {LEN} bytes and begins with version {VERSION}"),
        );
    }
    let (header, outer) = token.split_at(HEADER_LEN);
    let epoch = u64::from_be_bytes(header[1..].try_into().expect("8 bytes"));
    let Some(fleet_wrap) = fleet_wrap_for_epoch(epoch) else {
        return fail(Code::NoFleetKey, format!("the token needs the fleet key of fleet epoch {epoch}"));
    };
    let inner = sealed::open(fleet_wrap.expose(), label::TOKEN_OUTER, &outer_aad(ctx, header), outer)?;
    let backing = sealed::open(domain_wrap.expose(), label::TOKEN_INNER, &encode(ctx), &inner)?;
    let mut backing: Zeroizing<[u8; 32]> = Zeroizing::new(
        backing
            .as_slice()
            .try_into()
            .map_err(|_| Error::new(Code::BadEncoding, "an export token holds a backing key of 32 bytes"))?,
    );
    Secret::take_from(&mut backing)
}
