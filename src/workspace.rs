//! Device memory in which the splits of a decode meet.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, SyncOnDrop};

use crate::error::{During, Result};
use crate::slice::{write, write_vectors};

/// How much device memory the splits of a decode need to meet. Ordered by nothing: take the [`max`](Self::max) over
/// all shapes that are to share a workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceSize {
    /// `f32` elements for partial results, 0 where nothing is split.
    pub partials: usize,
    /// `u32` elements that count arrivals, 0 where nothing is split.
    pub arrivals: usize,
}

impl WorkspaceSize {
    /// Bytes of both together.
    pub fn bytes(&self) -> usize {
        4 * (self.partials + self.arrivals)
    }

    /// What holds either.
    pub fn max(self, other: WorkspaceSize) -> WorkspaceSize {
        WorkspaceSize {
            partials: self.partials.max(other.partials),
            arrivals: self.arrivals.max(other.arrivals),
        }
    }

    /// Whether a workspace of this size serves one that needs `other`.
    pub(crate) fn holds(&self, other: WorkspaceSize) -> bool {
        self.max(other) == *self
    }
}

/// Where the splits of a [decode](crate::Kernels::decode) leave what they have for the last of them to merge.
///
/// One serves all layers and steps on a stream, since their launches follow each other; work that runs at the same time
/// needs one each. Between launches nothing in it means anything but that the arrival counts are 0.
#[derive(Debug)]
pub struct Workspace {
    partials: CudaSlice<f32>,
    arrivals: CudaSlice<u32>,
}

impl Workspace {
    /// A workspace of this size, which [`Kernels::workspace_size`](crate::Kernels::workspace_size) tells for a shape.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver) where the device has no such room.
    pub fn new(stream: &Arc<CudaStream>, size: WorkspaceSize) -> Result<Workspace> {
        // A driver allocates no empty memory.
        let (partials, arrivals) = (size.partials.max(4), size.arrivals.max(1));
        Ok(Workspace {
            partials: stream
                .alloc_zeros(partials)
                .during("allocating a workspace")?,
            arrivals: stream
                .alloc_zeros(arrivals)
                .during("allocating a workspace")?,
        })
    }

    /// A workspace in memory an engine has: partials of any content, on a 16-byte boundary, and arrival counts that
    /// are all 0. With other counts outputs are missing or wrong, though nothing else is touched.
    pub fn from_slices(partials: CudaSlice<f32>, arrivals: CudaSlice<u32>) -> Workspace {
        Workspace { partials, arrivals }
    }

    /// The slices it is made of.
    pub fn into_slices(self) -> (CudaSlice<f32>, CudaSlice<u32>) {
        (self.partials, self.arrivals)
    }

    /// How much there is.
    pub fn size(&self) -> WorkspaceSize {
        WorkspaceSize {
            partials: self.partials.len(),
            arrivals: self.arrivals.len(),
        }
    }

    /// Addresses of partials and arrivals, with what keeps streams in order until after the launch.
    pub(crate) fn bind<'s>(
        &'s mut self,
        stream: &'s CudaStream,
    ) -> Result<((u64, u64), [SyncOnDrop<'s>; 2])> {
        let (partials, partials_guard) =
            write_vectors("workspace partials", &mut self.partials, stream)?;
        let (arrivals, arrivals_guard) = write("workspace arrivals", &mut self.arrivals, stream)?;
        Ok(((partials, arrivals), [partials_guard, arrivals_guard]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_size_for_several_shapes() {
        let (a, b) = (
            WorkspaceSize {
                partials: 8,
                arrivals: 1,
            },
            WorkspaceSize {
                partials: 4,
                arrivals: 2,
            },
        );
        let both = a.max(b);
        assert_eq!((both.partials, both.arrivals, both.bytes()), (8, 2, 40));
        assert!(both.holds(a) && both.holds(b) && !a.holds(b) && !b.holds(a));
        assert!(a.holds(WorkspaceSize::default()));
    }
}
