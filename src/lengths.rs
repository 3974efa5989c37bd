//! How many tokens each sequence holds: on the device, one count a sequence, shared by all layers.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};

use crate::error::{During, Error, Result};
use crate::shape::{MAX_INDEX, MAX_SEQ_LEN, at_least_one, at_most};
use crate::status::Status;
use crate::step::{NewTokens, Step, one_a_sequence};

/// Tokens cached of each sequence, `i32 [batch]`, and its status word, `u32 [batch]`, on the device.
///
/// A step of a model appends and attends in every layer against the same lengths ([`step`](Self::step)), and adds its
/// new tokens to them once, after the last layer ([`Kernels::advance`](crate::Kernels::advance)).
#[derive(Debug)]
pub struct Lengths {
    seq_lens: CudaSlice<i32>,
    status: CudaSlice<u32>,
    max_seq_len: usize,
}

impl Lengths {
    /// `batch` empty sequences of capacity `max_seq_len`.
    ///
    /// # Errors
    /// [`Error::Zero`], [`Error::TooLarge`], or [`Error::Driver`] from the allocation.
    pub fn new(stream: &Arc<CudaStream>, batch: usize, max_seq_len: usize) -> Result<Self> {
        at_least_one("batch", batch)?;
        at_most("batch", batch as u128, MAX_INDEX)?;
        at_least_one("max_seq_len", max_seq_len)?;
        at_most("max_seq_len", max_seq_len as u128, MAX_SEQ_LEN)?;
        Ok(Lengths {
            seq_lens: stream.alloc_zeros(batch).during("allocating lengths")?,
            status: stream
                .alloc_zeros(batch)
                .during("allocating status words")?,
            max_seq_len,
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

    /// The lengths as they lie on the device, `i32 [batch]`.
    pub fn seq_lens(&self) -> &CudaSlice<i32> {
        &self.seq_lens
    }

    /// A step that adds `new` tokens, for the operations of all its layers.
    ///
    /// # Errors
    /// As [`Step::new`].
    pub fn step<'a>(&'a self, new: NewTokens<'a>) -> Result<Step<'a>> {
        Step::new(&self.seq_lens, self.max_seq_len, new)?.with_status(&self.status)
    }

    /// Sets all lengths, from the host, and clears the status words: tokens were cached by other means, or sequences
    /// were cut back.
    ///
    /// # Errors
    /// [`Error::Length`] unless there is one a sequence, [`Error::SeqLen`] for one above the capacity,
    /// [`Error::OtherContext`], [`Error::Driver`].
    pub fn set(&mut self, stream: &Arc<CudaStream>, seq_lens: &[usize]) -> Result<()> {
        let batch = self.batch();
        if seq_lens.len() != batch {
            return Err(Error::Length {
                argument: "seq_lens",
                shape: format!("[{batch}]"),
                expected: batch,
                got: seq_lens.len(),
            });
        }
        let lens = seq_lens
            .iter()
            .enumerate()
            .map(|(sequence, &value)| self.check_seq_len(sequence, value))
            .collect::<Result<Vec<i32>>>()?;
        self.same_context(stream)?;
        stream
            .memcpy_htod(&lens, &mut self.seq_lens)
            .during("writing lengths")?;
        self.clear_status(stream)
    }

    /// Sets the length of one sequence and clears its status word: with 0, its place in the batch is free for another.
    ///
    /// # Errors
    /// [`Error::NoSequence`], [`Error::SeqLen`] above the capacity, [`Error::OtherContext`], [`Error::Driver`].
    pub fn set_one(
        &mut self,
        stream: &Arc<CudaStream>,
        sequence: usize,
        seq_len: usize,
    ) -> Result<()> {
        if sequence >= self.batch() {
            return Err(Error::NoSequence {
                sequence,
                batch: self.batch(),
            });
        }
        let len = self.check_seq_len(sequence, seq_len)?;
        self.same_context(stream)?;
        stream
            .memcpy_htod(&[len], &mut self.seq_lens.slice_mut(sequence..sequence + 1))
            .during("writing a length")?;
        stream
            .memset_zeros(&mut self.status.slice_mut(sequence..sequence + 1))
            .during("clearing a status word")
    }

    /// Copies the lengths to the host. Waits for the stream.
    ///
    /// # Errors
    /// [`Error::OtherContext`], [`Error::Driver`].
    pub fn get(&self, stream: &Arc<CudaStream>) -> Result<Vec<i32>> {
        self.same_context(stream)?;
        stream.clone_dtoh(&self.seq_lens).during("reading lengths")
    }

    /// Copies the status words to the host. Waits for the stream, which should be the one that launched: the words
    /// are raised by operations that otherwise only read the lengths, so other streams do not wait for them.
    ///
    /// # Errors
    /// [`Error::OtherContext`], [`Error::Driver`].
    pub fn status(&self, stream: &Arc<CudaStream>) -> Result<Status> {
        self.same_context(stream)?;
        stream
            .clone_dtoh(&self.status)
            .during("reading status words")
            .map(Status::from_words)
    }

    /// Clears all status words.
    ///
    /// # Errors
    /// [`Error::OtherContext`], [`Error::Driver`].
    pub fn clear_status(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        self.same_context(stream)?;
        stream
            .memset_zeros(&mut self.status)
            .during("clearing status words")
    }

    fn check_seq_len(&self, sequence: usize, value: usize) -> Result<i32> {
        if value > self.max_seq_len {
            return Err(Error::SeqLen {
                sequence,
                value,
                max_seq_len: self.max_seq_len,
            });
        }
        Ok(value as i32) // at most MAX_SEQ_LEN
    }

    fn same_context(&self, stream: &Arc<CudaStream>) -> Result<()> {
        if stream.context() != self.seq_lens.context() {
            return Err(Error::OtherContext { argument: "stream" });
        }
        Ok(())
    }
}

/// Lengths to be advanced: this crate's [`Lengths`], or slices an engine owns.
pub struct LengthsMut<'a> {
    pub(crate) seq_lens: &'a mut dyn DevicePtrMut<i32>,
    pub(crate) status: Option<&'a dyn DevicePtr<u32>>,
    pub(crate) max_seq_len: usize,
}

impl<'a> LengthsMut<'a> {
    /// Lengths in a slice or view an engine owns, `i32 [batch]`, of capacity `max_seq_len` a sequence.
    ///
    /// # Errors
    /// As [`Step::new`].
    pub fn new(seq_lens: &'a mut impl DevicePtrMut<i32>, max_seq_len: usize) -> Result<Self> {
        at_least_one("batch", seq_lens.len())?;
        at_most("batch", seq_lens.len() as u128, MAX_INDEX)?;
        at_least_one("max_seq_len", max_seq_len)?;
        at_most("max_seq_len", max_seq_len as u128, MAX_SEQ_LEN)?;
        Ok(LengthsMut {
            seq_lens,
            status: None,
            max_seq_len,
        })
    }

    /// Raises flags in these status words, `u32 [batch]`, as [`Step::with_status`] does.
    ///
    /// # Errors
    /// [`Error::Length`] unless there is one a sequence.
    pub fn with_status(self, status: &'a impl DevicePtr<u32>) -> Result<Self> {
        one_a_sequence("status", status.len(), self.seq_lens.len())?;
        Ok(LengthsMut {
            status: Some(status),
            ..self
        })
    }
}

impl<'a> From<&'a mut Lengths> for LengthsMut<'a> {
    fn from(lengths: &'a mut Lengths) -> Self {
        LengthsMut {
            seq_lens: &mut lengths.seq_lens,
            status: Some(&lengths.status),
            max_seq_len: lengths.max_seq_len,
        }
    }
}
