//! Which configurations are counted.

use kv_kernels::Dtype;

use crate::config::{Config, Operation, Splits};

/// Values of every property; configurations are all their combinations that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axes {
    pub op: Vec<Operation>,
    pub dtype: Vec<Dtype>,
    pub head_dim: Vec<usize>,
    pub group_size: Vec<usize>,
    pub num_kv_heads: Vec<usize>,
    pub batch: Vec<usize>,
    pub seq_len: Vec<usize>,
    pub num_splits: Vec<Splits>,
}

/// Group sizes: multi-head attention, common ones, one that is no power of two, and all a block takes at once.
const GROUPS: [usize; 5] = [1, 4, 5, 8, 16];
/// Lengths: around a tile's end, between tiles, and long.
const LENGTHS: [usize; 7] = [1, 127, 128, 129, 1000, 4096, 8192];

/// What is shown where nothing is said: one element type and head dimension, one sequence.
pub fn usual() -> Axes {
    Axes {
        op: vec![Operation::Decode],
        dtype: vec![Dtype::F16],
        head_dim: vec![128],
        group_size: GROUPS.to_vec(),
        num_kv_heads: vec![8],
        batch: vec![1],
        seq_len: LENGTHS.to_vec(),
        num_splits: vec![Splits::Fixed(1), Splits::Planned],
    }
}

/// Every combination that the kernels are held to.
pub fn all() -> Axes {
    Axes {
        op: Operation::ALL.to_vec(),
        dtype: Dtype::ALL.to_vec(),
        head_dim: vec![64, 128],
        batch: vec![1, 7, 64],
        num_splits: vec![Splits::Fixed(1), Splits::Fixed(8), Splits::Planned],
        ..usual()
    }
}

/// What is compared with the budget on every change: as much as a minute allows.
pub fn checked() -> Axes {
    Axes {
        seq_len: vec![1, 129, 1000, 4096, 8192],
        batch: vec![1],
        ..all()
    }
}

impl Axes {
    /// The configurations, those that can share a cache next to each other.
    pub fn configs(&self) -> Vec<Config> {
        let mut configs = Vec::new();
        for &dtype in &self.dtype {
            for &head_dim in &self.head_dim {
                for &num_kv_heads in &self.num_kv_heads {
                    for &batch in &self.batch {
                        for &seq_len in &self.seq_len {
                            let one = Config {
                                op: Operation::Decode,
                                dtype,
                                head_dim,
                                group_size: 1,
                                num_kv_heads,
                                batch,
                                seq_len,
                                num_splits: Splits::Fixed(1),
                            };
                            self.of_a_cache(one, &mut configs);
                        }
                    }
                }
            }
        }
        configs
    }

    /// Those that go over the same cache.
    fn of_a_cache(&self, one: Config, configs: &mut Vec<Config>) {
        for &op in &self.op {
            if op.converts() && one.dtype.is_scaled() {
                continue;
            }
            // The others know neither queries nor splits.
            if !op.attends() {
                configs.push(Config { op, ..one });
                continue;
            }
            for &group_size in &self.group_size {
                for &num_splits in &self.num_splits {
                    configs.push(Config {
                        op,
                        group_size,
                        num_splits,
                        ..one
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_once() {
        let axes = all();
        let configs = axes.configs();
        // Of 16 bits: append, the two that attend, and those that convert and look; of a byte: no more than the first.
        let caches = 4 * 2 * 3 * 7;
        let attend = 2 * 5 * 3;
        assert_eq!(
            configs.len(),
            caches / 2 * (8 + attend) + caches / 2 * (1 + attend)
        );
        for (i, config) in configs.iter().enumerate() {
            assert!(!configs[..i].contains(config), "{config}");
        }
        let of_cache = |c: &Config| (c.dtype, c.shape());
        let changes = configs
            .windows(2)
            .filter(|w| of_cache(&w[0]) != of_cache(&w[1]));
        assert_eq!(changes.count(), caches - 1, "caches lie apart");
    }

    #[test]
    fn what_is_checked_is_part_of_all() {
        let all = all().configs();
        assert!(checked().configs().iter().all(|c| all.contains(c)));
        assert!(usual().configs().iter().all(|c| all.contains(c)));
    }
}
