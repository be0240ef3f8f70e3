//! The root: what seals a vault. Here the `file` root: a key file, or a passphrase through Argon2id
//! (RFC 9106); and the vault's header, which says which one, with a verifier that tells a wrong
//! root from a damaged vault. The header holds nothing secret.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use minicbor::{Decoder, Encoder};
use rustix::fs::OFlags;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::crypt::derive;
use super::place::{corrupt, storage, write_new};
use crate::encoding::{Bytes, decode, digest, encode, put};
use crate::error::{Code, Error, Result, fail};
use crate::memory::Secret;
use crate::record;
use crate::rng::CryptoRng;

/// The version of the vault's files that this build reads and writes.
pub const FORMAT: u32 = 1;
pub(super) const HEADER: &str = "header";
pub(super) const KEY_FILE: &str = "root.key";

const MAGIC: &str = "quorate-vault";
const CHECK: &str = "quorate/v1/vault/header";
const VERIFIER: &str = "quorate/v1/vault/verifier";

/// Argon2id's costs: RFC 9106 §4's second choice (64 MiB, 3 passes), with one lane.
#[cfg(not(any(test, feature = "testing")))]
const COSTS: (u32, u32) = (64 * 1024, 3);
/// Small, so that tests spend their time elsewhere; the header carries them.
#[cfg(any(test, feature = "testing"))]
const COSTS: (u32, u32) = (64, 1);
/// The most memory that a header may ask for, in KiB.
const MAX_MEMORY: u32 = 4 * 1024 * 1024;
const MAX_PASSES: u32 = 64;

/// What opens a vault.
#[derive(Clone, Copy)]
pub enum Root<'a> {
    /// 32 random bytes in `root.key`, beside the vault.
    KeyFile,
    /// A passphrase; the caller wipes it.
    Passphrase(&'a [u8]),
}

/// The longest passphrase, in bytes.
const MAX_PASSPHRASE: usize = 1024;

/// The passphrase in a file, or what comes out of a pipe, without the line's end.
///
/// # Errors
/// `storage` when it cannot be read, `wrong_passphrase` when it is empty, `too_large`.
pub fn read_passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    // Room for all of it from the start: no smaller block with a part of it is left behind.
    let mut read = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE + 3));
    File::open(path)
        .and_then(|file| file.take(MAX_PASSPHRASE as u64 + 3).read_to_end(&mut read))
        .map_err(|e| Error::new(Code::Storage, format!("the passphrase file {}: {e}", path.display())))?;
    if read.ends_with(b"\n") {
        read.pop();
    }
    if read.ends_with(b"\r") {
        read.pop();
    }
    if read.len() > MAX_PASSPHRASE {
        return fail(Code::TooLarge, format!("{} holds over {MAX_PASSPHRASE} bytes", path.display()));
    }
    if read.is_empty() {
        return fail(Code::WrongPassphrase, format!("the passphrase file {} is empty", path.display()));
    }
    Ok(read)
}

record! {
    /// Argon2id's salt and costs: memory in KiB, passes; one lane.
    pub struct Stretch {
        pub salt: [u8; 32],
        pub memory: u32,
        pub passes: u32,
    }
}

record! {
    /// The header's content. No `stretch` means the key file.
    pub struct Header {
        pub stretch: Option<Stretch>,
        pub verifier: [u8; 32],
    }
}

record! {
    /// The header file.
    pub struct Frame {
        pub magic: String,
        pub version: u32,
        pub body: Bytes,
        pub check: [u8; 32],
    }
}

/// Makes a root for the vault in `dir`: the root key, and the header to store.
pub(super) fn create(dir: &Path, root: Root<'_>, rng: &mut dyn CryptoRng) -> Result<(Secret<32>, Vec<u8>)> {
    let (key, stretch) = match root {
        Root::KeyFile => (create_key_file(&dir.join(KEY_FILE), rng)?, None),
        Root::Passphrase(passphrase) => {
            if passphrase.is_empty() {
                return fail(Code::WrongPassphrase, "an empty passphrase protects nothing; choose another");
            }
            let mut salt = [0; 32];
            rng.fill_bytes(&mut salt);
            let stretch = Stretch { salt, memory: COSTS.0, passes: COSTS.1 };
            (stretch_passphrase(passphrase, &stretch)?, Some(stretch))
        }
    };
    let verifier = *verifier(&key, stretch.as_ref())?;
    let body = encode(&Header { stretch, verifier });
    let check = digest(CHECK, &body);
    Ok((key, encode(&Frame { magic: MAGIC.to_owned(), version: FORMAT, body: Bytes(body), check })))
}

/// Reads the header of the vault in `dir` and opens its root.
pub(super) fn open(dir: &Path, root: Root<'_>) -> Result<Secret<32>> {
    let header = read_header(&dir.join(HEADER))?;
    let key = match (root, &header.stretch) {
        (Root::KeyFile, None) => read_key_file(&dir.join(KEY_FILE))?,
        (Root::Passphrase(passphrase), Some(stretch)) => stretch_passphrase(passphrase, stretch)?,
        (Root::KeyFile, Some(_)) => {
            return fail(
                Code::WrongPassphrase,
                format!("the vault in {} needs its passphrase", dir.display()),
            );
        }
        (Root::Passphrase(_), None) => {
            return fail(
                Code::WrongPassphrase,
                format!("the vault in {} is opened by its {KEY_FILE} and takes no passphrase", dir.display()),
            );
        }
    };
    let want = verifier(&key, header.stretch.as_ref())?;
    if bool::from(want.as_slice().ct_eq(&header.verifier)) {
        return Ok(key);
    }
    match root {
        Root::KeyFile => corrupt(&dir.join(KEY_FILE), "it is not the key of this vault"),
        Root::Passphrase(_) => fail(
            Code::WrongPassphrase,
            format!("the passphrase does not open the vault in {}; nothing was changed", dir.display()),
        ),
    }
}

fn read_header(path: &Path) -> Result<Header> {
    let bytes = fs::read(path).map_err(|e| storage(path, &e))?;
    // The version comes first, and alone: another version may shape the rest differently.
    let (magic, version) = preamble(&bytes).or_else(|_| corrupt(path, "it is not a vault's header"))?;
    if magic != MAGIC {
        return corrupt(path, "it is not a vault's header");
    }
    if version > FORMAT {
        return fail(
            Code::VaultVersion,
            format!(
                "{} was written by a newer Quorate: it has format {version}, and this build reads format {FORMAT}; nothing was changed",
                path.display()
            ),
        );
    }
    if version < FORMAT {
        return corrupt(path, "no release has written this format");
    }
    let damaged = |_| corrupt(path, "it is damaged");
    let frame: Frame = decode(&bytes).or_else(damaged)?;
    if digest(CHECK, &frame.body.0) != frame.check {
        return corrupt(path, "it is damaged");
    }
    decode(&frame.body.0).or_else(|_| corrupt(path, "it is damaged"))
}

fn preamble(bytes: &[u8]) -> std::result::Result<(String, u32), minicbor::decode::Error> {
    let mut d = Decoder::new(bytes);
    d.array()?;
    Ok((d.str()?.to_owned(), d.u32()?))
}

/// A value that only the right root key gives, bound to the header's other fields.
fn verifier(key: &Secret<32>, stretch: Option<&Stretch>) -> Result<Zeroizing<[u8; 32]>> {
    let mut info = Encoder::new(Vec::new());
    put(info.array(2));
    put(info.str(VERIFIER));
    put(info.bytes(&encode(&stretch.cloned())));
    derive(key, None, &[], &info.into_writer())
}

fn stretch_passphrase(passphrase: &[u8], stretch: &Stretch) -> Result<Secret<32>> {
    let refused = |e: argon2::Error| Error::new(Code::WrongPassphrase, format!("Argon2id refused: {e}"));
    if stretch.memory > MAX_MEMORY || stretch.passes > MAX_PASSES {
        return fail(
            Code::VaultCorrupt,
            "the vault's header asks for absurd Argon2id costs; restore the file",
        );
    }
    let params = Params::new(stretch.memory, stretch.passes, 1, Some(32)).map_err(refused)?;
    let mut out = Secret::zeroed()?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, &stretch.salt, out.expose_mut())
        .map_err(refused)?;
    Ok(out)
}

fn create_key_file(path: &Path, rng: &mut dyn CryptoRng) -> Result<Secret<32>> {
    let key = Secret::random(rng)?;
    write_new(path, key.expose()).map_err(|e| storage(path, &e))?;
    Ok(key)
}

fn read_key_file(path: &Path) -> Result<Secret<32>> {
    let open = || -> io::Result<(File, fs::Metadata)> {
        let mut how = OpenOptions::new();
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
        let file = how.read(true).custom_flags(flags).open(path)?;
        let meta = file.metadata()?;
        Ok((file, meta))
    };
    let (mut file, meta) = match open() {
        Ok(opened) => opened,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return corrupt(path, "it is missing"),
        Err(e) => return Err(storage(path, &e)),
    };
    if meta.mode() & 0o077 != 0 {
        return fail(
            Code::BadState,
            format!(
                "{} can be read by others (mode {:04o}); if nobody has, run: chmod 600 {}",
                path.display(),
                meta.mode() & 0o7777,
                path.display()
            ),
        );
    }
    if meta.len() != 32 {
        return corrupt(path, "it is not 32 bytes long");
    }
    let mut key = Secret::zeroed()?;
    file.read_exact(key.expose_mut()).map_err(|e| storage(path, &e))?;
    Ok(key)
}
