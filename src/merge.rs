//! merge: attention over all tokens from attention over parts of them.

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

use crate::abi;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::module::Kernels;
use crate::plan::Plan;
use crate::shape::{MAX_INDEX, at_least_one, at_most};
use crate::slice::{read, read_vectors, write, write_vectors};

/// How many partial results there are, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Partials {
    /// Parts that the tokens are divided into.
    pub parts: usize,
    /// Queries × heads: vectors of a part.
    pub rows: usize,
    /// Elements of a vector, a multiple of 8.
    pub head_dim: usize,
}

impl Kernels {
    /// Attention over the tokens of several parts (other devices' caches, a prefix shared by sequences) from attention
    /// over each: `out = Σ_p exp(lse_p) out_p / Σ_p exp(lse_p)`.
    ///
    /// `outs` is `[parts, rows, head_dim]` and `lses` `f32 [parts, rows]`, as [`decode`](Self::decode) writes them for
    /// each part; `out` is `[rows, head_dim]`. A part whose lse is −∞ counts for nothing, whatever its output; a row
    /// without tokens in any part gives zeros.
    pub fn merge<'a, T: Element>(
        &'a self,
        outs: &'a impl DevicePtr<T>,
        lses: &'a impl DevicePtr<f32>,
        partials: Partials,
        out: &'a mut impl DevicePtrMut<T>,
    ) -> Merge<'a, T> {
        Merge {
            kernels: self,
            outs,
            lses,
            partials,
            out,
            lse: None,
        }
    }
}

/// A merge to be launched.
#[must_use = "nothing is merged until it is launched"]
pub struct Merge<'a, T> {
    kernels: &'a Kernels,
    outs: &'a dyn DevicePtr<T>,
    lses: &'a dyn DevicePtr<f32>,
    partials: Partials,
    out: &'a mut dyn DevicePtrMut<T>,
    lse: Option<&'a mut dyn DevicePtrMut<f32>>,
}

impl<'a, T: Element> Merge<'a, T> {
    /// Also writes the natural logarithm of each row's softmax denominator over all parts, `f32 [rows]`.
    pub fn lse(mut self, lse: &'a mut impl DevicePtrMut<f32>) -> Self {
        self.lse = Some(lse);
        self
    }

    /// What would be launched.
    ///
    /// # Errors
    /// Those of [`launch`](Self::launch) that concern shapes.
    pub fn plan(&self) -> Result<Plan> {
        let Partials {
            parts,
            rows,
            head_dim,
        } = self.partials;
        at_least_one("parts", parts)?;
        at_least_one("rows", rows)?;
        at_least_one("head_dim", head_dim)?;
        let per_vector = abi::KV_VECTOR_BYTES as usize / size_of::<T>();
        if !head_dim.is_multiple_of(per_vector) {
            return Err(Error::NotMultiple {
                argument: "head_dim",
                value: head_dim,
                of: per_vector,
            });
        }
        at_most("head_dim", head_dim as u128, MAX_INDEX)?;
        at_most("parts * rows", parts as u128 * rows as u128, MAX_INDEX)?;
        let vectors = rows as u128 * (head_dim / per_vector) as u128;
        at_most("rows * head_dim / 8", vectors, MAX_INDEX)?;
        Ok(Plan::merge(vectors as u32, T::DTYPE))
    }

    /// Launches it on a stream. Does not wait.
    ///
    /// # Errors
    /// [`Error::OtherContext`] for the stream or any slice; [`Error::Zero`] and [`Error::TooLarge`] for the counts;
    /// [`Error::NotMultiple`] for the head dimension; [`Error::Length`] for any slice; [`Error::Misaligned`] for outs
    /// and out; [`Error::Driver`] from the launch.
    pub fn launch(self, stream: &CudaStream) -> Result<()> {
        self.kernels.check_stream(stream)?;
        let plan = self.plan()?;
        let Partials {
            parts,
            rows,
            head_dim,
        } = self.partials;
        let length = |argument, got: usize, dimensions: &[usize]| {
            // Counts below 2³¹ each, no more than two of them large: no overflow.
            let expected = dimensions.iter().product();
            if got == expected {
                return Ok(());
            }
            Err(Error::Length {
                argument,
                shape: format!("{dimensions:?}"),
                expected,
                got,
            })
        };
        length("outs", self.outs.len(), &[parts, rows, head_dim])?;
        length("lses", self.lses.len(), &[parts, rows])?;
        length("out", self.out.len(), &[rows, head_dim])?;
        if let Some(lse) = &self.lse {
            length("lse", lse.len(), &[rows])?;
        }
        let (outs, _outs) = read_vectors("outs", self.outs, stream)?;
        let (lses, _lses) = read("lses", self.lses, stream)?;
        let (out, _out) = write_vectors("out", self.out, stream)?;
        let (lse, _lse) = match self.lse {
            Some(lse) => write("lse", lse, stream)?,
            None => (0, SyncOnDrop::Record(None)),
        };
        let params = abi::KvMergeParams {
            outs: outs as *const _,
            lses: lses as *const f32,
            out: out as *mut _,
            lse: lse as *mut f32,
            rows: rows as i64,
            parts: parts as i32,
            head_dim: head_dim as i32,
        };
        // SAFETY: a merge kernel takes KvMergeParams; slices have the lengths that the counts imply, are borrowed (those
        // written to mutably) and guarded.
        unsafe { self.kernels.launch(&plan, &params, stream) }
    }
}
