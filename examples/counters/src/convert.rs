//! Operations on the whole of K: those that quantise it, write it back, or look at it.

use anyhow::{Result, bail};
use kv_kernels::reference::Payload;
use kv_kernels::{ChannelScales, Element, F8E4M3, KvCache, Storage};

use crate::config::Operation;
use crate::device::Device;

/// Launches one of them.
pub fn convert<T: Element>(op: Operation, device: &Device, cache: &KvCache<T>) -> Result<()> {
    let Device {
        stream, kernels, ..
    } = device;
    let shape = cache.shape();
    let mut channels = ChannelScales::new(stream, shape.num_kv_heads, shape.head_dim)?;
    match op {
        Operation::Quantize => quantize::<T, i8>(device, cache, None),
        Operation::QuantizeChannels => quantize::<T, i8>(device, cache, Some(&channels)),
        Operation::QuantizeFp8 => quantize::<T, F8E4M3>(device, cache, None),
        Operation::Dequantize => dequantize::<T, i8>(device, cache),
        Operation::DequantizeFp8 => dequantize::<T, F8E4M3>(device, cache),
        Operation::Calibrate => {
            let calibrate = kernels.calibrate_channel_scale(cache.k(), shape, &mut channels);
            Ok(calibrate.launch(stream)?)
        }
        Operation::Statistics => {
            kernels.statistics(cache.k(), shape).read(stream)?;
            Ok(())
        }
        Operation::Decode | Operation::Append | Operation::Step => {
            bail!("{} is not on the whole of K", op.name())
        }
    }
}

fn quantize<T: Element, P: Storage + Payload>(
    device: &Device,
    cache: &KvCache<T>,
    channels: Option<&ChannelScales>,
) -> Result<()> {
    let Device {
        stream, kernels, ..
    } = device;
    let shape = cache.shape();
    let elements = shape.elements()?;
    let mut stored = stream.alloc_zeros::<P>(elements)?;
    let mut scales = stream.alloc_zeros::<f32>(elements / shape.head_dim)?;
    let mut quantize = kernels.quantize(cache.k(), shape, &mut stored, &mut scales);
    if let Some(channels) = channels {
        quantize = quantize.channel_scale(channels.scales());
    }
    Ok(quantize.launch(stream)?)
}

fn dequantize<T: Element, P: Storage + Payload>(device: &Device, cache: &KvCache<T>) -> Result<()> {
    let Device {
        stream, kernels, ..
    } = device;
    let shape = cache.shape();
    let elements = shape.elements()?;
    let stored = stream.alloc_zeros::<P>(elements)?;
    let scales = stream.alloc_zeros::<f32>(elements / shape.head_dim)?;
    let mut target = stream.alloc_zeros::<T>(elements)?;
    let dequantize = kernels.dequantize(&stored, &scales, shape, &mut target);
    Ok(dequantize.launch(stream)?)
}
