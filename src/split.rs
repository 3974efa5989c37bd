//! How a sequence's tokens are split over thread blocks that work in parallel.

/// What a decode's blocks are to be shared out over: the GPU as one wave of blocks, and the work as rounds, the tokens
/// that the warps of a block take at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    /// Blocks without a split: sequences × KV heads × groups of query rows.
    pub units: u32,
    /// Rounds of a sequence that is full.
    pub rounds: u32,
    /// Multiprocessors of the GPU.
    pub sm_count: u32,
    /// Blocks the GPU holds at once.
    pub wave: u32,
    /// What a block's partial result costs to hand over and merge, as a part of a round's cost.
    pub merge: f64,
}

/// Most splits: the last block of a sequence to arrive merges them one after another.
pub(crate) const MAX_SPLITS: u32 = 1024;

/// Rounds below which a split is mostly overhead (a block spends three rounds' instructions on its beginning and end):
/// finer ones are for multiprocessors that would have no block at all.
const LEAST_ROUNDS: u32 = 2;

/// Waves beyond which finer splits are not looked at: the last one's emptiness hardly counts.
const MAX_WAVES: u32 = 16;

/// More splits want more workspace and merging: they have to end this much sooner.
const NO_BETTER: f64 = 1.05;

/// What a block costs besides its rounds, in rounds: filling its pipeline and merging its warps.
const BLOCK_COST: f64 = 1.0;

impl Work {
    /// The number of splits that ends soonest, by a model in which waves of blocks follow each other, among those that
    /// fill nine tenths of a wave with splits of two rounds or, where there is less to do, give nine tenths of the
    /// multiprocessors a round. Never more than `limit`.
    ///
    /// Lengths have no part in it, only capacities: a launch stays right, and bit for bit the same, as sequences grow.
    pub(crate) fn splits(&self, limit: u32) -> u32 {
        let limit = limit.clamp(1, MAX_SPLITS);
        let fill = |blocks: u32| (0.9 * f64::from(blocks) / f64::from(self.units)).ceil() as u32;
        let long = (self.rounds / LEAST_ROUNDS).max(1);
        let short = self.rounds.min(self.sm_count.div_ceil(self.units));
        let most = long.max(short).clamp(1, limit);
        let fewest = fill(self.wave)
            .min(long)
            .max(fill(self.sm_count))
            .clamp(1, most);
        // In each number of waves the most splits it holds, less those that leave the longest split as long.
        let candidates = (1..=MAX_WAVES).map(|waves| {
            let held = (waves * self.wave / self.units).clamp(fewest, most);
            let longest = self.rounds.div_ceil(held).max(1);
            self.rounds.div_ceil(longest).clamp(fewest, most)
        });
        let candidates = || candidates.clone().chain([fewest]);
        let soonest = candidates()
            .map(|splits| self.cost(splits))
            .fold(f64::INFINITY, f64::min);
        candidates()
            .filter(|&splits| self.cost(splits) <= NO_BETTER * soonest)
            .min()
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

    /// On 132 multiprocessors of 2 blocks each.
    fn work(units: u32, rounds: u32) -> Work {
        Work {
            units,
            rounds,
            sm_count: 132,
            wave: 264,
            merge: 1.0 / 16.0,
        }
    }

    #[test]
    fn one_sequence_fills_the_device() {
        // Batch 1, 8 KV heads, 8192 tokens of 128 a round: room for 33 splits, of which the longest would have 2
        // rounds, as with 32.
        assert_eq!(work(8, 64).splits(u32::MAX), 32);
        // Half as many tokens: still 2 rounds, a block for nearly every multiprocessor.
        assert_eq!(work(8, 32).splits(u32::MAX), 16);
        // A quarter: a round each.
        assert_eq!(work(8, 16).splits(u32::MAX), 16);
    }

    #[test]
    fn a_full_device_is_not_split() {
        assert_eq!(work(2048, 64).splits(u32::MAX), 1);
    }

    #[test]
    fn a_wave_and_a_bit_is_evened_out() {
        // One split leaves the second wave nearly empty.
        let splits = work(275, 512).splits(u32::MAX);
        let waves = f64::from(275 * splits) / 264.0;
        assert!(waves / waves.ceil() > 0.9, "{splits}");
    }

    #[test]
    fn short_capacities_bound_the_splits() {
        assert_eq!(work(1, 1).splits(u32::MAX), 1);
        assert_eq!(work(1, 3).splits(u32::MAX), 3);
        assert_eq!(work(1, 1 << 20).splits(5), 5);
    }

    proptest! {
        #[test]
        fn the_gpu_is_filled_where_there_is_work_for_it(
            units in 1u32..5000, rounds in 1u32..100_000, sm_count in 1u32..300, resident in 1u32..5,
            merge in 0.0f64..0.2,
        ) {
            let wave = sm_count * resident;
            let work = Work { units, rounds, sm_count, wave, merge };
            let splits = work.splits(u32::MAX);
            prop_assert!((1..=rounds.min(MAX_SPLITS)).contains(&splits));
            let blocks = f64::from(units) * f64::from(splits);
            let possible = |rounds: u32| f64::from(units) * f64::from(rounds.clamp(1, MAX_SPLITS));
            prop_assert!(blocks >= (0.9 * f64::from(wave)).min(possible(rounds / 2)));
            prop_assert!(blocks >= (0.9 * f64::from(sm_count)).min(possible(rounds)));
        }

        #[test]
        fn a_limit_is_kept(units in 1u32..5000, rounds in 1u32..10_000, limit in 1u32..100) {
            prop_assert!(work(units, rounds).splits(limit) <= limit);
        }
    }
}
