//! advance: the end of a step.

use cudarc::driver::CudaStream;

use crate::abi;
use crate::error::Result;
use crate::lengths::LengthsMut;
use crate::module::Kernels;
use crate::plan::Plan;
use crate::slice::write;
use crate::step::{NewTokens, bind_step, check_new_tokens};

impl Kernels {
    /// Adds a step's new tokens to the lengths, after its last layer: the next step begins behind them.
    ///
    /// A sequence without room for all its new tokens keeps its length and is flagged in its status word, just as
    /// append left it untouched.
    pub fn advance<'a>(
        &'a self,
        lengths: impl Into<LengthsMut<'a>>,
        new: NewTokens<'a>,
    ) -> Advance<'a> {
        Advance {
            kernels: self,
            lengths: lengths.into(),
            new,
        }
    }
}

/// An advance to be launched.
#[must_use = "lengths stay as they are until it is launched"]
pub struct Advance<'a> {
    kernels: &'a Kernels,
    lengths: LengthsMut<'a>,
    new: NewTokens<'a>,
}

impl Advance<'_> {
    /// What would be launched.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) for more new tokens than are indexed, [`Error::Length`](crate::Error::Length) for `cu_seqlens`.
    pub fn plan(&self) -> Result<Plan> {
        let batch = self.lengths.seq_lens.len();
        check_new_tokens(self.new, batch)?;
        Ok(Plan::advance(batch as u32))
    }

    /// Launches it on a stream. Does not wait.
    ///
    /// # Errors
    /// [`Error::OtherContext`](crate::Error::OtherContext) for the stream or any slice; [`Error::TooLarge`](crate::Error::TooLarge) for more new tokens than are indexed;
    /// [`Error::Length`](crate::Error::Length) for `cu_seqlens`; [`Error::Driver`](crate::Error::Driver) from the launch.
    pub fn launch(self, stream: &CudaStream) -> Result<()> {
        self.kernels.check_stream(stream)?;
        let plan = self.plan()?;
        let batch = self.lengths.seq_lens.len();
        let (seq_lens, _seq_lens) = write("seq_lens", self.lengths.seq_lens, stream)?;
        let (step, _step) = bind_step(
            seq_lens,
            self.lengths.status,
            self.new,
            batch,
            self.lengths.max_seq_len,
            stream,
        )?;
        let params = abi::KvAdvanceParams {
            step,
            seq_lens: seq_lens as *mut i32,
        };
        // SAFETY: the advance kernel takes KvAdvanceParams; lengths, borrowed mutably, status words and cu_seqlens
        // have one element a sequence (cu_seqlens one more) by the checks made where they were given.
        unsafe { self.kernels.launch(&plan, &params, stream) }
    }
}
