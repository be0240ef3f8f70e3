//! Known attacks on secret sharing, named after their rows; each must fail closed.
//!
//! N14 asks that an imported key at or above the group order be refused, not reduced. Nothing can be
//! imported into a sharing (`n13`), and the one reader of scalars refuses such values (`n03`).
//! N16's other half, a forked process, is tested from Python, where a fork is possible.

use std::collections::HashSet;

use curve25519_dalek::scalar::Scalar;
use quorate_core::encoding::{decode, encode};
use quorate_core::error::Code;
use quorate_core::ids::ShareIndex;
use quorate_core::rng::SystemRng;
use quorate_core::sharing::{
    Commitments, Constant, Dealt, LagrangeCache, Point, Share, Weight, assemble, assemble_commitments,
    combine, commitments_at, deal, find_bad, lagrange_at_zero, opens, verify_share,
};

use crate::fixtures::{
    ORDER, Scripted, Seeded, bytes32, first, index, indices, refusal, secret_of, threshold, vectors,
};

fn dealt(k: u64, n: u64, seed: u64) -> Dealt {
    deal(threshold(k), &indices(n), Constant::Fresh, &mut Seeded(seed)).expect("deals")
}

/// `share` with `delta` added to its value.
fn shifted(share: &Share, delta: u64) -> Share {
    let mut bytes = *share.to_bytes();
    let value: [u8; 32] = bytes[..32].try_into().expect("32 bytes");
    let value = Scalar::from_canonical_bytes(value).expect("canonical") + Scalar::from(delta);
    bytes[..32].copy_from_slice(value.as_bytes());
    Share::from_bytes(share.index(), &bytes).expect("canonical")
}

fn cbor_list_head(len: u32) -> Vec<u8> {
    let mut e = minicbor::Encoder::new(Vec::new());
    e.array(u64::from(len)).expect("memory");
    e.into_writer()
}

#[test]
fn n01_an_index_that_is_zero_modulo_the_order_or_out_of_range_is_refused() {
    for x in [0, 256, 257, 65_537, u64::MAX] {
        assert_eq!(refusal(ShareIndex::new(x)), Code::BadIndex, "{x}");
        assert_eq!(refusal(decode::<ShareIndex>(&encode(&x))), Code::BadIndex, "{x}");
    }
    // ℓ, 2ℓ and 2^256 as CBOR bignums, −1, and ℓ as a byte string: none is an index.
    let order: Vec<u8> = ORDER.iter().rev().copied().collect();
    let double: Vec<u8> = {
        let mut carry = 0;
        let mut out: Vec<u8> = ORDER
            .iter()
            .map(|b| {
                let sum = u16::from(*b) * 2 + carry;
                carry = sum >> 8;
                sum.to_le_bytes()[0]
            })
            .collect();
        out.reverse();
        out
    };
    let power: Vec<u8> = std::iter::once(1).chain([0; 32]).collect();
    for number in [&order, &double, &power] {
        let mut bignum = vec![0xc2, 0x58, u8::try_from(number.len()).expect("short")];
        bignum.extend(number);
        assert_eq!(refusal(decode::<ShareIndex>(&bignum)), Code::BadEncoding);
        assert_eq!(refusal(decode::<ShareIndex>(&bignum[1..])), Code::BadEncoding);
    }
    assert_eq!(refusal(decode::<ShareIndex>(&[0x20])), Code::BadEncoding);
}

#[test]
fn n02_a_repeated_index_is_an_error_never_a_division_by_zero() {
    let repeated = [index(1), index(2), index(1), index(3)];
    let dealing = deal(threshold(2), &repeated, Constant::Fresh, &mut Seeded(2));
    assert_eq!(refusal(dealing), Code::BadIndex);
    assert_eq!(refusal(lagrange_at_zero(&repeated)), Code::BadIndex);
    assert_eq!(refusal(LagrangeCache::default().weights(&repeated)), Code::BadIndex);

    let d = dealt(3, 5, 2);
    let twice = [&d.shares[0], &d.shares[1], &d.shares[0]];
    assert_eq!(refusal(secret_of(&twice, d.commitments.constant())), Code::BadIndex);
    // i and i + ℓ are the same number; the second cannot be written as an index (n01).
}

#[test]
fn n03_scalars_at_or_above_the_order_are_refused() {
    let mut above = ORDER;
    above[0] += 1;
    let mut below = ORDER;
    below[0] -= 1;
    for (scalar, valid) in [(ORDER, false), (above, false), ([0xff; 32], false), (below, true)] {
        for half in [0, 32] {
            let mut bytes = [0; 64];
            bytes[half..half + 32].copy_from_slice(&scalar);
            let read = Share::from_bytes(index(1), &bytes);
            if valid {
                assert_eq!(*read.expect("canonical").to_bytes(), bytes);
            } else {
                assert_eq!(refusal(read), Code::BadScalar);
            }
        }
    }
}

#[test]
fn n03_non_canonical_points_and_the_identity_are_refused() {
    let table = vectors("ristretto255/invalid_encodings.json");
    let listed = table.as_object().expect("a table").values();
    let mut bad: Vec<[u8; 32]> = listed.flat_map(|v| v.as_array().expect("a list")).map(bytes32).collect();
    assert_eq!(bad.len(), 30);
    bad.push(bytes32(&vectors("frost/zf-ristretto255-elements.json")["elements"]["invalid_element"]));
    bad.push([0; 32]); // the identity

    let good = *dealt(2, 3, 3).commitments.constant();
    for encoding in bad {
        assert_eq!(refusal(Point::from_bytes(&encoding)), Code::BadPoint, "{encoding:02x?}");
        assert_eq!(refusal(decode::<Point>(&encode(&encoding))), Code::BadPoint);
        for list in [[encoding, *good.as_bytes()], [*good.as_bytes(), encoding]] {
            let bytes = encode(&list.to_vec());
            assert_eq!(refusal(decode::<Commitments>(&bytes)), Code::BadPoint);
            assert_eq!(refusal(Commitments::decode(&bytes, threshold(2))), Code::BadPoint);
        }
    }
    for length in [31, 33] {
        let point = quorate_core::encoding::Bytes(vec![0; length]);
        assert_eq!(refusal(decode::<Point>(&encode(&point))), Code::BadEncoding);
    }
}

#[test]
fn n04_a_commitment_list_of_another_length_is_refused_before_any_arithmetic() {
    let k = threshold(3);
    // The points are invalid: had one been looked at, the refusal would be bad_point.
    for len in [0, 1, 2, 4, 254, 255, 1_000_000] {
        let mut bytes = cbor_list_head(len);
        (0..len.min(300)).for_each(|_| bytes.extend(encode(&[0xff_u8; 32])));
        assert_eq!(refusal(Commitments::decode(&bytes, k)), Code::BadCommitments, "{len}");
        if !(2..=254).contains(&len) {
            assert_eq!(refusal(decode::<Commitments>(&bytes)), Code::BadCommitments, "{len}");
        }
    }
    let whole = [cbor_list_head(1_000_000), encode(&[0xff_u8; 32]).repeat(1_000_000)].concat();
    assert_eq!(refusal(Commitments::decode(&whole, k)), Code::BadCommitments);
    assert_eq!(refusal(Commitments::decode(&[0x9f, 0xff], k)), Code::BadCommitments);
    assert_eq!(refusal(decode::<Commitments>(&[0x9f, 0xff])), Code::BadEncoding);
}

#[test]
fn n04_a_dealing_of_a_higher_degree_is_refused_wherever_it_enters() {
    let (expected, inflated) = (dealt(3, 6, 4), dealt(4, 6, 5));
    let bytes = encode(&inflated.commitments);
    assert_eq!(refusal(Commitments::decode(&bytes, threshold(3))), Code::BadCommitments);
    assert_eq!(refusal(inflated.commitments.require_threshold(threshold(3))), Code::BadCommitments);
    expected.commitments.require_threshold(threshold(3)).expect("three");
    let mixed = [(Weight::ONE, &expected.commitments), (Weight::ONE, &inflated.commitments)];
    assert_eq!(refusal(assemble_commitments(&mixed)), Code::BadCommitments);
    // What the attack would cause: three verified shares that do not give the key.
    let three = first(&inflated, 3);
    for share in &three {
        verify_share(&inflated.commitments, share).expect("verifies");
    }
    assert_eq!(refusal(secret_of(&three, inflated.commitments.constant())), Code::BadCombination);
}

#[test]
fn n05_an_empty_list_never_passes_as_complete() {
    let d = dealt(2, 3, 5);
    let none = combine(&[], threshold(2), d.commitments.constant(), &mut LagrangeCache::default());
    assert_eq!(refusal(none), Code::NotEnoughShares);
    assert_eq!(refusal(lagrange_at_zero(&[])), Code::NotEnoughShares);
    assert_eq!(refusal(assemble(index(1), &[])), Code::NotEnoughShares);
    assert_eq!(refusal(assemble_commitments(&[])), Code::BadCommitments);
    assert_eq!(refusal(deal(threshold(2), &[], Constant::Fresh, &mut Seeded(5))), Code::BadThreshold);
}

#[test]
fn n06_a_dealing_to_no_more_indices_than_the_threshold_is_refused() {
    for (k, n) in [(2, 1), (2, 2), (5, 5), (6, 5), (254, 254)] {
        let dealing = deal(threshold(k), &indices(n), Constant::Fresh, &mut Seeded(6));
        assert_eq!(refusal(dealing), Code::BadThreshold, "{k} of {n}");
    }
}

#[test]
fn n07_a_shifted_share_never_moves_the_key_and_its_holder_is_named() {
    let d = dealt(3, 5, 7);
    let key = d.commitments.constant();
    let bad = shifted(&d.shares[4], 1);
    assert_eq!(refusal(verify_share(&d.commitments, &bad)), Code::BadShare);
    let quorum = [&d.shares[0], &d.shares[2], &bad];
    assert_eq!(refusal(secret_of(&quorum, key)), Code::BadCombination);

    let points = commitments_at(&d.commitments, &indices(5)).expect("points");
    let listed: Vec<(ShareIndex, &Point)> = indices(5).into_iter().zip(&points).collect();
    assert_eq!(find_bad(&quorum, &listed), [index(5)]);
    let two = [&shifted(&d.shares[1], 9), &bad, &d.shares[3]];
    assert_eq!(find_bad(&two, &listed), [index(2), index(5)]);
    // With a substitute for the culprit the key is right.
    let mended = secret_of(&[&d.shares[0], &d.shares[2], &d.shares[1]], key).expect("combines");
    assert_eq!(mended, secret_of(&first(&d, 3), key).expect("combines"));
}

#[test]
fn n07_a_share_whose_blinding_value_alone_is_wrong_is_refused_too() {
    let d = dealt(2, 3, 70);
    let mut bytes = *d.shares[0].to_bytes();
    bytes[32] ^= 1;
    let bad = Share::from_bytes(index(1), &bytes).expect("canonical");
    assert_eq!(refusal(verify_share(&d.commitments, &bad)), Code::BadShare);
    assert_eq!(refusal(secret_of(&[&bad, &d.shares[1]], d.commitments.constant())), Code::BadCombination);
}

#[test]
fn n08_fewer_than_k_shares_or_a_strangers_share_give_no_key() {
    let d = dealt(3, 5, 8);
    let key = d.commitments.constant();
    for got in 0..3 {
        let result = combine(&first(&d, got), threshold(3), key, &mut LagrangeCache::default());
        assert_eq!(refusal(result), Code::NotEnoughShares, "{got}");
    }
    let four = combine(&first(&d, 4), threshold(3), key, &mut LagrangeCache::default());
    assert_eq!(refusal(four), Code::BadCombination);

    let points = commitments_at(&d.commitments, &indices(5)).expect("points");
    let listed: Vec<(ShareIndex, &Point)> = indices(5).into_iter().zip(&points).collect();
    let stranger = Share::from_bytes(index(9), &d.shares[0].to_bytes()).expect("canonical");
    let mixed = [&d.shares[0], &d.shares[1], &stranger];
    assert_eq!(refusal(secret_of(&mixed, key)), Code::BadCombination);
    assert_eq!(find_bad(&mixed, &listed), [index(9)]);
}

#[test]
fn n09_shares_of_two_epochs_never_combine() {
    let old = dealt(2, 3, 9);
    let weights = lagrange_at_zero(&[index(1), index(2)]).expect("distinct");
    let dealings: Vec<(Weight, Dealt)> = weights
        .into_iter()
        .zip(&old.shares)
        .map(|(w, held)| {
            (w, deal(threshold(2), &indices(3), Constant::Held(held), &mut Seeded(90)).expect("deals"))
        })
        .collect();
    let refreshed = |at: usize| {
        let parts: Vec<(Weight, &Share)> = dealings.iter().map(|(w, d)| (*w, &d.shares[at])).collect();
        assemble(index(at as u64 + 1), &parts).expect("assembles")
    };
    let key = old.commitments.constant();
    let (new_two, new_three) = (refreshed(1), refreshed(2));
    let secret = secret_of(&first(&old, 2), key).expect("old with old");
    assert_eq!(secret_of(&[&new_two, &new_three], key).expect("new with new"), secret);
    assert_eq!(refusal(secret_of(&[&old.shares[0], &new_two], key)), Code::BadCombination);
    // Nor does a sub-share for one index enter the share of another.
    let foreign = [(Weight::ONE, &old.shares[0]), (Weight::ONE, &old.shares[1])];
    assert_eq!(refusal(assemble(index(1), &foreign)), Code::BadIndex);
}

#[test]
fn n10_each_coefficient_is_64_bytes_reduced_modulo_the_order() {
    // The script panics on draws of another size. Each draw here is above the order.
    let mut script = Scripted::new([[0xff; 32]; 4]);
    let d = deal(threshold(2), &indices(3), Constant::Fresh, &mut script).expect("deals");
    assert!(script.is_used_up());
    let mut wide = [0; 64];
    wide[..32].fill(0xff);
    let coefficient = Scalar::from_bytes_mod_order_wide(&wide);
    let expected = coefficient + coefficient * Scalar::from(3_u8);
    assert_eq!(d.shares[2].to_bytes()[..32], expected.to_bytes());
}

#[test]
fn n11_a_zero_leading_coefficient_is_refused_and_k_minus_one_shares_give_nothing() {
    // A generator so broken that both leading coefficients are zero: the dealing fails.
    let mut one = [0; 32];
    one[0] = 1;
    let mut script = Scripted::new([one, one, [0; 32], one, one, [0; 32]]);
    assert_eq!(refusal(deal(threshold(3), &indices(5), Constant::Fresh, &mut script)), Code::BadPoint);
    // A dealer that sends such commitments: the identity does not parse.
    let d = dealt(2, 5, 11);
    let mut encodings: Vec<[u8; 32]> = d.commitments.points().iter().map(|p| *p.as_bytes()).collect();
    encodings.push([0; 32]);
    assert_eq!(refusal(Commitments::decode(&encode(&encodings), threshold(3))), Code::BadPoint);
    // Honest dealing: two of three shares do not open the key, whichever two.
    let d = dealt(3, 5, 110);
    for (a, b) in [(0, 1), (1, 2), (0, 4), (3, 4)] {
        let fewer = [&d.shares[a], &d.shares[b]];
        assert_eq!(refusal(secret_of(&fewer, d.commitments.constant())), Code::BadCombination);
    }
}

#[test]
fn n13_only_fresh_or_already_shared_secrets_can_be_dealt() {
    // Exhaustive: a third kind of constant term stops this from compiling.
    let name = |constant: &Constant<'_>| match constant {
        Constant::Fresh => "fresh",
        Constant::Held(_) => "held",
    };
    let d = dealt(2, 3, 13);
    assert_eq!([name(&Constant::Fresh), name(&Constant::Held(&d.shares[0]))], ["fresh", "held"]);
    // Re-dealing a share that was made up gives a dealing of that share's commitment, not of the epoch's.
    let made_up = shifted(&d.shares[0], 1);
    let again = deal(threshold(2), &indices(3), Constant::Held(&made_up), &mut Seeded(13)).expect("deals");
    let committed = commitments_at(&d.commitments, &[index(1)]).expect("a point");
    assert_ne!(again.commitments.constant(), &committed[0]);
    // The constant term is hidden: the same share committed with another blinding value looks different.
    let honest =
        deal(threshold(2), &indices(3), Constant::Held(&d.shares[0]), &mut Seeded(14)).expect("deals");
    assert_eq!(honest.commitments.constant(), &committed[0]);
    opens(honest.commitments.constant(), &d.shares[0]).expect("opens");
}

#[test]
fn n16_the_system_generator_keeps_no_state_and_no_two_dealings_share_a_commitment() {
    assert_eq!(size_of::<SystemRng>(), 0, "a pool in the process would be copied by a fork");
    let dealings = || {
        (0..20).flat_map(|_| {
            let d = deal(threshold(3), &indices(4), Constant::Fresh, &mut SystemRng).expect("deals");
            d.commitments.points().iter().map(|p| *p.as_bytes()).collect::<Vec<_>>()
        })
    };
    let threads: Vec<Vec<[u8; 32]>> = std::thread::scope(|s| {
        let running: Vec<_> = (0..4).map(|_| s.spawn(|| dealings().collect())).collect();
        running.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    let distinct: HashSet<[u8; 32]> = threads.into_iter().flatten().collect();
    assert_eq!(distinct.len(), 4 * 20 * 3);
}
