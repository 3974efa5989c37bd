//! Caches as operations take them: a [`KvCache`]'s, or slices and views that an engine owns.

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

use crate::abi;
use crate::cache::KvCache;
use crate::dtype::{Dtype, Storage};
use crate::error::{Error, Result};
use crate::shape::CacheShape;
use crate::slice::{read_if, read_vectors, write, write_vectors};

/// A cache to attend to: a [`KvCache`], or K and V in slices or views an engine owns.
#[derive(Clone, Copy)]
pub struct CacheRef<'a, K, V = K> {
    k: &'a dyn DevicePtr<K>,
    v: &'a dyn DevicePtr<V>,
    k_scale: Option<&'a dyn DevicePtr<f32>>,
    v_scale: Option<&'a dyn DevicePtr<f32>>,
    k_channel_scale: Option<&'a dyn DevicePtr<f32>>,
    v_channel_scale: Option<&'a dyn DevicePtr<f32>>,
    shape: CacheShape,
}

/// A cache to append to: a [`KvCache`], or K and V in slices or views an engine owns.
pub struct CacheMut<'a, K, V = K> {
    k: &'a mut dyn DevicePtrMut<K>,
    v: &'a mut dyn DevicePtrMut<V>,
    k_scale: Option<&'a mut dyn DevicePtrMut<f32>>,
    v_scale: Option<&'a mut dyn DevicePtrMut<f32>>,
    k_channel_scale: Option<&'a dyn DevicePtr<f32>>,
    v_channel_scale: Option<&'a dyn DevicePtr<f32>>,
    shape: CacheShape,
}

/// What keeps streams in order until after a launch: for K, V, and each of their scales.
pub(crate) type CacheGuards<'s> = [SyncOnDrop<'s>; 6];

impl<'a, K: Storage, V: Storage> CacheRef<'a, K, V> {
    /// K and V, each `[batch, num_kv_heads, max_seq_len, head_dim]`, row-major, beginning on a 16-byte boundary.
    ///
    /// # Errors
    /// As [`CacheShape::check`], and [`Error::Length`] for a slice that is not of this shape.
    pub fn new(
        k: &'a impl DevicePtr<K>,
        v: &'a impl DevicePtr<V>,
        shape: CacheShape,
    ) -> Result<Self> {
        shape.check(K::DTYPE)?;
        check_vectors("cache k", k.len(), shape)?;
        check_vectors("cache v", v.len(), shape)?;
        Ok(CacheRef {
            k,
            v,
            k_scale: None,
            v_scale: None,
            k_channel_scale: None,
            v_channel_scale: None,
            shape,
        })
    }

    /// The scale of each vector of K, `f32 [batch, num_kv_heads, max_seq_len]`: for K of one byte an element.
    ///
    /// # Errors
    /// [`Error::NotScaled`] for K that is stored as it is, [`Error::Length`].
    pub fn k_scale(mut self, scale: &'a impl DevicePtr<f32>) -> Result<Self> {
        check_scale("k_scale", scale.len(), K::DTYPE, self.shape)?;
        self.k_scale = Some(scale);
        Ok(self)
    }

    /// The scale of each vector of V, as [`k_scale`](Self::k_scale).
    ///
    /// # Errors
    /// As [`k_scale`](Self::k_scale).
    pub fn v_scale(mut self, scale: &'a impl DevicePtr<f32>) -> Result<Self> {
        check_scale("v_scale", scale.len(), V::DTYPE, self.shape)?;
        self.v_scale = Some(scale);
        Ok(self)
    }

    /// What K's channels were divided by, `f32 [num_kv_heads, head_dim]`.
    ///
    /// # Errors
    /// As [`k_scale`](Self::k_scale).
    pub fn k_channel_scale(mut self, scale: &'a impl DevicePtr<f32>) -> Result<Self> {
        check_channel_scale("k_channel_scale", scale.len(), K::DTYPE, self.shape)?;
        self.k_channel_scale = Some(scale);
        Ok(self)
    }

    /// What V's channels were divided by, `f32 [num_kv_heads, head_dim]`.
    ///
    /// # Errors
    /// As [`k_scale`](Self::k_scale).
    pub fn v_channel_scale(mut self, scale: &'a impl DevicePtr<f32>) -> Result<Self> {
        check_channel_scale("v_channel_scale", scale.len(), V::DTYPE, self.shape)?;
        self.v_channel_scale = Some(scale);
        Ok(self)
    }

    pub(crate) fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Refuses a cache that lacks scales.
    pub(crate) fn check(&self) -> Result<()> {
        check_scales_given(K::DTYPE, self.k_scale.is_some(), "k_scale")?;
        check_scales_given(V::DTYPE, self.v_scale.is_some(), "v_scale")
    }

    /// The cache as the kernels read it.
    pub(crate) fn bind<'s>(
        &'s self,
        stream: &'s CudaStream,
    ) -> Result<(abi::KvCache, CacheGuards<'s>)> {
        let (k, k_guard) = read_vectors("cache k", self.k, stream)?;
        let (v, v_guard) = read_vectors("cache v", self.v, stream)?;
        let (k_scale, k_scale_guard) = read_if("k_scale", self.k_scale, stream)?;
        let (v_scale, v_scale_guard) = read_if("v_scale", self.v_scale, stream)?;
        let (k_channel, k_channel_guard) =
            read_vectors_if("k_channel_scale", self.k_channel_scale, stream)?;
        let (v_channel, v_channel_guard) =
            read_vectors_if("v_channel_scale", self.v_channel_scale, stream)?;
        let scales = [k_scale, v_scale, k_channel, v_channel];
        Ok((
            abi_cache([k, v], scales, self.shape),
            [
                k_guard,
                v_guard,
                k_scale_guard,
                v_scale_guard,
                k_channel_guard,
                v_channel_guard,
            ],
        ))
    }
}

impl<'a, K: Storage, V: Storage> CacheMut<'a, K, V> {
    /// K and V, each `[batch, num_kv_heads, max_seq_len, head_dim]`, row-major, beginning on a 16-byte boundary.
    ///
    /// # Errors
    /// As [`CacheShape::check`], and [`Error::Length`] for a slice that is not of this shape.
    pub fn new(
        k: &'a mut impl DevicePtrMut<K>,
        v: &'a mut impl DevicePtrMut<V>,
        shape: CacheShape,
    ) -> Result<Self> {
        shape.check(K::DTYPE)?;
        check_vectors("cache k", k.len(), shape)?;
        check_vectors("cache v", v.len(), shape)?;
        Ok(CacheMut {
            k,
            v,
            k_scale: None,
            v_scale: None,
            k_channel_scale: None,
            v_channel_scale: None,
            shape,
        })
    }

    /// Where the scale of each vector of K is, `f32 [batch, num_kv_heads, max_seq_len]`: for K of one byte an element.
    ///
    /// # Errors
    /// [`Error::NotScaled`] for K that is stored as it is, [`Error::Length`].
    pub fn k_scale(mut self, scale: &'a mut impl DevicePtrMut<f32>) -> Result<Self> {
        check_scale("k_scale", scale.len(), K::DTYPE, self.shape)?;
        self.k_scale = Some(scale);
        Ok(self)
    }

    /// Where the scale of each vector of V is, as [`k_scale`](Self::k_scale).
    ///
    /// # Errors
    /// As [`k_scale`](Self::k_scale).
    pub fn v_scale(mut self, scale: &'a mut impl DevicePtrMut<f32>) -> Result<Self> {
        check_scale("v_scale", scale.len(), V::DTYPE, self.shape)?;
        self.v_scale = Some(scale);
        Ok(self)
    }

    /// What K's channels are divided by, `f32 [num_kv_heads, head_dim]`, each finite and above 0.
    ///
    /// # Errors
    /// As [`k_scale`](Self::k_scale).
    pub fn k_channel_scale(mut self, scale: &'a impl DevicePtr<f32>) -> Result<Self> {
        check_channel_scale("k_channel_scale", scale.len(), K::DTYPE, self.shape)?;
        self.k_channel_scale = Some(scale);
        Ok(self)
    }

    /// What V's channels are divided by, as [`k_channel_scale`](Self::k_channel_scale).
    ///
    /// # Errors
    /// As [`k_scale`](Self::k_scale).
    pub fn v_channel_scale(mut self, scale: &'a impl DevicePtr<f32>) -> Result<Self> {
        check_channel_scale("v_channel_scale", scale.len(), V::DTYPE, self.shape)?;
        self.v_channel_scale = Some(scale);
        Ok(self)
    }

    pub(crate) fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Refuses a cache that lacks scales.
    pub(crate) fn check(&self) -> Result<()> {
        check_scales_given(K::DTYPE, self.k_scale.is_some(), "k_scale")?;
        check_scales_given(V::DTYPE, self.v_scale.is_some(), "v_scale")
    }

    /// The cache as the kernels write it.
    pub(crate) fn bind<'s>(
        &'s mut self,
        stream: &'s CudaStream,
    ) -> Result<(abi::KvCache, CacheGuards<'s>)> {
        let (k, k_guard) = write_vectors("cache k", self.k, stream)?;
        let (v, v_guard) = write_vectors("cache v", self.v, stream)?;
        let (k_scale, k_scale_guard) = write_if("k_scale", &mut self.k_scale, stream)?;
        let (v_scale, v_scale_guard) = write_if("v_scale", &mut self.v_scale, stream)?;
        let (k_channel, k_channel_guard) =
            read_vectors_if("k_channel_scale", self.k_channel_scale, stream)?;
        let (v_channel, v_channel_guard) =
            read_vectors_if("v_channel_scale", self.v_channel_scale, stream)?;
        let scales = [k_scale, v_scale, k_channel, v_channel];
        Ok((
            abi_cache([k, v], scales, self.shape),
            [
                k_guard,
                v_guard,
                k_scale_guard,
                v_scale_guard,
                k_channel_guard,
                v_channel_guard,
            ],
        ))
    }
}

impl<'a, K, V> From<&'a KvCache<K, V>> for CacheRef<'a, K, V>
where
    K: Storage,
    V: Storage,
{
    fn from(cache: &'a KvCache<K, V>) -> Self {
        fn scale(scale: &Option<cudarc::driver::CudaSlice<f32>>) -> Option<&dyn DevicePtr<f32>> {
            scale.as_ref().map(|scale| scale as _)
        }
        CacheRef {
            k: &cache.k,
            v: &cache.v,
            k_scale: scale(&cache.k_scale),
            v_scale: scale(&cache.v_scale),
            k_channel_scale: scale(&cache.k_channel_scale),
            v_channel_scale: scale(&cache.v_channel_scale),
            shape: cache.shape(),
        }
    }
}

impl<'a, K, V> From<&'a mut KvCache<K, V>> for CacheMut<'a, K, V>
where
    K: Storage,
    V: Storage,
{
    fn from(cache: &'a mut KvCache<K, V>) -> Self {
        let shape = cache.shape();
        CacheMut {
            k: &mut cache.k,
            v: &mut cache.v,
            k_scale: cache.k_scale.as_mut().map(|scale| scale as _),
            v_scale: cache.v_scale.as_mut().map(|scale| scale as _),
            k_channel_scale: cache.k_channel_scale.as_ref().map(|scale| scale as _),
            v_channel_scale: cache.v_channel_scale.as_ref().map(|scale| scale as _),
            shape,
        }
    }
}

pub(crate) fn check_vectors(argument: &'static str, got: usize, shape: CacheShape) -> Result<()> {
    let expected = shape.elements()?;
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
    Ok(())
}

/// Refuses scales for what is stored as it is.
fn check_scaled(argument: &'static str, dtype: Dtype) -> Result<()> {
    if !dtype.is_scaled() {
        return Err(Error::NotScaled { argument, dtype });
    }
    Ok(())
}

/// Whether channels of this type are scaled, and each has a scale.
pub(crate) fn check_channel_scale(
    argument: &'static str,
    got: usize,
    dtype: Dtype,
    shape: CacheShape,
) -> Result<()> {
    check_scaled(argument, dtype)?;
    let CacheShape {
        num_kv_heads,
        head_dim,
        ..
    } = shape;
    let expected = num_kv_heads * head_dim;
    if got != expected {
        return Err(Error::Length {
            argument,
            shape: format!("[{num_kv_heads}, {head_dim}]"),
            expected,
            got,
        });
    }
    Ok(())
}

pub(crate) fn check_scale(
    argument: &'static str,
    got: usize,
    dtype: Dtype,
    shape: CacheShape,
) -> Result<()> {
    check_scaled(argument, dtype)?;
    let CacheShape {
        batch,
        num_kv_heads,
        max_seq_len,
        ..
    } = shape;
    let expected = shape.vectors();
    if got != expected {
        return Err(Error::Length {
            argument,
            shape: format!("[{batch}, {num_kv_heads}, {max_seq_len}]"),
            expected,
            got,
        });
    }
    Ok(())
}

fn check_scales_given(dtype: Dtype, given: bool, argument: &'static str) -> Result<()> {
    if dtype.is_scaled() && !given {
        return Err(Error::NoScale { argument, dtype });
    }
    Ok(())
}

fn write_if<'s>(
    argument: &'static str,
    slice: &'s mut Option<&mut dyn DevicePtrMut<f32>>,
    stream: &'s CudaStream,
) -> Result<(u64, SyncOnDrop<'s>)> {
    match slice {
        Some(slice) => write(argument, *slice, stream),
        None => Ok((0, SyncOnDrop::Record(None))),
    }
}

pub(crate) fn read_vectors_if<'s>(
    argument: &'static str,
    slice: Option<&'s dyn DevicePtr<f32>>,
    stream: &'s CudaStream,
) -> Result<(u64, SyncOnDrop<'s>)> {
    match slice {
        Some(slice) => read_vectors(argument, slice, stream),
        None => Ok((0, SyncOnDrop::Record(None))),
    }
}

/// A contiguous cache by the kernels' address rule: one page a sequence. The shape has been checked.
fn abi_cache([k, v]: [u64; 2], scales: [u64; 4], shape: CacheShape) -> abi::KvCache {
    let [k_scale, v_scale, k_channel_scale, v_channel_scale] = scales;
    let token_stride = shape.head_dim as i64;
    let head_stride = token_stride * shape.max_seq_len as i64;
    abi::KvCache {
        k: k as *mut _,
        v: v as *mut _,
        k_scale: k_scale as *mut f32,
        v_scale: v_scale as *mut f32,
        k_channel_scale: k_channel_scale as *const f32,
        v_channel_scale: v_channel_scale as *const f32,
        page_stride: head_stride * shape.num_kv_heads as i64,
        head_stride,
        token_stride,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: CacheShape = CacheShape {
        batch: 2,
        num_kv_heads: 3,
        max_seq_len: 5,
        head_dim: 64,
    };

    #[test]
    fn slices_have_the_shape_they_claim() {
        assert_eq!(check_vectors("cache k", 1920, SHAPE), Ok(()));
        assert_eq!(
            check_vectors("cache v", 1856, SHAPE)
                .unwrap_err()
                .to_string(),
            "cache v has 1856 elements: its shape [2, 3, 5, 64] has 1920"
        );
        assert_eq!(check_scale("k_scale", 30, Dtype::I8, SHAPE), Ok(()));
        assert_eq!(
            check_scale("v_scale", 29, Dtype::F8E4M3, SHAPE)
                .unwrap_err()
                .to_string(),
            "v_scale has 29 elements: its shape [2, 3, 5] has 30"
        );
        assert_eq!(
            check_channel_scale("k_channel_scale", 64, Dtype::I8, SHAPE)
                .unwrap_err()
                .to_string(),
            "k_channel_scale has 64 elements: its shape [3, 64] has 192"
        );
    }

    #[test]
    fn scales_go_with_types_that_have_them() {
        assert_eq!(
            check_scale("k_scale", 30, Dtype::F16, SHAPE)
                .unwrap_err()
                .to_string(),
            "k_scale is given, but vectors of f16 are not scaled"
        );
        assert_eq!(
            check_channel_scale("k_channel_scale", 192, Dtype::Bf16, SHAPE)
                .unwrap_err()
                .to_string(),
            "k_channel_scale is given, but vectors of bf16 are not scaled"
        );
        assert_eq!(
            check_scales_given(Dtype::I8, false, "v_scale")
                .unwrap_err()
                .to_string(),
            "v_scale is missing: vectors of int8 have a scale each"
        );
        assert_eq!(check_scales_given(Dtype::F16, false, "v_scale"), Ok(()));
    }

    #[test]
    fn strides_are_row_major() {
        let cache = abi_cache([0; 2], [0; 4], SHAPE);
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
        assert_eq!(abi_cache([0; 2], [0; 4], long).page_stride, 1 << 44);
    }
}
