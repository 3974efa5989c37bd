//! How a sequence's tokens are split over thread blocks that work in parallel.

/// What a decode's blocks are to be shared out over: the GPU as one wave of blocks, and the work as rounds, the tokens
/// that the warps of a block take at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    /// Blocks without a split: sequences × KV heads × groups of query rows.
    pub units: u32,
    /// Rounds of a sequence that is full.
    pub rounds: u32,
    /// Blocks the GPU holds at once.
    pub wave: u32,
    /// What a block's partial result costs to hand over and merge, as a part of a round's cost.
    pub merge: f64,
}

/// Most splits: the last block of a sequence to arrive merges them one after another.
pub(crate) const MAX_SPLITS: u32 = 1024;

/// Waves beyond which finer splits are not looked at: the last one's emptiness hardly counts.
const MAX_WAVES: u32 = 16;

/// What a block costs besides its rounds, in rounds: filling its pipeline and merging its warps.
const BLOCK_COST: f64 = 1.0;

impl Work {
    /// The number of splits that ends soonest, by a model in which waves of blocks follow each other, among those that
    /// fill nine tenths of a wave or, where there is less to do, have a block for each round. Never more than `limit`.
    ///
    /// Lengths have no part in it, only capacities: a launch stays right, and bit for bit the same, as sequences grow.
    pub(crate) fn splits(&self, limit: u32) -> u32 {
        let most = self.rounds.min(MAX_SPLITS).min(limit).max(1);
        let enough = (0.9 * f64::from(self.wave) / f64::from(self.units)).ceil() as u32;
        let fewest = enough.clamp(1, most);
        // In each number of waves the most splits it holds, less those that leave the longest split as long.
        let candidates = (1..=MAX_WAVES).map(|waves| {
            let held = (waves * self.wave / self.units).clamp(fewest, most);
            let longest = self.rounds.div_ceil(held).max(1);
            self.rounds.div_ceil(longest).clamp(fewest, most)
        });
        candidates
            .chain([fewest])
            .min_by(|&a, &b| self.cost(a).total_cmp(&self.cost(b)).then(a.cmp(&b)))
            .unwrap_or(fewest)
    }

    /// Until the last block is done, in rounds.
    fn cost(&self, splits: u32) -> f64 {
        let blocks = u64::from(self.units) * u64::from(splits);
        let waves = blocks.div_ceil(u64::from(self.wave)) as f64;
        let merge = if splits == 1 {
            0.0
        } else {
            self.merge * f64::from(splits)
        };
        waves * (f64::from(self.rounds.div_ceil(splits)) + BLOCK_COST) + merge
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn work(units: u32, rounds: u32, wave: u32) -> Work {
        Work {
            units,
            rounds,
            wave,
            merge: 1.0 / 16.0,
        }
    }

    #[test]
    fn one_sequence_fills_the_device() {
        // Batch 1, 8 KV heads, 8192 tokens of 128 a round, 2 blocks on each of 132 multiprocessors: room for 33
        // splits, of which the longest would have 2 rounds, as with 32.
        assert_eq!(work(8, 64, 264).splits(u32::MAX), 32);
    }

    #[test]
    fn a_full_device_is_not_split() {
        assert_eq!(work(2048, 64, 264).splits(u32::MAX), 1);
    }

    #[test]
    fn a_wave_and_a_bit_is_evened_out() {
        // One split leaves the second wave nearly empty.
        let splits = work(275, 512, 264).splits(u32::MAX);
        let waves = f64::from(275 * splits) / 264.0;
        assert!(waves / waves.ceil() > 0.9, "{splits}");
    }

    #[test]
    fn short_capacities_bound_the_splits() {
        assert_eq!(work(1, 1, 264).splits(u32::MAX), 1);
        assert_eq!(work(1, 3, 264).splits(u32::MAX), 3);
        assert_eq!(work(1, 1 << 20, 264).splits(5), 5);
    }

    proptest! {
        #[test]
        fn a_wave_is_filled_where_there_is_work_for_it(
            units in 1u32..5000, rounds in 1u32..100_000, wave in 1u32..1000, merge in 0.0f64..0.2,
        ) {
            let work = Work { units, rounds, wave, merge };
            let splits = work.splits(u32::MAX);
            prop_assert!((1..=rounds.min(MAX_SPLITS)).contains(&splits));
            let blocks = u64::from(units) * u64::from(splits);
            let possible = u64::from(units) * u64::from(rounds.min(MAX_SPLITS));
            prop_assert!(blocks as f64 >= (0.9 * f64::from(wave)).min(possible as f64));
        }

        #[test]
        fn a_limit_is_kept(units in 1u32..5000, rounds in 1u32..10_000, wave in 1u32..1000, limit in 1u32..100) {
            prop_assert!(work(units, rounds, wave).splits(limit) <= limit);
        }
    }
}
