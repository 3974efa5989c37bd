//! The contiguous cache of one layer: owned, or borrowed from an engine.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

use crate::abi;
use crate::dtype::Element;
use crate::error::{During, Error, Result};
use crate::shape::CacheShape;
use crate::slice::{read_vectors, write_vectors};

/// K and V of one layer on the device, each `[batch, num_kv_heads, max_seq_len, head_dim]` of `T`, allocated once.
#[derive(Debug)]
pub struct KvCache<T> {
    k: CudaSlice<T>,
    v: CudaSlice<T>,
    shape: CacheShape,
}

impl<T: Element> KvCache<T> {
    /// A cache of this shape, zeroed.
    ///
    /// # Errors
    /// As [`CacheShape::check`], and [`Error::Driver`] where the device has no such room.
    pub fn new(stream: &Arc<CudaStream>, shape: CacheShape) -> Result<Self> {
        shape.check(T::DTYPE)?;
        let elements = shape.elements()?;
        Ok(KvCache {
            k: stream.alloc_zeros(elements).during("allocating K")?,
            v: stream.alloc_zeros(elements).during("allocating V")?,
            shape,
        })
    }

    /// The shape of K and of V.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// K, `[batch, num_kv_heads, max_seq_len, head_dim]`. What lies behind a sequence's tokens means nothing.
    pub fn k(&self) -> &CudaSlice<T> {
        &self.k
    }

    /// V, as [`k`](Self::k).
    pub fn v(&self) -> &CudaSlice<T> {
        &self.v
    }

    /// K and V to be written by other means than [`append`](crate::Kernels::append).
    pub fn k_v_mut(&mut self) -> (&mut CudaSlice<T>, &mut CudaSlice<T>) {
        (&mut self.k, &mut self.v)
    }
}

/// A cache to attend to: a [`KvCache`], or K and V in slices or views an engine owns.
#[derive(Clone, Copy)]
pub struct CacheRef<'a, T> {
    k: &'a dyn DevicePtr<T>,
    v: &'a dyn DevicePtr<T>,
    shape: CacheShape,
}

impl<'a, T: Element> CacheRef<'a, T> {
    /// K and V, each `[batch, num_kv_heads, max_seq_len, head_dim]`, row-major, beginning on a 16-byte boundary.
    ///
    /// # Errors
    /// As [`CacheShape::check`], and [`Error::Length`] for a slice that is not of this shape.
    pub fn new(
        k: &'a impl DevicePtr<T>,
        v: &'a impl DevicePtr<T>,
        shape: CacheShape,
    ) -> Result<Self> {
        check_lengths::<T>(k.len(), v.len(), shape)?;
        Ok(CacheRef { k, v, shape })
    }

    pub(crate) fn shape(&self) -> CacheShape {
        self.shape
    }

    /// The cache as the kernels read it.
    pub(crate) fn bind<'s>(
        &'s self,
        stream: &'s CudaStream,
    ) -> Result<(abi::KvCache, [SyncOnDrop<'s>; 2])> {
        let (k, k_guard) = read_vectors("cache k", self.k, stream)?;
        let (v, v_guard) = read_vectors("cache v", self.v, stream)?;
        Ok((abi_cache(k, v, self.shape), [k_guard, v_guard]))
    }
}

/// A cache to append to: a [`KvCache`], or K and V in slices or views an engine owns.
pub struct CacheMut<'a, T> {
    k: &'a mut dyn DevicePtrMut<T>,
    v: &'a mut dyn DevicePtrMut<T>,
    shape: CacheShape,
}

impl<'a, T: Element> CacheMut<'a, T> {
    /// K and V, each `[batch, num_kv_heads, max_seq_len, head_dim]`, row-major, beginning on a 16-byte boundary.
    ///
    /// # Errors
    /// As [`CacheShape::check`], and [`Error::Length`] for a slice that is not of this shape.
    pub fn new(
        k: &'a mut impl DevicePtrMut<T>,
        v: &'a mut impl DevicePtrMut<T>,
        shape: CacheShape,
    ) -> Result<Self> {
        check_lengths::<T>(k.len(), v.len(), shape)?;
        Ok(CacheMut { k, v, shape })
    }

    pub(crate) fn shape(&self) -> CacheShape {
        self.shape
    }

    /// The cache as the kernels write it.
    pub(crate) fn bind<'s>(
        &'s mut self,
        stream: &'s CudaStream,
    ) -> Result<(abi::KvCache, [SyncOnDrop<'s>; 2])> {
        let (k, k_guard) = write_vectors("cache k", self.k, stream)?;
        let (v, v_guard) = write_vectors("cache v", self.v, stream)?;
        Ok((abi_cache(k, v, self.shape), [k_guard, v_guard]))
    }
}

impl<'a, T> From<&'a KvCache<T>> for CacheRef<'a, T> {
    fn from(cache: &'a KvCache<T>) -> Self {
        CacheRef {
            k: &cache.k,
            v: &cache.v,
            shape: cache.shape,
        }
    }
}

impl<'a, T> From<&'a mut KvCache<T>> for CacheMut<'a, T> {
    fn from(cache: &'a mut KvCache<T>) -> Self {
        CacheMut {
            k: &mut cache.k,
            v: &mut cache.v,
            shape: cache.shape,
        }
    }
}

fn check_lengths<T: Element>(k: usize, v: usize, shape: CacheShape) -> Result<()> {
    shape.check(T::DTYPE)?;
    let expected = shape.elements()?;
    for (argument, got) in [("cache k", k), ("cache v", v)] {
        if got != expected {
            let CacheShape {
                batch,
                num_kv_heads,
                max_seq_len,
                head_dim,
            } = shape;
            return Err(Error::Length {
                argument,
                shape: format!("[{batch}, {num_kv_heads}, {max_seq_len}, {head_dim}]"),
                expected,
                got,
            });
        }
    }
    Ok(())
}

/// A contiguous cache by the kernels' address rule: one page a sequence. The shape has been checked.
fn abi_cache(k: u64, v: u64, shape: CacheShape) -> abi::KvCache {
    let token_stride = shape.head_dim as i64;
    let head_stride = token_stride * shape.max_seq_len as i64;
    abi::KvCache {
        k: k as *mut _,
        v: v as *mut _,
        page_stride: head_stride * shape.num_kv_heads as i64,
        head_stride,
        token_stride,
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    const SHAPE: CacheShape = CacheShape {
        batch: 2,
        num_kv_heads: 3,
        max_seq_len: 5,
        head_dim: 64,
    };

    #[test]
    fn slices_have_the_shape_they_claim() {
        assert_eq!(check_lengths::<f16>(1920, 1920, SHAPE), Ok(()));
        assert_eq!(
            check_lengths::<f16>(1920, 1856, SHAPE)
                .unwrap_err()
                .to_string(),
            "cache v has 1856 elements: its shape [2, 3, 5, 64] has 1920"
        );
    }

    #[test]
    fn strides_are_row_major() {
        let cache = abi_cache(0, 0, SHAPE);
        assert_eq!(
            (cache.page_stride, cache.head_stride, cache.token_stride),
            (960, 320, 64)
        );
    }

    #[test]
    fn strides_are_64_bit() {
        let long = CacheShape {
            max_seq_len: 1 << 30,
            num_kv_heads: 128,
            batch: 1,
            head_dim: 128,
        };
        assert_eq!(abi_cache(0, 0, long).page_stride, 1 << 44);
    }
}
