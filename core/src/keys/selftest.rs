//! Known-answer self-tests of the primitives, run at every start of a module: a build or a machine that
//! computes wrongly must not touch a key.
//!
//! Not here: tests of our own formats and protocols (they belong to `cargo test`).

use aws_lc_rs::digest;
use ed25519_dalek::{Signature, Signer, SigningKey};

use crate::error::{Code, Error, Result, fail};
use crate::keys::{gcm, kdf};

/// Decodes hexadecimal constants when compiling; a wrong length or digit does not compile.
const fn hex<const N: usize>(text: &str) -> [u8; N] {
    const fn digit(b: u8) -> u8 {
        match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            _ => panic!("not a hexadecimal digit"),
        }
    }
    assert!(text.len() == 2 * N);
    let digits = text.as_bytes();
    let mut out = [0; N];
    let mut i = 0;
    while i < N {
        out[i] = digit(digits[2 * i]) << 4 | digit(digits[2 * i + 1]);
        i += 1;
    }
    out
}

/// The right answers, from the documents that define or test the primitives.
struct Answers {
    /// SHA-256 of "abc": FIPS 180-2, B.1.
    sha256: [u8; 32],
    /// HMAC-SHA-256: RFC 4231, test case 2.
    hmac_sha256: [u8; 32],
    /// HKDF-SHA-512: Wycheproof `hkdf_sha512`, test 57.
    hkdf_sha512: [u8; 42],
    /// AES-256-GCM: test case 16 of `McGrew` and Viega, "The Galois/Counter Mode of Operation".
    gcm_ciphertext: [u8; 60],
    gcm_tag: [u8; 16],
    /// Ed25519: RFC 8032 §7.1, test 2.
    ed25519: [u8; 64],
}

const ANSWERS: Answers = Answers {
    sha256: hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    hmac_sha256: hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    hkdf_sha512: hex("22b30c7825570adc130f548a2a16eb50bb088829b76ae7e120e3892cd34c8982c4dd029b011b8bc1b690"),
    gcm_ciphertext: hex(concat!(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa",
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
    )),
    gcm_tag: hex("76fc6ece0f4e1768cddf8853bb2d551b"),
    ed25519: hex(concat!(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    )),
};

/// Runs every self-test.
///
/// # Errors
/// `self_test`, naming the first primitive that fails; the module must then stay locked.
pub fn run() -> Result<()> {
    check(&ANSWERS)
}

fn check(answers: &Answers) -> Result<()> {
    sha256(answers)?;
    hmac_sha256(answers)?;
    hkdf_sha512(answers)?;
    aes_256_gcm(answers)?;
    ed25519(answers)
}

fn failed(primitive: &str) -> Error {
    Error::new(
        Code::SelfTest,
        format!("{primitive} gives wrong results in this build or on this machine; reinstall, or replace it"),
    )
}

fn compare(primitive: &str, got: &[u8], want: &[u8]) -> Result<()> {
    if got == want { Ok(()) } else { Err(failed(primitive)) }
}

fn sha256(answers: &Answers) -> Result<()> {
    compare("SHA-256", digest::digest(&digest::SHA256, b"abc").as_ref(), &answers.sha256)
}

fn hmac_sha256(answers: &Answers) -> Result<()> {
    let mut mac = [0; 32];
    kdf::hmac_sha256(b"Jefe", b"what do ya want for nothing?", &mut mac);
    compare("HMAC-SHA-256", &mac, &answers.hmac_sha256)
}

fn hkdf_sha512(answers: &Answers) -> Result<()> {
    const IKM: [u8; 32] = hex("101fe3335e827789564e7ef23a2a0401ae336d646ab15ed4b5edce6801f128f0");
    const SALT: [u8; 16] = hex("317a34d74b046e021493b750d058227d");
    const INFO: [u8; 20] = hex("8f9b9f4bb9ed5ebda37ea28f97aee40d533a56c9");
    let mut out = [0; 42];
    kdf::hkdf_sha512(&IKM, &SALT, &INFO, &mut out);
    compare("HKDF-SHA-512", &out, &answers.hkdf_sha512)
}

fn aes_256_gcm(answers: &Answers) -> Result<()> {
    const NAME: &str = "AES-256-GCM";
    const KEY: [u8; 32] = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
    const NONCE: [u8; 12] = hex("cafebabefacedbaddecaf888");
    const AAD: [u8; 20] = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    const PLAINTEXT: [u8; 60] = hex(concat!(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    ));
    let mut text = PLAINTEXT;
    let tag = gcm::seal(&KEY, NONCE, &AAD, &mut text).map_err(|_| failed(NAME))?;
    compare(NAME, &text, &answers.gcm_ciphertext)?;
    compare(NAME, &tag, &answers.gcm_tag)?;
    let mut sealed = [text.as_slice(), &tag].concat();
    let opened = gcm::open(&KEY, NONCE, &AAD, &sealed).map_err(|_| failed(NAME))?;
    compare(NAME, &opened, &PLAINTEXT)?;
    sealed[0] ^= 1;
    match gcm::open(&KEY, NONCE, &AAD, &sealed) {
        Err(_) => Ok(()),
        Ok(_) => fail(Code::SelfTest, "AES-256-GCM accepts an altered ciphertext; do not use this build"),
    }
}

fn ed25519(answers: &Answers) -> Result<()> {
    const NAME: &str = "Ed25519";
    const SECRET: [u8; 32] = hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
    const PUBLIC: [u8; 32] = hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
    const MESSAGE: [u8; 1] = [0x72];
    let key = SigningKey::from_bytes(&SECRET);
    let public = key.verifying_key();
    compare(NAME, public.as_bytes(), &PUBLIC)?;
    compare(NAME, &key.sign(&MESSAGE).to_bytes(), &answers.ed25519)?;
    let signature = Signature::from_bytes(&answers.ed25519);
    public.verify_strict(&MESSAGE, &signature).map_err(|_| failed(NAME))?;
    match public.verify_strict(&[0x73], &signature) {
        Err(_) => Ok(()),
        Ok(()) => {
            fail(Code::SelfTest, "Ed25519 accepts a signature of another message; do not use this build")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_primitive_gives_its_known_answer() {
        run().expect("the primitives work here");
    }

    #[test]
    fn one_wrong_answer_fails_the_self_test_and_names_the_primitive() {
        let wrong = [
            ("SHA-256", Answers { sha256: [0; 32], ..ANSWERS }),
            ("HMAC-SHA-256", Answers { hmac_sha256: [0; 32], ..ANSWERS }),
            ("HKDF-SHA-512", Answers { hkdf_sha512: [0; 42], ..ANSWERS }),
            ("AES-256-GCM", Answers { gcm_ciphertext: [0; 60], ..ANSWERS }),
            ("AES-256-GCM", Answers { gcm_tag: [0; 16], ..ANSWERS }),
            ("Ed25519", Answers { ed25519: [0; 64], ..ANSWERS }),
        ];
        for (name, answers) in wrong {
            let error = check(&answers).expect_err("a wrong answer");
            assert_eq!(error.code, Code::SelfTest);
            assert!(error.what.starts_with(name), "{name}: {}", error.what);
        }
    }
}
