//! AES-256-GCM (SP 800-38D) with 96-bit nonces and whole tags: the primitive under `sealed`.
//!
//! It commits to no key, and repeats of a nonce are fatal: callers outside this room want `sealed`,
//! unless their protocol derives a fresh key and nonce for each message.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result, fail};

pub const NONCE_LEN: usize = 12;
pub const TAG_LEN: usize = 16;

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes"))
}

/// Encrypts `in_out` in place and returns the tag.
///
/// # Errors
/// `too_large` past GCM's limit of 2^36 − 32 bytes.
pub fn seal(key: &[u8; 32], nonce: [u8; NONCE_LEN], aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG_LEN]> {
    let mut tag = [0; TAG_LEN];
    let made = cipher(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), in_out)
        .map_err(|_| Error::new(Code::TooLarge, "more plaintext than AES-GCM can take"))?;
    tag.copy_from_slice(made.as_ref());
    Ok(tag)
}

/// Decrypts `sealed` (ciphertext and tag). Plaintext that does not verify is wiped, never returned.
///
/// # Errors
/// `not_opened` when the tag is missing, cut short or wrong.
pub fn open(key: &[u8; 32], nonce: [u8; NONCE_LEN], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let opened = cipher(key).open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut buffer);
    let Ok(plaintext) = opened else {
        return fail(Code::NotOpened, "the ciphertext does not verify under this key");
    };
    let len = plaintext.len();
    buffer.truncate(len);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn aes_256_gcm_agrees_with_wycheproof() {
        let file: Value =
            serde_json::from_str(include_str!("../../../tests/vectors/wycheproof/aes_gcm_test.json"))
                .expect("JSON");
        let unhex = |v: &Value| hex::decode(v.as_str().expect("text")).expect("hexadecimal");
        let mut seen = [0; 2];
        for group in file["testGroups"].as_array().expect("groups") {
            if group["keySize"] != 256 || group["ivSize"] != 96 {
                continue;
            }
            for t in group["tests"].as_array().expect("tests") {
                let key: [u8; 32] = unhex(&t["key"]).try_into().expect("32 bytes");
                let nonce: [u8; NONCE_LEN] = unhex(&t["iv"]).try_into().expect("12 bytes");
                let (aad, message) = (unhex(&t["aad"]), unhex(&t["msg"]));
                let sealed = [unhex(&t["ct"]), unhex(&t["tag"])].concat();
                let opened = open(&key, nonce, &aad, &sealed);
                let mut again = message.clone();
                let tag = seal(&key, nonce, &aad, &mut again).expect("seals");
                let same = [again, tag.to_vec()].concat() == sealed;
                if t["result"] == "valid" {
                    assert_eq!(*opened.expect("opens"), message, "{t}");
                    assert!(same, "{t}");
                    seen[0] += 1;
                } else {
                    assert_eq!(opened.expect_err("refused").code, Code::NotOpened, "{t}");
                    assert!(!same, "{t}");
                    seen[1] += 1;
                }
            }
        }
        assert_eq!(seen, [39, 27]);
    }

    #[test]
    fn a_text_shorter_than_a_tag_is_refused() {
        for len in 0..TAG_LEN {
            let code = open(&[0; 32], [0; NONCE_LEN], &[], &vec![0; len]).expect_err("refused").code;
            assert_eq!(code, Code::NotOpened);
        }
    }
}
