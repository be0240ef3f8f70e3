//! Key derivation: HKDF (RFC 5869), HMAC (RFC 2104), and the keys that are used in a domain's name.
//!
//! Not here: the layout of any ciphertext, storage of keys.

use aws_lc_rs::{hkdf, hmac};
use minicbor::Encoder;

use crate::encoding::{Wire, put};
use crate::error::Result;
use crate::ids::DomainId;
use crate::keys::label;
use crate::memory::Secret;

/// The length of output that HKDF is asked for, in bytes.
struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

fn hkdf(algorithm: hkdf::Algorithm, ikm: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) {
    hkdf::Salt::new(algorithm, salt)
        .extract(ikm)
        .expand(&[info], Len(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("HKDF makes at most 255 hash lengths of output");
}

/// HKDF-SHA-512, extract and expand (RFC 5869 §2). An empty `salt` stands for none.
///
/// # Panics
/// When `out` is over 16,320 bytes (255 hash lengths): callers ask for fixed, short lengths.
pub fn hkdf_sha512(ikm: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) {
    hkdf(hkdf::HKDF_SHA512, ikm, salt, info, out);
}

/// HMAC-SHA-256 of `message`, written to `out` (RFC 2104); `key` may have any length.
pub(crate) fn hmac_sha256(key: &[u8], message: &[u8], out: &mut [u8; 32]) {
    hmac::sign_to_buffer(&hmac::Key::new(hmac::HMAC_SHA256, key), message, out)
        .expect("32 bytes hold an HMAC-SHA-256");
}

/// The key that is used in a domain's name for one purpose: HKDF-SHA-512 over the domain key `s` (the
/// canonical 32 bytes of its scalar), without salt, info = [label, domain, key version, purpose].
/// `s` itself is never used as a key.
///
/// # Errors
/// `memory_lock` when the arena cannot be had or is full.
pub fn domain_use_key(
    s: &[u8; 32],
    domain: &DomainId,
    key_version: u64,
    purpose: &str,
) -> Result<Secret<32>> {
    let mut info = Encoder::new(Vec::new());
    put(info.array(4));
    put(info.str(label::DOMAIN_USE));
    domain.put(&mut info);
    key_version.put(&mut info);
    put(info.str(purpose));
    let mut key = Secret::zeroed()?;
    hkdf_sha512(s, &[], &info.into_writer(), key.expose_mut());
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use serde_json::Value;

    use super::*;

    fn unhex(value: &Value) -> Vec<u8> {
        hex::decode(value.as_str().expect("text")).expect("hexadecimal")
    }

    fn cases(json: &str) -> Vec<(Value, Value)> {
        let file: Value = serde_json::from_str(json).expect("JSON");
        let groups = file["testGroups"].as_array().expect("groups");
        let cases: Vec<_> = groups
            .iter()
            .flat_map(|g| g["tests"].as_array().expect("tests").iter().map(|t| (g.clone(), t.clone())))
            .collect();
        assert_eq!(Some(cases.len() as u64), file["numberOfTests"].as_u64());
        cases
    }

    fn wycheproof(algorithm: hkdf::Algorithm, json: &str) {
        for (_, t) in cases(json) {
            let size = usize::try_from(t["size"].as_u64().expect("size")).expect("fits");
            let mut out = vec![0; size];
            let made = catch_unwind(AssertUnwindSafe(|| {
                hkdf(algorithm, &unhex(&t["ikm"]), &unhex(&t["salt"]), &unhex(&t["info"]), &mut out);
            }));
            // The only invalid cases ask for more than 255 hash lengths.
            assert_eq!(made.is_ok(), t["result"] == "valid", "{t}");
            if made.is_ok() {
                assert_eq!(out, unhex(&t["okm"]), "{t}");
            }
        }
    }

    #[test]
    fn hkdf_sha512_agrees_with_wycheproof() {
        wycheproof(
            hkdf::HKDF_SHA512,
            include_str!("../../../tests/vectors/wycheproof/hkdf_sha512_test.json"),
        );
    }

    #[test]
    fn the_same_code_with_sha256_agrees_with_wycheproof() {
        wycheproof(
            hkdf::HKDF_SHA256,
            include_str!("../../../tests/vectors/wycheproof/hkdf_sha256_test.json"),
        );
    }

    /// RFC 5869 has vectors for SHA-1 and SHA-256 only.
    #[test]
    fn the_same_code_with_sha256_agrees_with_rfc_5869() {
        let text = include_str!("../../../tests/vectors/hkdf/rfc-5869-HKDF-SHA256.txt");
        let field = |case: &str, name: &str| {
            let line = case.lines().find(|l| l.split('=').next().is_some_and(|n| n.trim() == name));
            let value = line.unwrap_or_else(|| panic!("no {name}")).split('=').nth(1).expect("a value");
            hex::decode(value.trim()).expect("hexadecimal")
        };
        let cases: Vec<&str> = text.split("COUNT").skip(1).collect();
        assert_eq!(cases.len(), 3);
        for case in cases {
            let want = field(case, "OKM");
            let mut out = vec![0; want.len()];
            let (ikm, salt, info) = (field(case, "IKM"), field(case, "salt"), field(case, "info"));
            hkdf(hkdf::HKDF_SHA256, &ikm, &salt, &info, &mut out);
            assert_eq!(out, want, "{case}");
        }
    }

    #[test]
    fn hmac_sha256_agrees_with_wycheproof() {
        for (_, t) in cases(include_str!("../../../tests/vectors/wycheproof/hmac_sha256_test.json")) {
            let mut mac = [0; 32];
            hmac_sha256(&unhex(&t["key"]), &unhex(&t["msg"]), &mut mac);
            let tag = unhex(&t["tag"]); // half of the cases carry a tag cut to 16 bytes
            assert_eq!(mac[..tag.len()] == tag[..], t["result"] == "valid", "{t}");
        }
    }

    /// The verifier of requests takes whole tags only: a right one, cut short, is refused as well.
    #[test]
    fn request_signatures_agree_with_wycheproof() {
        let mut seen = [0; 3];
        for (group, t) in cases(include_str!("../../../tests/vectors/wycheproof/hmac_sha256_test.json")) {
            let Ok(mut key) = <[u8; 32]>::try_from(unhex(&t["key"])) else { continue };
            let key = Secret::take_from(&mut key).expect("arena");
            let got = crate::keys::sigv4::verify(&key, &unhex(&t["msg"]), t["tag"].as_str().expect("text"));
            let whole = group["tagSize"] == 256;
            assert_eq!(got.is_ok(), whole && t["result"] == "valid", "{t}");
            seen[if got.is_ok() { 0 } else { 1 + usize::from(whole) }] += 1;
        }
        assert_eq!(seen, [27, 81, 54]);
    }

    #[test]
    fn a_domain_use_key_depends_on_every_input() {
        let domain = |name| DomainId::new(name).expect("a name");
        let make = |s, name, version, purpose| {
            *domain_use_key(&[s; 32], &domain(name), version, purpose).expect("arena").expose()
        };
        let keys = [
            make(1, "default", 1, "wrap"),
            make(2, "default", 1, "wrap"),
            make(1, "other", 1, "wrap"),
            make(1, "default", 2, "wrap"),
            make(1, "default", 1, "sign"),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "input {i} is ignored");
        }
        assert_eq!(keys[0], make(1, "default", 1, "wrap"));
        // Frozen: stored tokens depend on it. By Python's hmac module over the info
        // 84 781a 'quorate/v1/keys/domain-use' 67 'default' 01 64 'wrap'.
        assert_eq!(hex::encode(keys[0]), "7d3bff1ce81ade1eaba786da0844a8a0ab6cc25a6a2969ba80a4adaa0383ace5");
    }
}
