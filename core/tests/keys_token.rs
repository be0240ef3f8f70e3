//! Export tokens and the sealed text under them: round trips, and attack N82 for tokens.

use proptest::prelude::*;
use quorate_core::error::Code;
use quorate_core::ids::DomainId;
use quorate_core::keys::sealed;
use quorate_core::keys::token::{self, LATER_LEN, LEN, TokenContext};
use quorate_core::memory::Secret;
use quorate_core::rng::SystemRng;

const FLEET_EPOCH: u64 = 5;

fn key(byte: u8) -> Secret<32> {
    Secret::take_from(&mut [byte; 32]).expect("arena")
}

fn context() -> TokenContext {
    TokenContext {
        domain: DomainId::new("default").expect("a name"),
        key_id: "1234abcd-12ab-34cd-56ef-1234567890ab".to_owned(),
        key_version: 1,
        domain_key_version: 2,
    }
}

/// The backing key (all 9), under a domain key of all 1 and a fleet key of all 2.
fn make() -> Vec<u8> {
    token::wrap(&key(9), &context(), &key(1), &key(2), FLEET_EPOCH, &mut SystemRng).expect("wraps")
}

/// Opens with the domain key of all `domain`, and the fleet key of all `fleet` in [`FLEET_EPOCH`] only.
fn open(text: &[u8], ctx: &TokenContext, domain: u8, fleet: u8) -> Result<[u8; 32], Code> {
    let fleet = key(fleet);
    let opened = token::unwrap(text, ctx, &key(domain), &|epoch| (epoch == FLEET_EPOCH).then_some(&fleet));
    opened.map(|backing| *backing.expose()).map_err(|e| e.code)
}

#[test]
fn a_token_opens_with_both_keys_and_its_context() {
    let text = make();
    assert_eq!(text.len(), LATER_LEN);
    assert_eq!(open(&text, &context(), 1, 2), Ok([9; 32]));
}

#[test]
fn a_token_of_the_first_key_version_has_the_format_that_does_not_name_it() {
    let first = TokenContext { domain_key_version: 1, ..context() };
    let text = token::wrap(&key(9), &first, &key(1), &key(2), FLEET_EPOCH, &mut SystemRng).expect("wraps");
    assert_eq!((text.len(), text[0], token::domain_key_version(&text)), (LEN, 1, Ok(1)));
    assert_eq!(open(&text, &first, 1, 2), Ok([9; 32]));
    assert_eq!((make()[0], token::domain_key_version(&make())), (2, Ok(2)));
    // One version, one form: no token of format 2 says that it is of version 0 or 1.
    for version in [0, 1] {
        let mut other = make();
        other[16] = version;
        assert_eq!(token::domain_key_version(&other).map_err(|e| e.code), Err(Code::BadEncoding));
    }
}

#[test]
fn a_token_opens_with_neither_key_alone() {
    let text = make();
    assert_eq!(open(&text, &context(), 3, 2), Err(Code::KeyCommitment));
    assert_eq!(open(&text, &context(), 1, 3), Err(Code::KeyCommitment));
    assert_eq!(open(&text, &context(), 2, 1), Err(Code::KeyCommitment));
    let gone = token::unwrap(&text, &context(), &key(1), &|_| None).map(|_| ()).map_err(|e| e.code);
    assert_eq!(gone, Err(Code::NoFleetKey));
}

#[test]
fn a_token_is_bound_to_every_field_of_its_context() {
    let text = make();
    let others = [
        TokenContext { domain: DomainId::new("other").expect("a name"), ..context() },
        TokenContext { key_id: "1234ABCD-12ab-34cd-56ef-1234567890ab".to_owned(), ..context() },
        TokenContext { key_version: 2, ..context() },
        TokenContext { domain_key_version: 1, ..context() },
    ];
    for other in others {
        assert_eq!(open(&text, &other, 1, 2), Err(Code::KeyCommitment), "{other:?}");
    }
}

/// A stolen fleet key reaches the inner layer, which is bound by itself.
#[test]
fn the_inner_layer_is_bound_to_its_context_and_label() {
    let aad = quorate_core::encoding::encode(&context());
    let inner =
        sealed::seal(&[1; 32], "quorate/v1/keys/token-inner", &aad, &[9; 32], &mut SystemRng).expect("seals");
    let open = |key: u8, label: &str, aad: &[u8]| {
        sealed::open(&[key; 32], label, aad, &inner).map(|text| text.to_vec()).map_err(|e| e.code)
    };
    let other = quorate_core::encoding::encode(&TokenContext { key_version: 7, ..context() });
    assert_eq!(open(1, "quorate/v1/keys/token-inner", &aad), Ok(vec![9; 32]));
    assert_eq!(open(1, "quorate/v1/keys/token-inner", &other), Err(Code::KeyCommitment));
    assert_eq!(open(1, "quorate/v1/keys/token-outer", &aad), Err(Code::KeyCommitment));
    assert_eq!(open(2, "quorate/v1/keys/token-inner", &aad), Err(Code::KeyCommitment));
}

#[test]
fn the_fleet_epoch_of_a_token_is_bound_even_if_the_key_did_not_change() {
    let mut text = make();
    text[8] += 1;
    let fleet = key(2);
    let code = token::unwrap(&text, &context(), &key(1), &|_| Some(&fleet)).map(|_| ()).map_err(|e| e.code);
    assert_eq!(code, Err(Code::KeyCommitment));
}

#[test]
fn n82_every_flipped_bit_of_a_token_is_refused() {
    let text = make();
    for bit in 0..text.len() * 8 {
        let mut altered = text.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let want = match bit / 8 {
            0 => Code::BadEncoding,
            1..9 => Code::NoFleetKey,
            16 if altered[16] < 2 => Code::BadEncoding,
            9..81 => Code::KeyCommitment,
            _ => Code::NotOpened,
        };
        assert_eq!(open(&altered, &context(), 1, 2), Err(want), "bit {bit}");
    }
}

#[test]
fn n82_a_token_of_any_other_length_is_refused() {
    let text = [make(), vec![0; 40]].concat();
    for len in (0..text.len()).filter(|len| *len != LATER_LEN) {
        assert_eq!(open(&text[..len], &context(), 1, 2), Err(Code::BadEncoding), "{len} bytes");
    }
}

#[test]
fn two_tokens_of_one_key_are_unlike() {
    assert_ne!(make()[17..81], make()[17..81]);
}

proptest! {
    #[test]
    fn what_was_wrapped_is_unwrapped(
        backing: [u8; 32], domain_wrap: [u8; 32], fleet_wrap: [u8; 32], fleet_epoch: u64,
        key_id in ".{0,40}", key_version: u64, domain_key_version in 1u64..,
    ) {
        let ctx = TokenContext { key_id, key_version, domain_key_version, ..context() };
        let secret = |bytes: [u8; 32]| Secret::take_from(&mut { bytes }).expect("arena");
        let (domain, fleet) = (secret(domain_wrap), secret(fleet_wrap));
        let text = token::wrap(&secret(backing), &ctx, &domain, &fleet, fleet_epoch, &mut SystemRng)
            .expect("wraps");
        let opened = token::unwrap(&text, &ctx, &domain, &|e| (e == fleet_epoch).then_some(&fleet))
            .expect("opens");
        prop_assert_eq!(opened.expose(), &backing);
    }

    #[test]
    fn what_was_sealed_is_opened_and_nothing_else(
        secret: [u8; 32], label in "[a-z/]{1,40}", aad: u64,
        plaintext in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let aad = quorate_core::encoding::encode(&aad);
        let text = sealed::seal(&secret, &label, &aad, &plaintext, &mut SystemRng).expect("seals");
        prop_assert_eq!(text.len(), plaintext.len() + sealed::OVERHEAD);
        prop_assert_eq!(&*sealed::open(&secret, &label, &aad, &text).expect("opens"), &plaintext);
        let longer = format!("{label}x");
        let refused = sealed::open(&secret, &longer, &aad, &text).expect_err("another label");
        prop_assert_eq!(refused.code, Code::KeyCommitment);
        let short = sealed::open(&secret, &label, &aad, &text[..sealed::OVERHEAD - 1]).expect_err("short");
        prop_assert_eq!(short.code, Code::BadEncoding);
    }
}
