//! attack N81: "invisible salamanders" (Dodis et al. 2018): one AES-GCM ciphertext and tag that
//! open under two keys. It is made here for real, by solving GHASH's polynomial for one block, and then
//! put into a blob of our format, by an attacker who knows both backing keys.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};
use quorate_core::error::Code;
use quorate_core::keys::blob;
use quorate_core::keys::kdf::hkdf_sha512;
use quorate_core::memory::Secret;

/// Product in GF(2^128), GCM's bit order (SP 800-38D §6.3).
fn mul(x: u128, y: u128) -> u128 {
    let (mut z, mut v) = (0, y);
    for i in (0..128).rev() {
        if x >> i & 1 == 1 {
            z ^= v;
        }
        v = if v & 1 == 1 { v >> 1 ^ 0xe1 << 120 } else { v >> 1 };
    }
    z
}

fn pow(x: u128, mut exponent: u128) -> u128 {
    let (mut out, mut square) = (1 << 127, x);
    while exponent > 0 {
        if exponent & 1 == 1 {
            out = mul(out, square);
        }
        square = mul(square, square);
        exponent >>= 1;
    }
    out
}

/// x^(2^128 − 2), by Fermat.
fn inverse(x: u128) -> u128 {
    pow(x, u128::MAX - 1)
}

fn blocks(bytes: &[u8]) -> impl Iterator<Item = u128> {
    bytes.chunks(16).map(|chunk| {
        let mut block = [0; 16];
        block[..chunk.len()].copy_from_slice(chunk);
        u128::from_be_bytes(block)
    })
}

/// One message key of GCM, taken apart.
struct Gcm {
    key: [u8; 32],
    nonce: [u8; 12],
}

impl Gcm {
    fn block(&self, input: u128) -> u128 {
        let key = UnboundCipherKey::new(&AES_256, &self.key).expect("32 bytes");
        let mut block = input.to_be_bytes();
        EncryptingKey::ecb(key).expect("a key").encrypt(&mut block).expect("one block");
        u128::from_be_bytes(block)
    }

    fn h(&self) -> u128 {
        self.block(0)
    }

    fn tag(&self, aad: &[u8], ciphertext: &[u8]) -> u128 {
        let lengths = (aad.len() as u128 * 8) << 64 | (ciphertext.len() as u128 * 8);
        let h = self.h();
        let ghash =
            blocks(aad).chain(blocks(ciphertext)).chain([lengths]).fold(0, |sum, block| mul(sum ^ block, h));
        let mut counter = [0; 16];
        counter[..12].copy_from_slice(&self.nonce);
        counter[15] = 1;
        ghash ^ self.block(u128::from_be_bytes(counter))
    }

    /// Plain AES-256-GCM of the library, no commitment.
    fn opens(&self, aad: &[u8], sealed: &[u8]) -> bool {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.key).expect("32 bytes"));
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        key.open_in_place(nonce, Aad::from(aad), &mut sealed.to_vec()).is_ok()
    }
}

/// Ciphertext (16 bytes solved for, then `rest`) and tag that verify under both keys. The first of m
/// blocks has the coefficient H^(m+1) in GHASH, so the two tags are equal for
/// X = (tag₁(0 ‖ rest) − tag₂(0 ‖ rest)) / (H₁^(m+1) − H₂^(m+1)).
fn salamander(one: &Gcm, two: &Gcm, aad: &[u8], rest: &[u8; 32]) -> Vec<u8> {
    let mut text = [[0; 16].as_slice(), rest].concat();
    let power = text.len() as u128 / 16 + 1;
    let difference = one.tag(aad, &text) ^ two.tag(aad, &text);
    let block = mul(difference, inverse(pow(one.h(), power) ^ pow(two.h(), power)));
    text[..16].copy_from_slice(&block.to_be_bytes());
    let tag = one.tag(aad, &text);
    [text, tag.to_be_bytes().to_vec()].concat()
}

#[test]
fn n81_plain_gcm_opens_one_ciphertext_under_two_keys() {
    let one = Gcm { key: [1; 32], nonce: [3; 12] };
    let two = Gcm { key: [2; 32], nonce: [3; 12] };
    let sealed = salamander(&one, &two, b"associated data", b"both readers get their own text.");
    assert!(one.opens(b"associated data", &sealed));
    assert!(two.opens(b"associated data", &sealed));
    assert!(!one.opens(b"other", &sealed));
}

/// What the format derives from a backing key: commitment (32) ‖ key (32) ‖ nonce (12).
fn derive(backing: [u8; 32], salt: [u8; 32], info: &[u8]) -> ([u8; 32], Gcm) {
    let mut out = [0; 76];
    hkdf_sha512(&backing, &salt, info, &mut out);
    let gcm = Gcm {
        key: out[32..64].try_into().expect("32 bytes"),
        nonce: out[64..].try_into().expect("12 bytes"),
    };
    (out[..32].try_into().expect("32 bytes"), gcm)
}

#[test]
fn n81_a_blob_opens_under_the_key_it_commits_to_and_no_other() {
    let header = [[1].as_slice(), &[0xab; 16], &[0, 0, 0, 1]].concat();
    // [label, header, context], written by hand: {"a": "b"} as [["a", "b"]].
    let info =
        [&[0x83, 0x74][..], b"quorate/v1/keys/blob", &[0x55], &header, &[0x81, 0x82, 0x61, b'a', 0x61, b'b']]
            .concat();
    let salt = [5; 32];
    let (commitment_1, one) = derive([1; 32], salt, &info);
    let (commitment_2, two) = derive([2; 32], salt, &info);
    let sealed = salamander(&one, &two, &info, b"both readers get their own text.");
    assert!(one.opens(&info, &sealed) && two.opens(&info, &sealed), "GCM alone would open it twice");

    let context = [("a".to_owned(), "b".to_owned())];
    let open = |backing: u8, commitment: [u8; 32]| {
        let blob = [&header[..], &salt, &commitment, &sealed].concat();
        let backing = Secret::take_from(&mut [backing; 32]).expect("arena");
        blob::decrypt(&backing, &context, &blob).map(|text| text.len()).map_err(|e| e.code)
    };
    assert_eq!(open(1, commitment_1), Ok(48));
    assert_eq!(open(2, commitment_1), Err(Code::KeyCommitment));
    assert_eq!(open(2, commitment_2), Ok(48));
    assert_eq!(open(1, commitment_2), Err(Code::KeyCommitment));
}
