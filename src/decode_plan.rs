//! How decode is shared out over a GPU.

use crate::abi;
use crate::cache_types::CacheTypes;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::plan::{Kernel, Plan};
use crate::shape::{CacheShape, MAX_INDEX, MAX_QUERY_TOKENS, at_least_one, at_most};
use crate::split::Work;
use crate::workspace::WorkspaceSize;

/// Warps of a block.
const WARPS: u32 = abi::KV_DECODE_THREADS / 32;

/// Tiles of K or V in a warp's ring: kSlots of kernels/attention.cuh.
const SLOTS: u32 = 3;

/// Tokens of a tile: kTileTokens of kernels/attention.cuh.
fn tile_tokens(k: Dtype, v: Dtype, head_dim: u32) -> u32 {
    let widest = k.size().max(v.size()) as u32;
    if head_dim * widest <= 256 { 32 } else { 16 }
}

/// A tile of K or V, and the scales of both where they have some: a slot of a warp's ring.
fn slot_bytes(k: Dtype, v: Dtype, head_dim: u32) -> u32 {
    let widest = k.size().max(v.size()) as u32;
    let scaled = [k, v].into_iter().filter(|dtype| dtype.is_scaled()).count();
    tile_tokens(k, v, head_dim) * head_dim * widest + SCALE_BYTES * scaled as u32
}

/// Scales of a tile: kScaleBytes of kernels/attention.cuh.
const SCALE_BYTES: u32 = 128;

/// Shared memory of a block, as kernels/decode.cuh has it: its warps' rings or, where that is more, what merging the warps
/// takes beside the first one's; and queries behind them where they are read for every tile.
pub(crate) fn shared_bytes(k: Dtype, v: Dtype, head_dim: u32, columns: u32) -> u32 {
    let slot = slot_bytes(k, v, head_dim);
    let ring = SLOTS * slot;
    // A row of output, its maximum and its sum, of each warp and of the new tokens; and a flag.
    let merge = ((WARPS + 1) * columns * (4 * (head_dim + 4) + 8) + 4).next_multiple_of(16);
    if k.is_scaled() && columns > 8 {
        // Rows of 16 bits an element, 16 bytes further apart, and their scales: kPitch of kernels/keys.cuh.
        let queries = columns * (2 * head_dim + abi::KV_VECTOR_BYTES) + 4 * columns;
        (WARPS * ring).max(ring + merge) + queries + slot
    } else {
        (WARPS * ring).max(ring + merge + slot)
    }
}

/// What a decode attends to and with: all that its [plan](Self::plan) is made from, besides the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeShape {
    /// The cache of one layer. Its `max_seq_len` bounds the work that is planned for.
    pub cache: CacheShape,
    /// Element type of q and the output.
    pub dtype: Dtype,
    /// What K is stored as.
    pub k_dtype: Dtype,
    /// What V is stored as.
    pub v_dtype: Dtype,
    /// Query heads, a multiple of the cache's KV heads.
    pub num_q_heads: usize,
    /// Query tokens of a sequence, 1 to [`MAX_QUERY_TOKENS`].
    pub query_tokens: usize,
    /// Tokens a query sees, where its window slides.
    pub sliding_window: Option<usize>,
}

/// How a decode's blocks are counted: a block for each split of each unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Units {
    /// Query rows a block serves at once.
    pub columns: u32,
    /// Blocks that share a KV head's query rows.
    pub row_groups: u32,
    /// Sequences × KV heads × row groups.
    pub count: u32,
}

impl DecodeShape {
    /// The launch on this GPU: as many splits as end soonest by a model of waves of blocks, made from capacities, the
    /// GPU's limits and the kernel's registers alone, never from lengths.
    ///
    /// # Errors
    /// Those of [`CacheShape::check`] and [`CacheShape::group_size`]; [`Error::Zero`](crate::Error::Zero) and
    /// [`Error::TooLarge`](crate::Error::TooLarge) for the query tokens.
    pub fn plan(&self, gpu: &Gpu) -> Result<Plan> {
        self.plan_within(gpu, u32::MAX)
    }

    /// The launch with a given number of splits.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), and [`Error::TooLarge`](crate::Error::TooLarge) for more blocks than a grid has.
    pub fn plan_with(&self, num_splits: usize) -> Result<Plan> {
        let units = self.units()?;
        at_least_one("num_splits", num_splits)?;
        let blocks = num_splits as u128 * u128::from(units.count);
        at_most("num_splits * blocks of a split", blocks, MAX_INDEX)?;
        Ok(self.plan_of(units, num_splits as u32))
    }

    /// [`plan`](Self::plan) with at most `limit` splits.
    pub(crate) fn plan_within(&self, gpu: &Gpu, limit: u32) -> Result<Plan> {
        let units = self.units()?;
        let plan = self.plan_of(units, 1);
        let resident = plan.blocks_per_sm(gpu);
        let head_dim = self.cache.head_dim as u32;
        let round = self.round();
        let rows = (self.rows() as u32).min(units.columns);
        let work = Work {
            units: units.count,
            rounds: (self.visible_tokens() as u32).div_ceil(round),
            sm_count: gpu.sm_count,
            wave: gpu.sm_count * resident.max(1),
            merge: f64::from(4 * rows * partial_floats(head_dim))
                / f64::from(round * head_dim * (self.k_dtype.size() + self.v_dtype.size()) as u32),
        };
        let most = MAX_INDEX as u32 / units.count;
        Ok(self.plan_of(units, work.splits(limit.min(most))))
    }

    fn plan_of(&self, units: Units, num_splits: u32) -> Plan {
        let kernel = Kernel::Decode {
            k: self.k_dtype,
            v: self.v_dtype,
            head_dim: self.cache.head_dim as u32,
            columns: units.columns,
        };
        Plan {
            kernel,
            blocks: units.count * num_splits,
            threads: abi::KV_DECODE_THREADS,
            shared_bytes: kernel.dynamic_shared_bytes(),
            num_splits,
        }
    }

    /// Bytes of K and V on their way to a multiprocessor full of this kernel's blocks: while a warp works on one of its
    /// three tiles, the other two are being copied.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn bytes_in_flight_per_sm(&self, gpu: &Gpu) -> Result<u32> {
        let plan = self.plan_with(1)?;
        // K and V take turns in the slots: two tiles under way are one of each.
        let (k, v) = (self.k_dtype, self.v_dtype);
        let head_dim = self.cache.head_dim as u32;
        let scales = [k, v].map(|dtype| if dtype.is_scaled() { 4 } else { 0 });
        let of_token = head_dim * (k.size() + v.size()) as u32 + scales[0] + scales[1];
        Ok(plan.blocks_per_sm(gpu) * self.round() * of_token)
    }

    /// What a [`Workspace`](crate::Workspace) holds for a launch of so many splits.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn workspace(&self, num_splits: u32) -> Result<WorkspaceSize> {
        if num_splits <= 1 {
            return Ok(WorkspaceSize::default());
        }
        let units = self.units()?;
        Ok(WorkspaceSize {
            partials: self.partials_of_split(units) * num_splits as usize,
            arrivals: units.count as usize,
        })
    }

    /// Most splits that a workspace of this size has room for.
    pub(crate) fn splits_within(&self, size: WorkspaceSize) -> Result<u32> {
        let units = self.units()?;
        if size.arrivals < units.count as usize {
            return Ok(1);
        }
        let splits = size.partials / self.partials_of_split(units);
        Ok(u32::try_from(splits).unwrap_or(u32::MAX).max(1))
    }

    fn partials_of_split(&self, units: Units) -> usize {
        let floats = partial_floats(self.cache.head_dim as u32) * units.columns;
        units.count as usize * floats as usize
    }

    /// Tokens that a block's warps take at a time.
    fn round(&self) -> u32 {
        WARPS * tile_tokens(self.k_dtype, self.v_dtype, self.cache.head_dim as u32)
    }

    /// Query rows that share a KV head.
    fn rows(&self) -> usize {
        self.query_tokens * self.num_q_heads / self.cache.num_kv_heads
    }

    /// Tokens of a full sequence that any of its queries sees.
    fn visible_tokens(&self) -> usize {
        let capacity = self.cache.max_seq_len;
        self.sliding_window.map_or(capacity, |window| {
            capacity.min(window + self.query_tokens - 1)
        })
    }

    /// The fewest row groups, so that K and V are read as seldom as can be, and no wider than needed.
    pub(crate) fn units(&self) -> Result<Units> {
        let shape = &self.cache;
        CacheTypes::new(self.dtype, self.k_dtype, self.v_dtype)?;
        shape.check(self.dtype)?;
        shape.group_size(self.num_q_heads)?;
        at_least_one("query_tokens", self.query_tokens)?;
        at_most("query_tokens", self.query_tokens as u128, MAX_QUERY_TOKENS)?;
        let rows = self.rows();
        let built = CacheTypes::variants(self.k_dtype, self.v_dtype)
            .filter(|&(head_dim, _)| head_dim as usize == shape.head_dim)
            .map(|(_, columns)| columns as usize);
        let columns = built
            .min_by_key(|&columns| (rows.div_ceil(columns), columns))
            .ok_or(Error::NoKernels)?;
        let row_groups = rows.div_ceil(columns);
        // The product without row groups was checked with the cache's shape.
        let count = shape.batch * shape.num_kv_heads * row_groups;
        at_most(
            "batch * num_kv_heads * row groups",
            count as u128,
            MAX_INDEX,
        )?;
        Ok(Units {
            columns: columns as u32,
            row_groups: row_groups as u32,
            count: count as u32,
        })
    }
}

/// Floats that a split hands over for a query row: its output, maximum and sum, on 16-byte boundaries.
fn partial_floats(head_dim: u32) -> u32 {
    head_dim + 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(batch: usize, num_kv_heads: usize, group_size: usize, head_dim: usize) -> DecodeShape {
        DecodeShape {
            cache: CacheShape {
                batch,
                num_kv_heads,
                max_seq_len: 8192,
                head_dim,
            },
            dtype: Dtype::F16,
            k_dtype: Dtype::F16,
            v_dtype: Dtype::F16,
            num_q_heads: num_kv_heads * group_size,
            query_tokens: 1,
            sliding_window: None,
        }
    }

    #[test]
    fn query_rows_are_shared_out_over_as_few_blocks_as_can_be() {
        for (rows, head_dim, columns, row_groups) in [
            (1, 64, 8, 1),
            (8, 128, 8, 1),
            (9, 128, 16, 1),
            (16, 64, 16, 1),
            (17, 64, 16, 2),
            (64, 112, 16, 4),
            (9, 192, 8, 2),
            (64, 256, 8, 8),
        ] {
            assert_eq!(
                shape(2, 3, rows, head_dim).units(),
                Ok(Units {
                    columns,
                    row_groups,
                    count: 6 * row_groups
                }),
                "{rows} {head_dim}"
            );
        }
        // Query tokens are rows too.
        let chunk = DecodeShape {
            query_tokens: 8,
            ..shape(2, 3, 5, 64)
        };
        assert_eq!(chunk.units().map(|units| units.row_groups), Ok(3));
    }

    #[test]
    fn a_plan_says_what_it_launches() {
        let plan = shape(4, 6, 5, 64).plan_with(3).expect("a plan");
        assert_eq!(
            plan.to_string(),
            "kv_decode_f16_d64_n8: 72 blocks of 128 threads and 49152 bytes, 3 splits"
        );
    }

    #[test]
    fn one_sequence_keeps_an_h100_busy() {
        let plan = shape(1, 8, 8, 128).plan(&Gpu::H100).expect("a plan");
        assert_eq!((plan.num_splits, plan.blocks), (32, 256));
        let size = shape(1, 8, 8, 128).workspace(33).expect("a size");
        assert_eq!((size.partials, size.arrivals), (8 * 33 * 8 * 132, 8));
    }

    #[test]
    fn a_window_bounds_the_work() {
        let windowed = DecodeShape {
            sliding_window: Some(256),
            ..shape(1, 8, 8, 128)
        };
        assert_eq!(windowed.plan(&Gpu::H100).map(|plan| plan.num_splits), Ok(2));
    }

    #[test]
    fn splits_fit_the_workspace() {
        let shape = shape(1, 8, 8, 128);
        let room = shape.workspace(7).expect("a size");
        assert_eq!(shape.splits_within(room), Ok(7));
        let short = WorkspaceSize {
            partials: room.partials - 1,
            ..room
        };
        assert_eq!(shape.splits_within(short), Ok(6));
        let uncounted = WorkspaceSize {
            arrivals: 7,
            ..room
        };
        assert_eq!(shape.splits_within(uncounted), Ok(1));
        assert_eq!(shape.splits_within(WorkspaceSize::default()), Ok(1));
    }

    #[test]
    fn every_plan_is_of_a_kernel_there_is_and_fits_every_device() {
        let all: Vec<_> = Kernel::all().collect();
        for (k_dtype, v_dtype) in CacheTypes::kernels() {
            for &head_dim in crate::shape::HEAD_DIMS {
                for group_size in 1..=crate::shape::MAX_GROUP_SIZE {
                    let own = [k_dtype, v_dtype].into_iter().find(|t| !t.is_scaled());
                    let shape = DecodeShape {
                        dtype: own.unwrap_or(Dtype::Bf16),
                        k_dtype,
                        v_dtype,
                        ..shape(1, 1, group_size, head_dim)
                    };
                    let plan = shape.plan(&Gpu::L4).expect("a plan");
                    assert!(all.contains(&plan.kernel));
                    // The least that a block may have on compute capability 8.0 and up.
                    assert!(plan.shared_bytes <= 99 << 10);
                }
            }
        }
    }

    #[test]
    fn no_gpu_is_left_idle() {
        for gpu in [Gpu::A100, Gpu::L4, Gpu::RTX_4090, Gpu::H100, Gpu::B200] {
            for batch in [1, 2, 3, 4, 7, 8, 16, 32, 64, 128, 256] {
                for max_seq_len in (7..=20).map(|bits| 1 << bits) {
                    for (num_kv_heads, group_size, head_dim) in [
                        (8, 4, 128),
                        (1, 8, 128),
                        (8, 16, 128),
                        (3, 3, 64),
                        (32, 1, 64),
                        (4, 8, 256),
                    ] {
                        let mut shape = shape(batch, num_kv_heads, group_size, head_dim);
                        shape.cache.max_seq_len = max_seq_len;
                        let plan = shape.plan(&gpu).expect("a plan");
                        let units = shape.units().expect("units").count;
                        let rounds = (max_seq_len as u32).div_ceil(shape.round());
                        let least = |blocks: u32, rounds: u32| {
                            (0.9 * f64::from(blocks)).min((units * rounds.max(1)).into())
                        };
                        let wave = gpu.sm_count * plan.blocks_per_sm(&gpu);
                        let blocks = f64::from(plan.blocks);
                        // A wave of splits of two rounds, or a round on every multiprocessor.
                        assert!(
                            blocks >= least(wave, rounds / 2),
                            "{gpu:?} {shape:?}: {plan}"
                        );
                        assert!(
                            blocks >= least(gpu.sm_count, rounds),
                            "{gpu:?} {shape:?}: {plan}"
                        );
                    }
                }
            }
        }
    }
}
