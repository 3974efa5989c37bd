//! Managed memory's advice and prefetching: kept and answered, without an effect on results.

use super::abi::{Location, Ordinal, location_type};
use super::api::{In, Out, driver_calls};
use super::error::{Result, fail};
use super::handle::Handle;
use super::memory::Record;
use super::state::{State, lock};
use super::stream::Stream;
use super::work::Work;

/// The host, as old calls name it where a device could stand.
const CPU: i32 = -1;
/// No location, or several.
const INVALID: i32 = -2;

impl State {
    /// Checks a location that managed memory may be advised to.
    fn check_location(&self, location: Location) -> Result<()> {
        match location.kind {
            location_type::DEVICE => self.device(location.id).map(|_| ()),
            0 | location_type::HOST | 3 | 4 => Ok(()),
            kind => fail!(INVALID_VALUE, "location type {kind}"),
        }
    }

    fn managed_record(&mut self, address: u64, bytes: usize) -> Result<&mut Record> {
        let base = self.managed(address, bytes as u64)?;
        match self.memory.get_mut(&base) {
            Some(record) => Ok(record),
            None => fail!(INVALID_VALUE, "no managed memory at {address:#x}"),
        }
    }
}

/// The location that old calls mean by a device number.
fn location_of(device: Ordinal) -> Location {
    match device {
        CPU => Location {
            kind: location_type::HOST,
            id: 0,
        },
        id => Location {
            kind: location_type::DEVICE,
            id,
        },
    }
}

/// The device number by which old attributes name a location.
fn ordinal_of(location: Option<Location>) -> i32 {
    match location {
        Some(Location {
            kind: location_type::DEVICE,
            id,
        }) => id,
        Some(_) => CPU,
        None => INVALID,
    }
}

fn advise(address: u64, bytes: usize, advice: u32, location: Location) -> Result<()> {
    let mut state = lock()?;
    state.current()?;
    if !matches!(advice, 1 | 2 | 4) {
        state.check_location(location)?;
    }
    let of = &mut state.managed_record(address, bytes)?.advice;
    match advice {
        1 => of.read_mostly = true,
        2 => of.read_mostly = false,
        3 => of.preferred = Some(location),
        4 => of.preferred = None,
        5 => {
            let id = ordinal_of(Some(location));
            if !of.accessed_by.contains(&id) {
                of.accessed_by.push(id);
            }
        }
        6 => of
            .accessed_by
            .retain(|id| *id != ordinal_of(Some(location))),
        _ => fail!(INVALID_VALUE, "advice {advice}: expected 1 to 6"),
    }
    Ok(())
}

fn prefetch(address: u64, bytes: usize, location: Location, stream: Handle<Stream>) -> Result<()> {
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    state.check_location(location)?;
    if bytes == 0 {
        fail!(INVALID_VALUE, "count is 0");
    }
    state.managed_record(address, bytes)?.advice.prefetched = Some(location);
    state.put(stream, Work::Marker)?;
    Ok(())
}

/// Words of the attribute's value, `count` of them for `ACCESSED_BY`.
fn range_attribute(
    state: &mut State,
    attribute: u32,
    address: u64,
    bytes: usize,
    count: usize,
) -> Result<Vec<i32>> {
    let of = &state.managed_record(address, bytes)?.advice;
    Ok(match attribute {
        1 => vec![i32::from(of.read_mostly)],
        2 => vec![ordinal_of(of.preferred)],
        3 => of
            .accessed_by
            .iter()
            .copied()
            .chain(std::iter::repeat(INVALID))
            .take(count)
            .collect(),
        4 => vec![ordinal_of(of.prefetched)],
        5 => vec![of.preferred.map_or(0, |l| l.kind)],
        6 => vec![of.preferred.map_or(0, |l| l.id)],
        7 => vec![of.prefetched.map_or(0, |l| l.kind)],
        8 => vec![of.prefetched.map_or(0, |l| l.id)],
        _ => fail!(INVALID_VALUE, "range attribute {attribute}"),
    })
}

driver_calls! { EXPORTS:
    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: u32, location: Location) {
        advise(address, bytes, advice, location)
    }

    fn cuMemAdvise(address: u64, bytes: usize, advice: u32, device: Ordinal) {
        advise(address, bytes, advice, location_of(device))
    }

    fn cuMemPrefetchAsync_v2(address: u64, bytes: usize, location: Location, flags: u32, stream: Handle<Stream>) per_thread cuMemPrefetchAsync_v2_ptsz {
        if flags != 0 {
            fail!(INVALID_VALUE, "flags {flags}: expected 0");
        }
        prefetch(address, bytes, location, stream)
    }

    fn cuMemPrefetchAsync(address: u64, bytes: usize, device: Ordinal, stream: Handle<Stream>) per_thread cuMemPrefetchAsync_ptsz {
        prefetch(address, bytes, location_of(device), stream)
    }

    fn cuMemRangeGetAttribute(out: Out<i32>, size: usize, attribute: u32, address: u64, bytes: usize) {
        if size == 0 || !size.is_multiple_of(4) {
            fail!(INVALID_VALUE, "dataSize {size}: expected a multiple of 4");
        }
        let mut state = lock()?;
        out.put_all(range_attribute(&mut state, attribute, address, bytes, size / 4)?)
    }

    fn cuMemRangeGetAttributes(outs: In<*mut i32>, sizes: In<usize>, attributes: In<u32>, count: usize, address: u64, bytes: usize) {
        let outs = outs.all(count, "data")?;
        let sizes = sizes.all(count, "dataSizes")?;
        let attributes = attributes.all(count, "attributes")?;
        let mut state = lock()?;
        for ((out, size), attribute) in outs.into_iter().zip(sizes).zip(attributes) {
            Out::from_pointer(out).put_all(range_attribute(&mut state, attribute, address, bytes, size / 4)?)?;
        }
        Ok(())
    }
}
