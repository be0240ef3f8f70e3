//! What must hold for every shape, every quorum and every generator.

use proptest::prelude::*;
use quorate_core::encoding::{decode, encode};
use quorate_core::error::Code;
use quorate_core::ids::ShareIndex;
use quorate_core::sharing::{
    Commitments, Constant, Dealt, Point, Share, Weight, assemble, assemble_commitments, commitment_at,
    commitments_at, deal, find_bad, lagrange_at_zero, opens, verify_share,
};

use crate::fixtures::{Seeded, index, refusal, secret_of, threshold};

/// k, and more than k distinct indices in random order: the first k of them are a random quorum.
fn shape() -> impl Strategy<Value = (u64, Vec<ShareIndex>)> {
    (2_u64..7)
        .prop_flat_map(|k| {
            let most = usize::try_from(k).expect("small");
            (Just(k), proptest::sample::subsequence((1..=255).collect::<Vec<u64>>(), most + 1..=most + 4))
        })
        .prop_flat_map(|(k, xs)| {
            (Just(k), Just(xs.into_iter().map(index).collect::<Vec<_>>()).prop_shuffle())
        })
}

/// An epoch as its members see it.
struct Epoch {
    k: u64,
    commitments: Commitments,
    shares: Vec<Share>,
}

impl Epoch {
    fn quorum(&self) -> Vec<&Share> {
        self.shares.iter().take(usize::try_from(self.k).expect("small")).collect()
    }

    fn secret(&self) -> [u8; 32] {
        secret_of(&self.quorum(), self.commitments.constant()).expect("combines")
    }

    /// Every member checks every dealing, then assembles: the weighted sum of what it was dealt.
    fn assembled(k: u64, to: &[ShareIndex], dealings: &[(Weight, Dealt)]) -> Self {
        let publics: Vec<(Weight, &Commitments)> =
            dealings.iter().map(|(w, d)| (*w, &d.commitments)).collect();
        let commitments = assemble_commitments(&publics).expect("assembles");
        let shares = (0..to.len()).map(|at| {
            let parts: Vec<(Weight, &Share)> = dealings.iter().map(|(w, d)| (*w, &d.shares[at])).collect();
            for (_, d) in dealings {
                verify_share(&d.commitments, &d.shares[at]).expect("verifies");
            }
            assemble(to[at], &parts).expect("assembles")
        });
        let epoch = Self { k, shares: shares.collect(), commitments };
        for share in &epoch.shares {
            verify_share(&epoch.commitments, share)
                .expect("an assembled share lies on the assembled polynomial");
        }
        epoch
    }

    /// A quorum of this epoch deals its shares again, to another shape.
    fn redealt(&self, k: u64, to: &[ShareIndex], rng: &mut Seeded) -> Self {
        let quorum = self.quorum();
        let dealers: Vec<ShareIndex> = quorum.iter().map(|s| s.index()).collect();
        let weights = lagrange_at_zero(&dealers).expect("distinct");
        let dealings = weights.into_iter().zip(quorum).map(|(weight, held)| {
            let dealt = deal(threshold(k), to, Constant::Held(held), rng).expect("deals");
            let committed = commitment_at(&self.commitments, held.index()).expect("a point");
            assert_eq!(dealt.commitments.constant(), &committed, "a dealer cannot substitute a value");
            (weight, dealt)
        });
        Self::assembled(k, to, &dealings.collect::<Vec<_>>())
    }
}

fn fresh(k: u64, to: &[ShareIndex], rng: &mut Seeded) -> Epoch {
    let Dealt { commitments, shares } = deal(threshold(k), to, Constant::Fresh, rng).expect("deals");
    Epoch { k, commitments, shares }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_k_shares_combine_and_fewer_never_do((k, to) in shape(), seed: u64) {
        let epoch = fresh(k, &to, &mut Seeded(seed));
        let key = epoch.commitments.constant();
        let secret = epoch.secret();
        let last: Vec<&Share> = epoch.shares.iter().rev().take(epoch.quorum().len()).collect();
        prop_assert_eq!(secret_of(&last, key).expect("combines"), secret);
        // One share fewer, even for one who claims that fewer suffice.
        if k > 2 {
            prop_assert_eq!(refusal(secret_of(&last[1..], key)), Code::BadCombination);
        }
        // More shares than k interpolate the same polynomial.
        prop_assert_eq!(secret_of(&epoch.shares.iter().collect::<Vec<_>>(), key).expect("combines"), secret);
    }

    #[test]
    fn every_share_opens_its_own_commitment_and_no_other((k, to) in shape(), seed: u64) {
        let epoch = fresh(k, &to, &mut Seeded(seed));
        let points = commitments_at(&epoch.commitments, &to).expect("points");
        for (share, point) in epoch.shares.iter().zip(&points) {
            verify_share(&epoch.commitments, share).expect("verifies");
            opens(point, share).expect("opens");
        }
        prop_assert_eq!(refusal(opens(&points[1], &epoch.shares[0])), Code::BadShare);
        let all: Vec<&Share> = epoch.shares.iter().collect();
        let listed: Vec<(ShareIndex, &Point)> = to.iter().copied().zip(&points).collect();
        prop_assert_eq!(find_bad(&all, &listed), vec![]);
    }

    #[test]
    fn shares_and_commitments_survive_their_encodings((k, to) in shape(), seed: u64) {
        let epoch = fresh(k, &to, &mut Seeded(seed));
        let bytes = encode(&epoch.commitments);
        prop_assert_eq!(&decode::<Commitments>(&bytes).expect("decodes"), &epoch.commitments);
        let decoded = Commitments::decode(&bytes, threshold(k)).expect("decodes");
        for share in &epoch.shares {
            let again = Share::from_bytes(share.index(), &share.to_bytes()).expect("canonical");
            verify_share(&decoded, &again).expect("verifies");
        }
    }

    #[test]
    fn a_refresh_keeps_the_key_and_changes_every_share((k, to) in shape(), seed: u64) {
        let mut rng = Seeded(seed);
        let old = fresh(k, &to, &mut rng);
        let new = old.redealt(k, &to, &mut rng);
        prop_assert_eq!(new.commitments.constant(), old.commitments.constant());
        prop_assert_eq!(new.secret(), old.secret());
        for (a, b) in old.shares.iter().zip(&new.shares) {
            prop_assert_ne!(*a.to_bytes(), *b.to_bytes());
        }
    }

    #[test]
    fn a_reshare_keeps_the_key_over_any_other_shape((k, to) in shape(), (k2, to2) in shape(), seed: u64) {
        let mut rng = Seeded(seed);
        let old = fresh(k, &to, &mut rng);
        let new = old.redealt(k2, &to2, &mut rng);
        let newest = new.redealt(k, &to, &mut rng);
        for epoch in [&new, &newest] {
            prop_assert_eq!(epoch.commitments.constant(), old.commitments.constant());
            prop_assert_eq!(epoch.secret(), old.secret());
        }
    }

    #[test]
    fn members_who_each_deal_share_the_sum_of_their_secrets((k, to) in shape(), seed: u64) {
        let mut rng = Seeded(seed);
        let dealings: Vec<(Weight, Dealt)> = to
            .iter()
            .map(|_| (Weight::ONE, deal(threshold(k), &to, Constant::Fresh, &mut rng).expect("deals")))
            .collect();
        let epoch = Epoch::assembled(k, &to, &dealings);
        let others: Vec<&Share> = epoch.shares.iter().rev().take(epoch.quorum().len()).collect();
        prop_assert_eq!(secret_of(&others, epoch.commitments.constant()).expect("combines"), epoch.secret());
    }
}
