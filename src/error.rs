//! What can go wrong, by argument and value.

use cudarc::driver::DriverError;

use crate::dtype::Dtype;

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation was refused or failed.
///
/// Everything but [`Error::Driver`] is found before anything is launched.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no usable CUDA driver on this machine.
    #[error("no CUDA driver: {reason}")]
    NoDriver {
        /// What was tried and what came of it.
        reason: String,
    },

    /// The driver works but has no such device.
    #[error("no CUDA device {ordinal}: the driver has {count}")]
    NoDevice {
        /// The device asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },

    /// The device is older than the kernels.
    #[error("{name} has compute capability {major}.{minor}: the kernels need 8.0 or newer")]
    UnsupportedDevice {
        /// The device's name.
        name: String,
        /// Major compute capability.
        major: i32,
        /// Minor compute capability.
        minor: i32,
    },

    /// The crate was built without its kernels (as docs.rs builds it).
    #[error("built without kernels: build again where there is an nvcc and DOCS_RS is not set")]
    NoKernels,

    /// A driver call failed.
    #[error("{during}: {source}")]
    Driver {
        /// What was being done.
        during: &'static str,
        /// The driver's answer.
        source: DriverError,
    },

    /// A count that must be at least 1 is 0.
    #[error("{argument} is 0: it must be at least 1")]
    Zero {
        /// The count.
        argument: &'static str,
    },

    /// A count is beyond what the kernels index.
    #[error("{argument} is {value}: at most {limit} can be indexed")]
    TooLarge {
        /// The count.
        argument: &'static str,
        /// Its value; `u128::MAX` where even that does not hold it.
        value: u128,
        /// The largest allowed.
        limit: u128,
    },

    /// A count has to be a multiple of another.
    #[error("{argument} is {value}: it must be a multiple of {of}")]
    NotMultiple {
        /// The count.
        argument: &'static str,
        /// Its value.
        value: usize,
        /// What it has to be a multiple of.
        of: usize,
    },

    /// No kernel was built for this head dimension.
    #[error("head_dim is {value}: the kernels for {dtype} are built for {supported:?}")]
    HeadDim {
        /// The head dimension asked for.
        value: usize,
        /// Element type of the cache.
        dtype: Dtype,
        /// Those there are.
        supported: &'static [usize],
    },

    /// The query heads cannot be shared out evenly over the KV heads.
    #[error("num_q_heads is {num_q_heads}: it must be a multiple of num_kv_heads, {num_kv_heads}")]
    HeadsNotDivisible {
        /// Query heads.
        num_q_heads: usize,
        /// KV heads.
        num_kv_heads: usize,
    },

    /// More query heads share a KV head than a kernel serves.
    #[error(
        "group size is {group_size} (num_q_heads {num_q_heads} / num_kv_heads {num_kv_heads}): at most {limit}"
    )]
    GroupSize {
        /// Query heads a KV head.
        group_size: usize,
        /// Query heads.
        num_q_heads: usize,
        /// KV heads.
        num_kv_heads: usize,
        /// The largest group.
        limit: usize,
    },

    /// A slice does not have as many elements as its shape says.
    #[error("{argument} has {got} elements: its shape {shape} has {expected}")]
    Length {
        /// The slice.
        argument: &'static str,
        /// The shape it should have, dimension by dimension.
        shape: String,
        /// Elements of that shape.
        expected: usize,
        /// Elements given.
        got: usize,
    },

    /// No kernel was built for these types of K and V together.
    #[error("a cache of {k} keys and {v} values under {element} queries: {supported}")]
    CacheTypes {
        /// Element type of q, new vectors and the output.
        element: Dtype,
        /// What K is stored as.
        k: Dtype,
        /// What V is stored as.
        v: Dtype,
        /// Which go together.
        supported: &'static str,
    },

    /// A cache of one byte an element came without the scales of its vectors.
    #[error("{argument} is missing: vectors of {dtype} have a scale each")]
    NoScale {
        /// The scales.
        argument: &'static str,
        /// What the cache stores.
        dtype: Dtype,
    },

    /// Scales were given for vectors that have none.
    #[error("{argument} is given, but vectors of {dtype} are not scaled")]
    NotScaled {
        /// The scales.
        argument: &'static str,
        /// What the cache stores.
        dtype: Dtype,
    },

    /// Two arguments disagree.
    #[error("{argument} is {value}, but {other} is {other_value}")]
    Mismatch {
        /// The one argument.
        argument: &'static str,
        /// Its value.
        value: usize,
        /// The other.
        other: &'static str,
        /// The other's value.
        other_value: usize,
    },

    /// A sequence has more tokens than its capacity.
    #[error("seq_len {value} of sequence {sequence}: at most max_seq_len, {max_seq_len}")]
    SeqLen {
        /// The sequence, by index.
        sequence: usize,
        /// Its length.
        value: usize,
        /// The capacity.
        max_seq_len: usize,
    },

    /// There is no such sequence.
    #[error("sequence is {sequence}: the batch has {batch}")]
    NoSequence {
        /// The index given.
        sequence: usize,
        /// Sequences in the batch.
        batch: usize,
    },

    /// A slice does not begin on a 16-byte boundary.
    #[error("{argument} begins at {address:#x}: it must be a multiple of {alignment} bytes")]
    Misaligned {
        /// The slice or view.
        argument: &'static str,
        /// Where it begins on the device.
        address: u64,
        /// The alignment needed.
        alignment: u64,
    },

    /// A stride would put vectors off their 16-byte boundaries or on top of each other.
    #[error("{argument} {stride} stride is {value} elements: {requirement}")]
    Stride {
        /// The tensor.
        argument: &'static str,
        /// Which of its strides.
        stride: &'static str,
        /// The stride, in elements.
        value: usize,
        /// What it has to be.
        requirement: &'static str,
    },

    /// Something belongs to another CUDA context than the kernels.
    #[error("{argument} belongs to another CUDA context than the kernels")]
    OtherContext {
        /// The slice or stream.
        argument: &'static str,
    },

    /// A factor is 0 or negative.
    #[error("{argument} is {value}: it must be above 0")]
    NotPositive {
        /// The factor.
        argument: &'static str,
        /// Its value.
        value: f32,
    },

    /// The operation needs as many new tokens of each sequence.
    #[error(
        "{operation}: not in a packed step, whose sequences have different numbers of new tokens"
    )]
    Packed {
        /// The operation.
        operation: &'static str,
    },

    /// The workspace has no room for what the splits of a decode leave to be merged.
    #[error(
        "workspace holds {partials} partials and {arrivals} arrivals: {num_splits} splits need {partials_needed} and {arrivals_needed}"
    )]
    Workspace {
        /// Splits asked for.
        num_splits: usize,
        /// `f32` elements there are; 0 without a workspace.
        partials: usize,
        /// `u32` elements there are; 0 without a workspace.
        arrivals: usize,
        /// `f32` elements needed.
        partials_needed: usize,
        /// `u32` elements needed.
        arrivals_needed: usize,
    },

    /// Pairs of channels cannot be made of so many.
    #[error("rotary_dim is {value}: it must be even and at least 2")]
    RotaryDim {
        /// The channels to turn.
        value: usize,
    },

    /// A factor is NaN or infinite.
    #[error("{argument} is {value}: it must be finite")]
    NotFinite {
        /// The factor.
        argument: &'static str,
        /// Its value.
        value: f32,
    },
}

/// Names what was being done when a driver call failed.
pub(crate) trait During<T> {
    fn during(self, what: &'static str) -> Result<T>;
}

impl<T> During<T> for std::result::Result<T, DriverError> {
    fn during(self, what: &'static str) -> Result<T> {
        self.map_err(|source| Error::Driver {
            during: what,
            source,
        })
    }
}
