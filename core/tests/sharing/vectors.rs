//! Official vectors (`tests/vectors/frost`, `tests/vectors/ristretto255`). A scripted generator makes
//! `deal` draw exactly the vectors' polynomials; a zero blinding polynomial makes its commitments Feldman's.

use quorate_core::encoding::{decode, encode};
use quorate_core::ids::ShareIndex;
use quorate_core::sharing::{
    Commitments, Constant, Dealt, Point, Share, Weight, assemble, assemble_commitments, commitment_at, deal,
    generator_g, generator_h, verify_share,
};
use serde_json::Value;

use crate::fixtures::{Scripted, bytes32, first, index, indices, secret_of, threshold, vectors};

/// Deals f = `coefficients`, g = 0.
fn feldman(coefficients: &[[u8; 32]], to: &[ShareIndex]) -> Dealt {
    let zeroes = vec![[0; 32]; coefficients.len()];
    let mut script = Scripted::new(coefficients.iter().copied().chain(zeroes));
    let dealt = deal(threshold(coefficients.len() as u64), to, Constant::Fresh, &mut script).expect("deals");
    assert!(script.is_used_up());
    dealt
}

fn value(share: &Share) -> [u8; 32] {
    share.to_bytes()[..32].try_into().expect("32 bytes")
}

fn frost_dealer_vector(file: &str, public_key: &str, within: usize) {
    let inputs = &vectors(file)["inputs"];
    let secret = bytes32(&inputs["group_secret_key"]);
    let listed = inputs["share_polynomial_coefficients"].as_array().expect("a list");
    let coefficients: Vec<[u8; 32]> = std::iter::once(secret).chain(listed.iter().map(bytes32)).collect();
    let expected: Vec<(ShareIndex, [u8; 32])> = inputs["participant_shares"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|s| {
            let x = ShareIndex::new(s["identifier"].as_u64().expect("a number")).ok()?;
            Some((x, bytes32(&s["participant_share"])))
        })
        .collect();
    assert_eq!(expected.len(), within);

    let to: Vec<ShareIndex> = expected.iter().map(|(x, _)| *x).collect();
    let dealt = feldman(&coefficients, &to);
    for (share, (x, want)) in dealt.shares.iter().zip(&expected) {
        assert_eq!((share.index(), value(share)), (*x, *want));
        verify_share(&dealt.commitments, share).expect("verifies");
    }
    assert_eq!(dealt.commitments.constant().as_bytes(), &bytes32(&inputs[public_key]));
    let quorum: Vec<&Share> = dealt.shares.iter().rev().take(coefficients.len()).collect();
    assert_eq!(secret_of(&quorum, dealt.commitments.constant()).expect("combines"), secret);
}

#[test]
fn shares_from_the_coefficients_of_rfc_9591_match() {
    frost_dealer_vector("frost/cfrg-frost-ristretto255-sha512.json", "group_public_key", 3);
}

#[test]
fn shares_from_the_coefficients_of_the_zcash_foundation_match() {
    frost_dealer_vector("frost/zf-ristretto255-vectors.json", "verifying_key_key", 3);
}

#[test]
fn shares_match_at_every_index_up_to_255() {
    // The file goes on to 257, which is outside our index space.
    frost_dealer_vector("frost/zf-ristretto255-vectors-big-identifier.json", "verifying_key_key", 255);
}

/// Three members deal and add up, as in a dealerless creation: sub-shares, commitments, sums, group key.
#[test]
fn the_distributed_generation_vector_assembles_to_its_shares_and_key() {
    let inputs = &vectors("frost/zf-ristretto255-vectors_dkg.json")["inputs"];
    let member = |i: u64| &inputs[i.to_string()];
    let dealings: Vec<Dealt> = (1..=3)
        .map(|i| {
            feldman(&[bytes32(&member(i)["signing_key"]), bytes32(&member(i)["coefficient"])], &indices(3))
        })
        .collect();
    for (i, dealt) in (1..).zip(&dealings) {
        let listed = member(i)["vss_commitments"].as_array().expect("a list");
        let points: Vec<Point> =
            listed.iter().map(|p| Point::from_bytes(&bytes32(p)).expect("a point")).collect();
        assert_eq!(dealt.commitments.points(), points);
        // `signing_shares` of member i are those which i received, by sender.
        let received = member(i)["signing_shares"].as_object().expect("a table");
        for (sender, want) in received {
            let sender: usize = sender.parse().expect("a number");
            let at = usize::try_from(i).expect("small") - 1;
            assert_eq!(value(&dealings[sender - 1].shares[at]), bytes32(want), "from {sender} to {i}");
        }
    }

    let parts: Vec<(Weight, &Commitments)> = dealings.iter().map(|d| (Weight::ONE, &d.commitments)).collect();
    let commitments = assemble_commitments(&parts).expect("assembles");
    assert_eq!(commitments.constant().as_bytes(), &bytes32(&inputs["verifying_key"]));
    for (at, i) in (1..=3).enumerate() {
        let parts: Vec<(Weight, &Share)> = dealings.iter().map(|d| (Weight::ONE, &d.shares[at])).collect();
        let share = assemble(index(i), &parts).expect("assembles");
        assert_eq!(value(&share), bytes32(&member(i)["signing_share"]));
        verify_share(&commitments, &share).expect("verifies");
        let point = commitment_at(&commitments, index(i)).expect("a point");
        assert_eq!(point.as_bytes(), &bytes32(&member(i)["verifying_share"]));
    }
}

#[test]
fn sample_encodings_are_accepted_and_kept() {
    let samples = vectors("frost/zf-ristretto255-samples.json");
    assert_eq!(generator_g().as_bytes(), &bytes32(&samples["element1"]));
    for name in ["element1", "element2"] {
        let point = Point::from_bytes(&bytes32(&samples[name])).expect("a point");
        assert_eq!(point.as_bytes(), &bytes32(&samples[name]));
        assert_eq!(decode::<Point>(&encode(&point)).expect("decodes"), point);
    }
    let mut pair = [0; 64];
    pair[..32].copy_from_slice(&bytes32(&samples["scalar1"]));
    pair[32..].copy_from_slice(&bytes32(&samples["identifier"]));
    let share = Share::from_bytes(index(42), &pair).expect("canonical scalars");
    assert_eq!(*share.to_bytes(), pair);
}

#[test]
fn n23_n38_generator_h_is_the_pinned_hash_of_its_label() {
    let pinned = vectors("ristretto255/pedersen_h.json");
    assert_eq!(pinned["label"], Value::from("quorate/v1/sharing/pedersen-h"));
    assert_eq!(generator_h().as_bytes(), &bytes32(&pinned["encoding"]));
    let text = "9e652b2f0245bf27eb7f479fdd0e6803e6a715fdfad39adf176f131884badb4c";
    assert_eq!(hex::encode(generator_h().as_bytes()), text, "the file and the code changed together");
}

/// With f = g = 1 at each degree, every commitment is G + H: the commitments do use the pinned generators.
#[test]
fn n38_commitments_are_made_with_g_and_h_and_nothing_else() {
    let unit = |at: usize| (0..4).map(move |i| if i == at { one() } else { [0; 32] });
    // f_0 alone gives C_0 = G; a zero C_1 would be the identity, so g_1 is set: C_1 = H.
    let both = unit(0).zip(unit(3)).map(|(a, b)| if a == [0; 32] { b } else { a });
    let dealt = deal(threshold(2), &indices(3), Constant::Fresh, &mut Scripted::new(both)).expect("deals");
    assert_eq!(dealt.commitments.points(), [generator_g(), generator_h()]);
    assert_eq!(first(&dealt, 1)[0].to_bytes()[..32], one());
}

fn one() -> [u8; 32] {
    let mut one = [0; 32];
    one[0] = 1;
    one
}
