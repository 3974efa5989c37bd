//! The contiguous cache of one layer.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use crate::cache_view::check_channel_scale;
use crate::dtype::Storage;
use crate::error::{During, Result};
use crate::shape::CacheShape;

/// K and V of one layer on the device, each `[batch, num_kv_heads, max_seq_len, head_dim]`, allocated once: K of type
/// `K`, V of type `V`. Types of one byte have a scale for each vector, `f32 [batch, num_kv_heads, max_seq_len]`, and may
/// have one for each channel, `f32 [num_kv_heads, head_dim]`; an element then stands for
/// `payload · scale · channel_scale`.
#[derive(Debug)]
pub struct KvCache<K, V = K> {
    pub(crate) k: CudaSlice<K>,
    pub(crate) v: CudaSlice<V>,
    pub(crate) k_scale: Option<CudaSlice<f32>>,
    pub(crate) v_scale: Option<CudaSlice<f32>>,
    pub(crate) k_channel_scale: Option<CudaSlice<f32>>,
    pub(crate) v_channel_scale: Option<CudaSlice<f32>>,
    shape: CacheShape,
}

impl<K: Storage, V: Storage> KvCache<K, V> {
    /// A cache of this shape, zeroed, without channel scales.
    ///
    /// # Errors
    /// As [`CacheShape::check`], and [`Error::Driver`](crate::Error::Driver) where the device has no such room.
    pub fn new(stream: &Arc<CudaStream>, shape: CacheShape) -> Result<Self> {
        shape.check(K::DTYPE)?;
        let elements = shape.elements()?;
        let scales = |is_scaled: bool| {
            let scales = is_scaled.then(|| stream.alloc_zeros(shape.vectors()));
            scales.transpose().during("allocating scales")
        };
        Ok(KvCache {
            k: stream.alloc_zeros(elements).during("allocating K")?,
            v: stream.alloc_zeros(elements).during("allocating V")?,
            k_scale: scales(K::DTYPE.is_scaled())?,
            v_scale: scales(V::DTYPE.is_scaled())?,
            k_channel_scale: None,
            v_channel_scale: None,
            shape,
        })
    }

    /// The shape of K and of V.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Bytes on the device: of K, V and all scales.
    pub fn bytes(&self) -> usize {
        let scales = [
            &self.k_scale,
            &self.v_scale,
            &self.k_channel_scale,
            &self.v_channel_scale,
        ];
        let floats: usize = scales.into_iter().flatten().map(CudaSlice::len).sum();
        self.k.num_bytes() + self.v.num_bytes() + size_of::<f32>() * floats
    }

    /// K, `[batch, num_kv_heads, max_seq_len, head_dim]`. What lies behind a sequence's tokens means nothing.
    pub fn k(&self) -> &CudaSlice<K> {
        &self.k
    }

    /// V, as [`k`](Self::k).
    pub fn v(&self) -> &CudaSlice<V> {
        &self.v
    }

    /// K and V to be written by other means than [`append`](crate::Kernels::append).
    pub fn k_v_mut(&mut self) -> (&mut CudaSlice<K>, &mut CudaSlice<V>) {
        (&mut self.k, &mut self.v)
    }

    /// The scale of each vector of K, `[batch, num_kv_heads, max_seq_len]`, where they are scaled.
    pub fn k_scale(&self) -> Option<&CudaSlice<f32>> {
        self.k_scale.as_ref()
    }

    /// The scale of each vector of V, as [`k_scale`](Self::k_scale).
    pub fn v_scale(&self) -> Option<&CudaSlice<f32>> {
        self.v_scale.as_ref()
    }

    /// K and its scales, to be written by other means than [`append`](crate::Kernels::append).
    pub fn k_and_scale_mut(&mut self) -> (&mut CudaSlice<K>, Option<&mut CudaSlice<f32>>) {
        (&mut self.k, self.k_scale.as_mut())
    }

    /// V and its scales, as [`k_and_scale_mut`](Self::k_and_scale_mut).
    pub fn v_and_scale_mut(&mut self) -> (&mut CudaSlice<V>, Option<&mut CudaSlice<f32>>) {
        (&mut self.v, self.v_scale.as_mut())
    }

    /// What each channel of K is divided by before it is stored, `[num_kv_heads, head_dim]`, each finite and above 0:
    /// so that a few large channels do not cost all others their precision. `None` for nothing. Tokens that are cached
    /// already keep the meaning that they were stored with, so that this is for an empty cache.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) unless there is one a channel, [`Error::NotScaled`](crate::Error::NotScaled)
    /// where K is stored as it is.
    pub fn set_k_channel_scale(&mut self, scale: Option<CudaSlice<f32>>) -> Result<()> {
        if let Some(scale) = &scale {
            check_channel_scale("k_channel_scale", scale.len(), K::DTYPE, self.shape)?;
        }
        self.k_channel_scale = scale;
        Ok(())
    }

    /// The same for V.
    ///
    /// # Errors
    /// As [`set_k_channel_scale`](Self::set_k_channel_scale).
    pub fn set_v_channel_scale(&mut self, scale: Option<CudaSlice<f32>>) -> Result<()> {
        if let Some(scale) = &scale {
            check_channel_scale("v_channel_scale", scale.len(), V::DTYPE, self.shape)?;
        }
        self.v_channel_scale = scale;
        Ok(())
    }

    /// What K's channels are divided by, if anything.
    pub fn k_channel_scale(&self) -> Option<&CudaSlice<f32>> {
        self.k_channel_scale.as_ref()
    }

    /// What V's channels are divided by, if anything.
    pub fn v_channel_scale(&self) -> Option<&CudaSlice<f32>> {
        self.v_channel_scale.as_ref()
    }
}
