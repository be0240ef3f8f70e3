use proptest::prelude::*;

use super::*;
use crate::ids::Epoch;
use crate::rng::SeededRng;
use crate::seal::statement::sign;

crate::statement! {
    /// A statement that is no fleet message.
    pub struct Stranger = "quorate/v1/test/stranger" { pub epoch: Epoch }
}

const FLEET: FleetId = FleetId([7; 16]);

fn name(text: &str) -> NodeId {
    NodeId::new(text).expect("name")
}

fn signer(n: u8) -> SigningKey {
    SigningKey::from_seed(Secret::take_from(&mut [n; 32]).expect("arena"))
}

fn fleet_key(n: u8) -> FleetKey {
    FleetKey::from_secret(Secret::take_from(&mut [n; 32]).expect("arena"))
}

fn roster(who: &NodeId) -> Option<VerifyKey> {
    match who.as_str() {
        "node-1" => Some(signer(1).public()),
        "node-2" => Some(signer(2).public()),
        _ => None,
    }
}

fn header() -> Header {
    Header {
        version: OLDEST,
        fleet: FLEET,
        fleet_epoch: 3,
        from: name("node-1"),
        to: name("node-2"),
        kind: "heartbeat".into(),
        boot: 4,
        seq: 5,
        to_boot: 6,
        salt: [8; 32],
    }
}

fn message() -> Vec<u8> {
    seal_message(&header(), b"body", &fleet_key(3), &signer(1)).expect("seals")
}

fn open_at(me: &str, bytes: &[u8]) -> Result<(Header, Vec<u8>)> {
    let key = fleet_key(3);
    open_message(
        bytes,
        NEWEST,
        &FLEET,
        &name(me),
        &|epoch| if epoch == 3 { Ok(&key) } else { fail(Code::NoFleetKey, "none") },
        &roster,
    )
}

fn code(bytes: &[u8]) -> Code {
    open_at("node-2", bytes).expect_err("refused").code
}

/// A message with these parts, properly signed by node-1.
fn signed(header: &Header, ciphertext: Vec<u8>) -> Vec<u8> {
    let message = Message { header: Bytes(encode(header)), ciphertext: Bytes(ciphertext) };
    sign(message, &FLEET, &name("node-1"), &signer(1)).bytes().to_vec()
}

fn ciphertext(message: &[u8]) -> Vec<u8> {
    Unverified::<Message>::read(message).expect("reads").body().ciphertext.0.clone()
}

#[test]
fn a_message_arrives_as_it_was_sent() {
    assert_eq!(open_at("node-2", &message()).expect("opens"), (header(), b"body".to_vec()));
    assert_eq!(peek_header(&message(), NEWEST).expect("reads"), header());
    assert!(!message().windows(4).any(|w| w == b"body"), "the body is encrypted");
}

/// Key and nonce by HKDF written out with HMAC (RFC 5869 §2), so that the format is fixed by more than
/// this file's own code.
#[test]
fn the_body_is_encrypted_as_the_format_says() {
    use aws_lc_rs::hmac;
    let sign = |key: &[u8], parts: &[&[u8]]| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, key), &parts.concat()).as_ref().to_vec()
    };
    let encoded = encode(&header());
    let info = [
        b"\x82\x78\x18quorate/v1/fleet/message\x58".as_slice(),
        &[u8::try_from(encoded.len()).expect("short")],
        &encoded,
    ]
    .concat();
    let prk = sign(&[8; 32], &[&[3; 32]]);
    let okm = sign(&prk, &[&info, &[1]]);
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &okm[..32]).expect("key"));
    let nonce = aead::Nonce::try_assume_unique_for_key(&okm[32..44]).expect("nonce");
    let mut body = ciphertext(&message());
    assert_eq!(key.open_in_place(nonce, aead::Aad::empty(), &mut body).expect("opens"), b"body");
}

#[test]
fn n55_a_change_to_any_header_field_fails_signed_or_not() {
    let other = |change: &dyn Fn(&mut Header)| {
        let mut h = header();
        change(&mut h);
        h
    };
    let cases: [(Header, Code); 11] = [
        (other(&|h| h.version = 2), Code::UnknownVersion),
        (other(&|h| h.fleet = FleetId([9; 16])), Code::WrongFleet),
        (other(&|h| h.fleet_epoch = 2), Code::NoFleetKey),
        (other(&|h| h.from = name("node-2")), Code::BadSignature),
        (other(&|h| h.from = name("node-9")), Code::BadSignature),
        (other(&|h| h.to = name("node-3")), Code::WrongRecipient),
        (other(&|h| h.kind = "grant".into()), Code::NotOpened),
        (other(&|h| h.boot = 5), Code::NotOpened),
        (other(&|h| h.seq = 6), Code::NotOpened),
        (other(&|h| h.to_boot = 7), Code::NotOpened),
        (other(&|h| h.salt[31] = 9), Code::NotOpened),
    ];
    let sealed = ciphertext(&message());
    for (changed, want) in cases {
        // Signed anew by the sender, over the ciphertext of another header.
        assert_eq!(code(&signed(&changed, sealed.clone())), want, "{changed:?}");
        // The header changed under the old signature.
        let good = message();
        let signature = &good[good.len() - 64..];
        let mut bad = signed(&changed, sealed.clone());
        let at = bad.len() - 64;
        bad[at..].copy_from_slice(signature);
        let got = code(&bad);
        let unsigned =
            if matches!(want, Code::NotOpened | Code::NoFleetKey) { Code::BadSignature } else { want };
        assert_eq!(got, unsigned, "{changed:?}");
    }
}

#[test]
fn n66_another_version_is_named_whatever_follows_it() {
    let mut future = Encoder::new(Vec::new());
    put(put(put(future.array(2)).u8(9)).str("something new"));
    let body = Message { header: Bytes(future.into_writer()), ciphertext: Bytes(vec![]) };
    let bytes = sign(body, &FLEET, &name("node-1"), &signer(1)).bytes().to_vec();
    let error = open_at("node-2", &bytes).expect_err("refused");
    assert_eq!(error.code, Code::UnknownVersion);
    assert!(error.what.contains("version 9"), "{error}");
    for version in [OLDEST - 1, NEWEST + 1] {
        let other =
            seal_message(&Header { version, ..header() }, b"", &fleet_key(3), &signer(1)).expect("seals");
        assert_eq!(code(&other), Code::UnknownVersion);
    }
}

#[test]
fn n56_a_message_is_for_one_recipient_from_one_known_sender() {
    assert_eq!(open_at("node-3", &message()).expect_err("refused").code, Code::WrongRecipient);
    let unknown = Header { from: name("node-9"), ..header() };
    let bytes = seal_message(&unknown, b"body", &fleet_key(3), &signer(1)).expect("seals");
    assert_eq!(code(&bytes), Code::UnknownSigner);
    let forged = seal_message(&header(), b"body", &fleet_key(3), &signer(2)).expect("seals");
    assert_eq!(code(&forged), Code::BadSignature);
}

#[test]
fn only_the_named_fleet_epochs_key_opens_a_message() {
    let bytes = seal_message(&header(), b"body", &fleet_key(4), &signer(1)).expect("seals");
    assert_eq!(code(&bytes), Code::NotOpened);
    let old = seal_message(&Header { fleet_epoch: 2, ..header() }, b"body", &fleet_key(2), &signer(1));
    assert_eq!(code(&old.expect("seals")), Code::NoFleetKey);
}

#[test]
fn n55_another_statement_is_no_message() {
    let other = sign(Stranger { epoch: Epoch(1) }, &FLEET, &name("node-1"), &signer(1));
    assert_eq!(code(other.bytes()), Code::WrongKind);
    assert_eq!(peek_header(other.bytes(), NEWEST).expect_err("refused").code, Code::WrongKind);
}

#[test]
fn n03_altered_truncated_and_malformed_messages_are_refused() {
    let good = message();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(open_at("node-2", &bad).is_err(), "byte {at}");
        assert_eq!(code(&good[..at]), Code::BadEncoding, "{at} bytes");
    }
    for len in [0, 15] {
        assert_eq!(code(&signed(&header(), vec![0; len])), Code::NotOpened, "a body of {len} bytes");
    }
    let raw = |header: &[u8]| {
        let body = Message { header: Bytes(header.to_vec()), ciphertext: Bytes(vec![0; 20]) };
        sign(body, &FLEET, &name("node-1"), &signer(1)).bytes().to_vec()
    };
    let encoded = encode(&header());
    for bad in [&[], &[0x80][..], &[0x81, 0x01], &[0xf6], &[0x9f, 0x01], &[&encoded[..], &[0]].concat()] {
        assert_eq!(code(&raw(bad)), Code::BadEncoding, "{bad:02x?}");
    }
}

#[test]
fn n80_no_two_messages_have_one_key() {
    let mut rng = SeededRng::new(1);
    let mut salted = |seq| {
        let mut salt = [0; 32];
        rng.fill_bytes(&mut salt);
        let h = Header { seq, salt, ..header() };
        ciphertext(&seal_message(&h, &[0; 32], &fleet_key(3), &signer(1)).expect("seals"))
    };
    assert_ne!(salted(1), salted(1), "one sequence number, two salts");
    let of = |seq| {
        let h = Header { seq, ..header() };
        ciphertext(&seal_message(&h, &[0; 32], &fleet_key(3), &signer(1)).expect("seals"))
    };
    assert_ne!(of(1), of(2), "one salt, two sequence numbers");
}

fn replayed(r: Result<()>) -> bool {
    match r {
        Ok(()) => false,
        Err(e) => {
            assert_eq!(e.code, Code::Replayed);
            true
        }
    }
}

#[test]
fn n56_a_message_counts_once_in_any_order() {
    let mut window = Window::new(1);
    for seq in [5, 3, 4, 0] {
        window.accept(1, seq).expect("new");
    }
    for seq in [5, 3, 4, 0] {
        assert!(replayed(window.accept(1, seq)), "{seq}");
    }
    window.accept(1, 1).expect("new");
}

#[test]
fn n56_what_is_older_than_the_window_counts_as_seen() {
    let mut window = Window::new(1);
    window.accept(1, 5000).expect("new");
    window.accept(1, 5000 - 1023).expect("within the window");
    assert!(replayed(window.accept(1, 5000 - 1024)));
    window.accept(1, u64::MAX).expect("new");
    assert!(replayed(window.accept(1, 5000)));
    assert!(replayed(window.accept(1, u64::MAX)));
    window.accept(1, u64::MAX - 1023).expect("new");
}

#[test]
fn n56_an_older_boot_is_stale_and_a_newer_one_counts_anew() {
    let mut window = Window::new(4);
    assert_eq!(window.accept(3, 0).expect_err("refused").code, Code::StaleBoot);
    window.accept(4, 9).expect("new");
    window.accept(5, 9).expect("a new boot");
    assert_eq!(window.boot(), 5);
    assert_eq!(window.accept(4, 10).expect_err("refused").code, Code::StaleBoot);
    assert!(replayed(window.accept(5, 9)));
}

proptest! {
    /// Against the definition: seen before, or 1024 and more behind the highest.
    #[test]
    fn n56_the_window_agrees_with_a_list_of_all_that_was_seen(
        steps in prop::collection::vec(prop_oneof![0..40_u64, 0..3000_u64, Just(1023_u64), Just(1024_u64), Just(1025_u64)], 1..200),
        back in prop::collection::vec(any::<bool>(), 200),
    ) {
        let mut window = Window::new(0);
        let mut seen = std::collections::BTreeSet::new();
        let mut at = 10_000u64;
        for (step, back) in steps.into_iter().zip(back) {
            at = if back { at.saturating_sub(step) } else { at + step };
            let highest = seen.last().copied().unwrap_or(0);
            let want = seen.contains(&at) || at + 1024 <= highest;
            prop_assert_eq!(replayed(window.accept(0, at)), want, "{} after {}", at, highest);
            seen.insert(at);
        }
    }
}
