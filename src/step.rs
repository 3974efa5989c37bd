//! One step of a model, as all its layers see it.

use cudarc::driver::{CudaStream, DevicePtr, SyncOnDrop};

use crate::abi;
use crate::error::{Error, Result};
use crate::shape::{MAX_INDEX, MAX_SEQ_LEN, at_least_one, at_most};
use crate::slice::read;

/// How many tokens a step adds to each sequence.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum NewTokens<'a> {
    /// So many to each. Vectors are `[batch, tokens, heads, head_dim]`.
    Each(usize),
    /// To each its own number, packed: sequence `b`'s tokens are those from `cu_seqlens[b]` to `cu_seqlens[b + 1]`.
    /// Vectors are `[total, heads, head_dim]`.
    Packed {
        /// Where each sequence's tokens begin, and where the last one's end: `i32 [batch + 1]`, not decreasing. It is
        /// read on the device.
        cu_seqlens: &'a dyn DevicePtr<i32>,
        /// Tokens the vectors have room for, at least `cu_seqlens[batch]`; later ones belong to no sequence.
        total: usize,
    },
}

/// The tokens each sequence holds before a step, and those it receives.
///
/// Pass the same step to the append and the attention of every layer; then
/// [advance](crate::Kernels::advance) the lengths, once.
///
/// A sequence that has no room for all of a step's tokens receives none of them: it is left untouched, attention sees
/// what was there before, and its status word is flagged ([`Status`](crate::Status)).
#[derive(Clone, Copy)]
pub struct Step<'a> {
    seq_lens: &'a dyn DevicePtr<i32>,
    status: Option<&'a dyn DevicePtr<u32>>,
    new: NewTokens<'a>,
    max_seq_len: usize,
}

impl<'a> Step<'a> {
    /// A step over lengths an engine keeps itself, `i32 [batch]`, capacity `max_seq_len` a sequence. Lengths of this
    /// crate make one by [`Lengths::step`](crate::Lengths::step).
    ///
    /// # Errors
    /// [`Error::Zero`] for an empty batch or a capacity of 0; [`Error::TooLarge`] for a batch, number of new tokens or
    /// capacity beyond the kernels' indices; [`Error::Length`] for `cu_seqlens` of other than batch + 1 elements.
    pub fn new(
        seq_lens: &'a impl DevicePtr<i32>,
        max_seq_len: usize,
        new: NewTokens<'a>,
    ) -> Result<Self> {
        let batch = seq_lens.len();
        at_least_one("batch", batch)?;
        at_most("batch", batch as u128, MAX_INDEX)?;
        at_least_one("max_seq_len", max_seq_len)?;
        at_most("max_seq_len", max_seq_len as u128, MAX_SEQ_LEN)?;
        check_new_tokens(new, batch)?;
        Ok(Step {
            seq_lens,
            status: None,
            new,
            max_seq_len,
        })
    }

    /// Raises flags in these status words, `u32 [batch]`; without, sequences that do not fit go unreported.
    ///
    /// The words are raised by atomic operations on the device, through a shared borrow as with
    /// [`AtomicU32`](std::sync::atomic::AtomicU32): read them on the stream that launched.
    ///
    /// # Errors
    /// [`Error::Length`] unless there is one a sequence.
    pub fn with_status(self, status: &'a impl DevicePtr<u32>) -> Result<Self> {
        one_a_sequence("status", status.len(), self.batch())?;
        Ok(Step {
            status: Some(status),
            ..self
        })
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.seq_lens.len()
    }

    /// Capacity of a sequence, in tokens.
    pub fn max_seq_len(&self) -> usize {
        self.max_seq_len
    }

    /// How many tokens the step adds.
    pub fn new_tokens(&self) -> NewTokens<'a> {
        self.new
    }

    /// New tokens of all sequences together, at most.
    pub fn total_tokens(&self) -> usize {
        self.new.total(self.batch())
    }

    /// The step as the kernels read it, with what keeps the streams in order until after the launch.
    pub(crate) fn bind<'s>(&'s self, stream: &'s CudaStream) -> Result<(abi::KvStep, Guards<'s>)> {
        let (seq_lens, guard) = read("seq_lens", self.seq_lens, stream)?;
        let (step, [status, cu_seqlens, _]) = bind_step(
            seq_lens,
            self.status,
            self.new,
            self.batch(),
            self.max_seq_len,
            stream,
        )?;
        Ok((step, [guard, status, cu_seqlens]))
    }
}

/// What has to stay until the launch is made: events that order streams, recorded when dropped.
pub(crate) type Guards<'s> = [SyncOnDrop<'s>; 3];

impl NewTokens<'_> {
    /// New tokens of `batch` sequences together, at most.
    pub(crate) fn total(&self, batch: usize) -> usize {
        match *self {
            NewTokens::Each(tokens) => batch * tokens,
            NewTokens::Packed { total, .. } => total,
        }
    }
}

pub(crate) fn check_new_tokens(new: NewTokens<'_>, batch: usize) -> Result<()> {
    match new {
        NewTokens::Each(tokens) => at_most(
            "batch * new tokens",
            batch as u128 * tokens as u128,
            MAX_INDEX,
        ),
        NewTokens::Packed { cu_seqlens, total } => {
            at_most("total new tokens", total as u128, MAX_INDEX)?;
            if cu_seqlens.len() != batch + 1 {
                return Err(Error::Length {
                    argument: "cu_seqlens",
                    shape: format!("[{batch} + 1]"),
                    expected: batch + 1,
                    got: cu_seqlens.len(),
                });
            }
            Ok(())
        }
    }
}

pub(crate) fn one_a_sequence(argument: &'static str, got: usize, batch: usize) -> Result<()> {
    if got != batch {
        return Err(Error::Length {
            argument,
            shape: format!("[{batch}]"),
            expected: batch,
            got,
        });
    }
    Ok(())
}

/// Puts a step together from the address of its lengths and the rest of it.
pub(crate) fn bind_step<'s>(
    seq_lens: u64,
    status: Option<&'s dyn DevicePtr<u32>>,
    new: NewTokens<'s>,
    batch: usize,
    max_seq_len: usize,
    stream: &'s CudaStream,
) -> Result<(abi::KvStep, Guards<'s>)> {
    let none = || (0, SyncOnDrop::Record(None));
    let (status, status_guard) = match status {
        Some(status) => read("status", status, stream)?,
        None => none(),
    };
    let (new_tokens, (cu_seqlens, cu_seqlens_guard)) = match new {
        NewTokens::Each(tokens) => (tokens, none()),
        NewTokens::Packed { cu_seqlens, .. } => (0, read("cu_seqlens", cu_seqlens, stream)?),
    };
    let step = abi::KvStep {
        seq_lens: seq_lens as *const i32,
        cu_seqlens: cu_seqlens as *const i32,
        status: status as *mut u32,
        // All checked against i32 when the step was made.
        batch: batch as i32,
        new_tokens: new_tokens as i32,
        max_seq_len: max_seq_len as i32,
    };
    Ok((step, [status_guard, cu_seqlens_guard, none().1]))
}
