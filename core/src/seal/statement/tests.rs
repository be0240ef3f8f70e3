use super::*;
use crate::encoding::Bytes;
use crate::ids::Epoch;
use crate::memory::Secret;
use crate::rng::SeededRng;

crate::statement! {
    /// A statement of tests.
    pub struct Note = "quorate/v1/test/note" {
        pub fleet: FleetId,
        pub a: Bytes,
        pub b: Bytes,
        pub epoch: Epoch,
    }
}

crate::statement! {
    /// The same body under another label.
    pub struct Other = "quorate/v1/test/other" {
        pub fleet: FleetId,
        pub a: Bytes,
        pub b: Bytes,
        pub epoch: Epoch,
    }
}

crate::statement! {
    /// A statement that names its own key.
    pub struct Hello = "quorate/v1/test/hello" { pub key: VerifyKey }
}

const FLEET: FleetId = FleetId([7; 16]);

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(Secret::take_from(&mut [n; 32]).expect("arena"))
}

fn name(text: &str) -> NodeId {
    NodeId::new(text).expect("name")
}

fn note() -> Note {
    Note { fleet: FLEET, a: Bytes(b"ab".to_vec()), b: Bytes(b"c".to_vec()), epoch: Epoch(1) }
}

/// The roster of these tests: node-1 has key 1, node-2 has key 2.
fn roster(who: &NodeId) -> Option<VerifyKey> {
    match who.as_str() {
        "node-1" => Some(key(1).public()),
        "node-2" => Some(key(2).public()),
        _ => None,
    }
}

fn signed() -> Signed<Note> {
    sign(note(), &FLEET, &name("node-1"), &key(1))
}

fn code_of(bytes: &[u8]) -> Code {
    open::<Note>(bytes, &FLEET, &roster).expect_err("refused").code
}

/// Our bytes without this file's own writer: CBOR by hand, the signature in its place.
fn by_hand(header: &[u8], unprotected: &[u8], payload: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    let mut bytes = vec![0x84, 0x58, u8::try_from(header.len()).expect("short")];
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(unprotected);
    bytes.extend_from_slice(&[0x58, u8::try_from(payload.len()).expect("short")]);
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&[0x58, 64]);
    bytes.extend_from_slice(signature);
    bytes
}

/// `{1: -8, 4: 'node-1', 16: "quorate/v1/test/note"}`.
const HEADER: &[u8] = b"\xa3\x01\x27\x04\x46node-1\x10\x74quorate/v1/test/note";

fn payload() -> Vec<u8> {
    [b"\x84\x50".as_slice(), &[7; 16], b"\x42ab\x41c\x01"].concat()
}

/// `Sig_structure` (RFC 9052 §4.4) by hand.
fn signature_over(header: &[u8], payload: &[u8]) -> [u8; 64] {
    let mut tbs = b"\x84\x6aSignature1\x58".to_vec();
    tbs.push(u8::try_from(header.len()).expect("short"));
    tbs.extend_from_slice(header);
    tbs.push(0x50);
    tbs.extend_from_slice(&FLEET.0);
    tbs.extend_from_slice(&[0x58, u8::try_from(payload.len()).expect("short")]);
    tbs.extend_from_slice(payload);
    key(1).sign(&tbs)
}

#[test]
fn a_statement_is_the_cose_sign1_of_rfc_9052() {
    let want = by_hand(HEADER, &[0xa0], &payload(), &signature_over(HEADER, &payload()));
    assert_eq!(signed().bytes(), want);
}

#[test]
fn what_is_signed_opens_with_body_signer_bytes_and_hash() {
    let signed = signed();
    let opened = open::<Note>(signed.bytes(), &FLEET, &roster).expect("opens");
    assert_eq!(opened, signed);
    assert_eq!(opened.body(), &note());
    assert_eq!(opened.signer(), &name("node-1"));
    assert_eq!(opened.hash(), Hash(digest(Note::LABEL, &payload())));
    assert_eq!(opened.hash(), hash_of(&note()));
    assert_eq!(peek(signed.bytes()).expect("reads"), (Note::LABEL.to_owned(), name("node-1")));
    assert_eq!(opened.into_body(), note());
}

#[test]
fn n55_one_kind_never_passes_for_another() {
    let other = sign(
        Other { fleet: FLEET, a: note().a, b: note().b, epoch: Epoch(1) },
        &FLEET,
        &name("node-1"),
        &key(1),
    );
    assert_eq!(code_of(other.bytes()), Code::WrongKind);
    // The other's signature under this one's label.
    let position = other.bytes().len() - 64;
    let signature = other.bytes()[position..].try_into().expect("64 bytes");
    assert_eq!(code_of(&by_hand(HEADER, &[0xa0], &payload(), &signature)), Code::BadSignature);
    assert_ne!(other.hash(), hash_of(&note()));
}

#[test]
fn a_signature_holds_for_its_signer_and_fleet_alone() {
    let as_other = sign(note(), &FLEET, &name("node-2"), &key(1));
    assert_eq!(code_of(as_other.bytes()), Code::BadSignature);
    let unknown = sign(note(), &FLEET, &name("node-9"), &key(1));
    assert_eq!(code_of(unknown.bytes()), Code::UnknownSigner);
    let other_fleet = open::<Note>(signed().bytes(), &FleetId([8; 16]), &roster);
    assert_eq!(other_fleet.expect_err("refused").code, Code::BadSignature);
}

#[test]
fn n22_moving_a_boundary_changes_signature_and_hash() {
    let shifted = Note { a: Bytes(b"a".to_vec()), b: Bytes(b"bc".to_vec()), ..note() };
    assert_ne!(hash_of(&shifted), hash_of(&note()));
    let bytes = by_hand(HEADER, &[0xa0], &encode(&shifted), &signature_over(HEADER, &payload()));
    assert_eq!(code_of(&bytes), Code::BadSignature);
    // Between label and payload of the hash, too.
    assert_ne!(digest("quorate/v1/a/b", b"cd"), digest("quorate/v1/a/bc", b"d"));
}

#[test]
fn n21_each_field_of_the_body_is_signed() {
    for changed in [
        Note { fleet: FleetId([8; 16]), ..note() },
        Note { a: Bytes(b"xy".to_vec()), ..note() },
        Note { b: Bytes(b"d".to_vec()), ..note() },
        Note { epoch: Epoch(2), ..note() },
    ] {
        let bytes = by_hand(HEADER, &[0xa0], &encode(&changed), &signature_over(HEADER, &payload()));
        assert_eq!(code_of(&bytes), Code::BadSignature, "{changed:?}");
        assert_ne!(hash_of(&changed), hash_of(&note()));
    }
}

#[test]
fn n03_every_altered_byte_and_every_truncation_is_refused() {
    let good = signed().bytes().to_vec();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(open::<Note>(&bad, &FLEET, &roster).is_err(), "byte {at}, bit {bit}");
        }
        assert_eq!(code_of(&good[..at]), Code::BadEncoding, "{at} bytes");
    }
    assert_eq!(code_of(&[good.as_slice(), &[0]].concat()), Code::BadEncoding);
}

#[test]
fn n03_only_the_canonical_form_is_read_though_the_signature_holds() {
    let good = payload();
    let signature = signature_over(HEADER, &good);
    let tagged = [&[0xd2], signed().bytes()].concat();
    let unprotected = by_hand(HEADER, b"\xa1\x04\x41x", &good, &signature);
    let reordered: &[u8] = b"\xa3\x04\x46node-1\x01\x27\x10\x74quorate/v1/test/note";
    let extra: &[u8] = b"\xa4\x01\x27\x04\x46node-1\x10\x74quorate/v1/test/note\x18\x21\x00";
    let unnamed: &[u8] = b"\xa2\x01\x27\x10\x74quorate/v1/test/note";
    let es256: &[u8] = b"\xa3\x01\x26\x04\x46node-1\x10\x74quorate/v1/test/note";
    let long_int = [&good[..good.len() - 1], &[0x18, 0x01]].concat();
    let more = [&[0x85], &good[1..], &[0x00]].concat();
    let sign_again =
        |header, payload: &[u8]| by_hand(header, &[0xa0], payload, &signature_over(header, payload));
    for bytes in [
        tagged,
        unprotected,
        sign_again(reordered, &good),
        sign_again(extra, &good),
        sign_again(unnamed, &good),
        sign_again(es256, &good),
        sign_again(HEADER, &long_int),
        sign_again(HEADER, &more),
        sign_again(HEADER, &[]),
        vec![0x9f; 4096], // nested arrays without end
    ] {
        assert_eq!(code_of(&bytes), Code::BadEncoding, "{}", hex::encode(&bytes[..8]));
    }
    assert_eq!(code_of(&vec![0; MAX_LEN + 1]), Code::TooLarge);
    assert_eq!(peek(&vec![0; MAX_LEN + 1]).expect_err("refused").code, Code::TooLarge);
}

#[test]
fn a_detached_payload_is_no_statement() {
    let bytes = write(cose(Note::LABEL, &name("node-1"), None, vec![0; 64]));
    assert_eq!(code_of(&bytes), Code::BadEncoding);
}

#[test]
fn a_self_signed_statement_proves_possession_of_the_key_it_names() {
    let new = SigningKey::generate(&mut SeededRng::new(1)).expect("arena");
    let body = Hello { key: new.public() };
    let good = sign(body.clone(), &FLEET, &name("node-9"), &new);
    let opened = open_self_signed::<Hello>(good.bytes(), &FLEET, &|hello| hello.key).expect("opens");
    assert_eq!(opened.body(), &body);
    let forged = sign(body, &FLEET, &name("node-9"), &key(1));
    let code =
        open_self_signed::<Hello>(forged.bytes(), &FLEET, &|hello| hello.key).expect_err("refused").code;
    assert_eq!(code, Code::BadSignature);
}

#[test]
fn n64_a_self_signed_statement_with_a_small_order_key_is_refused() {
    // y = 1, the identity: with it R = S = 0 would verify for any message without strictness.
    let mut weak = vec![0x81, 0x58, 0x20, 0x01];
    weak.resize(35, 0);
    let header: &[u8] = b"\xa3\x01\x27\x04\x46node-9\x10\x75quorate/v1/test/hello";
    let mut signature = [0; 64];
    signature[0] = 1;
    let bytes = by_hand(header, &[0xa0], &weak, &signature);
    let code = open_self_signed::<Hello>(&bytes, &FLEET, &|hello| hello.key).expect_err("refused").code;
    assert_eq!(code, Code::WeakKey);
}

fn approval_code(bytes: &[u8]) -> Code {
    open_approved::<Note>(bytes, &FLEET, &key(9).public()).expect_err("refused").code
}

fn signature_of(who: &NodeId, with: &SigningKey, label: &str) -> CoseSign1 {
    let signature = with.sign(&to_be_signed(label, who, &FLEET, &encode(&note())));
    cose(label, who, None, signature.to_vec())
}

#[test]
fn what_the_operator_approved_opens_under_the_operators_key_alone() {
    let bytes = approve(&note(), &FLEET, &key(9));
    let opened = open_approved::<Note>(&bytes, &FLEET, &key(9).public()).expect("opens");
    assert_eq!((opened.body(), opened.bytes(), opened.hash()), (&note(), &bytes[..], hash_of(&note())));
    assert_eq!(opened.into_body(), note());
    assert_eq!(approval_code(&approve(&note(), &FLEET, &key(1))), Code::BadSignature);
    assert_eq!(approval_code(&approve(&note(), &FleetId([8; 16]), &key(9))), Code::BadSignature);
    let other = Other { fleet: FLEET, a: note().a, b: note().b, epoch: Epoch(1) };
    assert_eq!(approval_code(&approve(&other, &FLEET, &key(9))), Code::WrongKind);
}

#[test]
fn n05_an_approval_without_signatures_is_refused() {
    assert_eq!(approval_code(&write_approved(encode(&note()), vec![])), Code::BadSignature);
}

#[test]
fn n65_every_signature_of_an_approval_counts_and_none_counts_twice() {
    let operator = NodeId::operator();
    let good = || signature_of(&operator, &key(9), Note::LABEL);
    let list = |signatures| write_approved(encode(&note()), signatures);
    open_approved::<Note>(&list(vec![good()]), &FLEET, &key(9).public()).expect("opens");
    assert_eq!(approval_code(&list(vec![good(), good()])), Code::BadSignature);
    let forged = signature_of(&operator, &key(1), Note::LABEL);
    assert_eq!(approval_code(&list(vec![forged.clone()])), Code::BadSignature);
    assert_eq!(approval_code(&list(vec![forged, good()])), Code::BadSignature);
    let module = signature_of(&name("node-1"), &key(1), Note::LABEL);
    assert_eq!(approval_code(&list(vec![module.clone()])), Code::UnknownSigner);
    assert_eq!(approval_code(&list(vec![good(), module])), Code::UnknownSigner);
    let other = signature_of(&operator, &key(9), Other::LABEL);
    assert_eq!(approval_code(&list(vec![other])), Code::WrongKind);
    assert_eq!(approval_code(&list(vec![good(); MAX_APPROVALS + 1])), Code::BadEncoding);
}

/// A statement that a module signed as "operator" is none of the operator's, and the other way round.
#[test]
fn n92_a_statement_is_no_approval_and_an_approval_no_statement() {
    let statement = sign(note(), &FLEET, &NodeId::operator(), &key(9));
    assert_eq!(approval_code(statement.bytes()), Code::BadEncoding);
    let approval = approve(&note(), &FLEET, &key(9));
    let code = open::<Note>(&approval, &FLEET, &|_| Some(key(9).public())).expect_err("refused").code;
    assert_eq!(code, Code::BadEncoding);
}

#[test]
fn n03_every_altered_byte_of_an_approval_is_refused() {
    let good = approve(&note(), &FLEET, &key(9));
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(open_approved::<Note>(&bad, &FLEET, &key(9).public()).is_err(), "byte {at}, bit {bit}");
        }
        assert_eq!(approval_code(&good[..at]), Code::BadEncoding, "{at} bytes");
    }
    assert_eq!(approval_code(&[good.as_slice(), &[0]].concat()), Code::BadEncoding);
}
