//! Device addresses of an engine's slices, checked.

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

use crate::abi;
use crate::error::{Error, Result};

/// Address to read at from work on `stream`, aligned to an element. Keep the guard until the work is launched.
pub(crate) fn read<'s, T>(
    argument: &'static str,
    slice: &'s dyn DevicePtr<T>,
    stream: &'s CudaStream,
) -> Result<(u64, SyncOnDrop<'s>)> {
    // Before the address is asked for: that makes the stream wait for events of the slice's own context.
    if slice.stream().context() != stream.context() {
        return Err(Error::OtherContext { argument });
    }
    let (address, guard) = slice.device_ptr(stream);
    aligned(argument, address, align_of::<T>())?;
    Ok((address, guard))
}

/// [`read`] where there is a slice; else no address.
pub(crate) fn read_if<'s, T>(
    argument: &'static str,
    slice: Option<&'s dyn DevicePtr<T>>,
    stream: &'s CudaStream,
) -> Result<(u64, SyncOnDrop<'s>)> {
    match slice {
        Some(slice) => read(argument, slice, stream),
        None => Ok((0, SyncOnDrop::Record(None))),
    }
}

/// [`read`] for what kernels access 16 bytes at a time.
pub(crate) fn read_vectors<'s, T>(
    argument: &'static str,
    slice: &'s dyn DevicePtr<T>,
    stream: &'s CudaStream,
) -> Result<(u64, SyncOnDrop<'s>)> {
    let (address, guard) = read(argument, slice, stream)?;
    aligned(argument, address, abi::KV_VECTOR_BYTES as usize)?;
    Ok((address, guard))
}

/// Address to write at from work on `stream`, aligned to an element. Keep the guard until the work is launched.
pub(crate) fn write<'s, T>(
    argument: &'static str,
    slice: &'s mut dyn DevicePtrMut<T>,
    stream: &'s CudaStream,
) -> Result<(u64, SyncOnDrop<'s>)> {
    if slice.stream().context() != stream.context() {
        return Err(Error::OtherContext { argument });
    }
    let (address, guard) = slice.device_ptr_mut(stream);
    aligned(argument, address, align_of::<T>())?;
    Ok((address, guard))
}

/// [`write`] for what kernels access 16 bytes at a time.
pub(crate) fn write_vectors<'s, T>(
    argument: &'static str,
    slice: &'s mut dyn DevicePtrMut<T>,
    stream: &'s CudaStream,
) -> Result<(u64, SyncOnDrop<'s>)> {
    let (address, guard) = write(argument, slice, stream)?;
    aligned(argument, address, abi::KV_VECTOR_BYTES as usize)?;
    Ok((address, guard))
}

fn aligned(argument: &'static str, address: u64, alignment: usize) -> Result<()> {
    if !address.is_multiple_of(alignment as u64) {
        return Err(Error::Misaligned {
            argument,
            address,
            alignment: alignment as u64,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_a_misaligned_slice_begins() {
        assert_eq!(aligned("k", 0x7f00_0000_0010, 16), Ok(()));
        assert_eq!(
            aligned("k", 0x7f00_0000_0018, 16).unwrap_err().to_string(),
            "k begins at 0x7f0000000018: it must be a multiple of 16 bytes"
        );
    }
}
