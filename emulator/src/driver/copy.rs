//! Copies and fills: where the bytes are, in what shape, and the doing of it.

use super::abi::{Memcpy2d, Memcpy3d, memory_type};
use super::error::{Result, fail};
use crate::memory::{AddressSpace, MemoryError};
use std::sync::Arc;

/// An address of plain host memory that the caller keeps alive as the API demands.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostPointer(pub(crate) *mut u8);

// SAFETY: only a number until a copy runs, and who may touch the bytes then is the API's contract.
unsafe impl Send for HostPointer {}
// SAFETY: as above.
unsafe impl Sync for HostPointer {}

/// One side of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Pageable host memory.
    Host(HostPointer),
    /// Memory the emulator knows: device, pinned, managed.
    Device(u64),
}

impl Place {
    /// The place at an address of either kind.
    pub(crate) fn of(space: &AddressSpace, address: u64) -> Place {
        match space.resolve(address, 1) {
            Err(MemoryError::Unmapped { .. }) => Place::Host(HostPointer(address as *mut u8)),
            _ => Place::Device(address),
        }
    }

    fn address(self) -> u64 {
        match self {
            Place::Host(pointer) => pointer.0 as u64,
            Place::Device(address) => address,
        }
    }

    fn at(self, offset: u64) -> Place {
        match self {
            Place::Host(pointer) => {
                Place::Host(HostPointer(pointer.0.wrapping_add(offset as usize)))
            }
            Place::Device(address) => Place::Device(address + offset),
        }
    }
}

/// One side of a copy with the distances between its rows and layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Side {
    /// First byte.
    pub(crate) place: Place,
    /// Bytes from row to row.
    pub(crate) pitch: u64,
    /// Bytes from layer to layer.
    pub(crate) layer: u64,
}

/// A copy of `width` bytes × `height` rows × `depth` layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) from: Side,
    pub(crate) to: Side,
    pub(crate) width: u64,
    pub(crate) height: u64,
    pub(crate) depth: u64,
    /// The source's bytes, tightly packed, where they were taken at the call.
    pub(crate) staged: Option<Arc<[u8]>>,
}

impl Copy {
    /// A copy of `len` bytes in a row.
    pub(crate) fn flat(to: Place, from: Place, len: u64) -> Copy {
        let side = |place| Side {
            place,
            pitch: len,
            layer: len,
        };
        Copy {
            from: side(from),
            to: side(to),
            width: len,
            height: 1,
            depth: 1,
            staged: None,
        }
    }

    /// Bytes from the first to one past the last of a side.
    fn extent(&self, side: Side) -> u64 {
        if self.is_empty() {
            return 0;
        }
        side.layer * (self.depth - 1) + side.pitch * (self.height - 1) + self.width
    }

    fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }

    pub(crate) fn reads_pageable(&self) -> bool {
        matches!(self.from.place, Place::Host(_)) && !self.is_empty()
    }

    pub(crate) fn writes_pageable(&self) -> bool {
        matches!(self.to.place, Place::Host(_)) && !self.is_empty()
    }

    /// Addresses that must be in allocations: (address, bytes) of each device side.
    pub(crate) fn device_ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        [self.from, self.to]
            .into_iter()
            .filter_map(|side| match side.place {
                Place::Device(address) => Some((address, self.extent(side))),
                Place::Host(_) => None,
            })
    }

    /// Takes the source's bytes now, so that the caller may change them at once.
    pub(crate) fn stage(&mut self) {
        if let Place::Host(pointer) = self.from.place {
            let mut bytes = Vec::with_capacity((self.width * self.height * self.depth) as usize);
            for (offset, _) in self.rows() {
                // SAFETY: the API's caller vouches for every row of the source.
                bytes.extend_from_slice(unsafe {
                    std::slice::from_raw_parts(
                        pointer.0.wrapping_add(offset as usize),
                        self.width as usize,
                    )
                });
            }
            self.staged = Some(bytes.into());
        }
    }

    /// Offsets (source, destination) of the first byte of each row.
    fn rows(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let height = if self.width == 0 { 0 } else { self.height };
        (0..self.depth).flat_map(move |z| {
            (0..height).map(move |y| {
                (
                    z * self.from.layer + y * self.from.pitch,
                    z * self.to.layer + y * self.to.pitch,
                )
            })
        })
    }

    /// Does the copy.
    pub(crate) fn run(&self, space: &AddressSpace) -> Result<(), MemoryError> {
        let width = self.width as usize;
        for (row, (from, to)) in self.rows().enumerate() {
            let source = self.from.place.at(from);
            match (self.to.place.at(to), source, &self.staged) {
                (Place::Device(to), _, Some(staged)) => {
                    space.write(to, &staged[row * width..][..width])?
                }
                (Place::Host(to), _, Some(staged)) => {
                    let bytes = &staged[row * width..][..width];
                    // SAFETY: the API's caller vouches for every row of the destination.
                    unsafe { std::ptr::copy(bytes.as_ptr(), to.0, width) };
                }
                (Place::Device(to), Place::Device(from), None) => {
                    space.copy(to, from, self.width)?
                }
                (Place::Device(to), Place::Host(from), None) => {
                    // SAFETY: the API's caller vouches for every row of the source.
                    space.write(to, unsafe { std::slice::from_raw_parts(from.0, width) })?;
                }
                (Place::Host(to), Place::Device(from), None) => {
                    // SAFETY: the API's caller vouches for every row of the destination.
                    space.read(from, unsafe { std::slice::from_raw_parts_mut(to.0, width) })?;
                }
                (Place::Host(to), Place::Host(from), None) => {
                    // SAFETY: the API's caller vouches for every row of both sides.
                    unsafe { std::ptr::copy(from.0, to.0, width) };
                }
            }
        }
        Ok(())
    }

    /// The copy that `cuMemcpy3D` describes.
    pub(crate) fn from_3d(space: &AddressSpace, c: &Memcpy3d) -> Result<Copy> {
        let from = side(
            space,
            "src",
            SideArguments {
                kind: c.src_memory_type,
                host: c.src_host as u64,
                device: c.src_device,
                pitch: c.src_pitch,
                rows: c.src_height,
                origin: [c.src_x_in_bytes, c.src_y, c.src_z],
                extent: [c.width_in_bytes, c.height, c.depth],
            },
        )?;
        let to = side(
            space,
            "dst",
            SideArguments {
                kind: c.dst_memory_type,
                host: c.dst_host as u64,
                device: c.dst_device,
                pitch: c.dst_pitch,
                rows: c.dst_height,
                origin: [c.dst_x_in_bytes, c.dst_y, c.dst_z],
                extent: [c.width_in_bytes, c.height, c.depth],
            },
        )?;
        Ok(Copy {
            from,
            to,
            width: c.width_in_bytes as u64,
            height: c.height as u64,
            depth: c.depth as u64,
            staged: None,
        })
    }

    /// What `cuGraphMemcpyNodeGetParams` says of the copy.
    pub(crate) fn to_3d(&self) -> Memcpy3d {
        let kind = |side: Side| match side.place {
            Place::Host(_) => memory_type::HOST,
            Place::Device(_) => memory_type::UNIFIED,
        };
        let rows = |side: Side| side.layer.checked_div(side.pitch).unwrap_or(0) as usize;
        Memcpy3d {
            src_memory_type: kind(self.from),
            src_host: self.from.place.address() as *const _,
            src_device: self.from.place.address(),
            src_pitch: self.from.pitch as usize,
            src_height: rows(self.from),
            dst_memory_type: kind(self.to),
            dst_host: self.to.place.address() as *mut _,
            dst_device: self.to.place.address(),
            dst_pitch: self.to.pitch as usize,
            dst_height: rows(self.to),
            width_in_bytes: self.width as usize,
            height: self.height as usize,
            depth: self.depth as usize,
            ..Memcpy3d::default()
        }
    }
}

impl From<&Memcpy2d> for Memcpy3d {
    fn from(c: &Memcpy2d) -> Memcpy3d {
        Memcpy3d {
            src_x_in_bytes: c.src_x_in_bytes,
            src_y: c.src_y,
            src_memory_type: c.src_memory_type,
            src_host: c.src_host,
            src_device: c.src_device,
            src_pitch: c.src_pitch,
            dst_x_in_bytes: c.dst_x_in_bytes,
            dst_y: c.dst_y,
            dst_memory_type: c.dst_memory_type,
            dst_host: c.dst_host,
            dst_device: c.dst_device,
            dst_pitch: c.dst_pitch,
            width_in_bytes: c.width_in_bytes,
            height: c.height,
            depth: 1,
            ..Memcpy3d::default()
        }
    }
}

struct SideArguments {
    kind: u32,
    host: u64,
    device: u64,
    pitch: usize,
    /// Rows of a layer.
    rows: usize,
    origin: [usize; 3],
    extent: [usize; 3],
}

fn side(space: &AddressSpace, name: &str, a: SideArguments) -> Result<Side> {
    let [x, y, z] = a.origin.map(|o| o as u64);
    let [width, height, depth] = a.extent.map(|e| e as u64);
    let pitch = if a.pitch == 0 {
        x + width
    } else {
        a.pitch as u64
    };
    if pitch < x + width && height * depth > 1 {
        fail!(
            INVALID_VALUE,
            "{name}Pitch {pitch} is less than {name}XInBytes {x} + WidthInBytes {width}"
        );
    }
    let rows = if a.rows == 0 {
        y + height
    } else {
        a.rows as u64
    };
    if rows < y + height && depth > 1 {
        fail!(
            INVALID_VALUE,
            "{name}Height {rows} is less than {name}Y {y} + Height {height}"
        );
    }
    let place = match a.kind {
        memory_type::HOST => Place::of(space, a.host),
        memory_type::DEVICE => Place::Device(a.device),
        memory_type::UNIFIED => Place::of(space, a.device),
        memory_type::ARRAY => fail!(NOT_SUPPORTED, "{name}MemoryType: arrays are not emulated"),
        other => fail!(
            INVALID_VALUE,
            "{name}MemoryType {other}: expected 1 (host), 2 (device) or 4 (unified)"
        ),
    };
    if place.address() == 0 && width * height * depth > 0 {
        fail!(INVALID_VALUE, "the {name} pointer is null");
    }
    let layer = pitch * rows;
    Ok(Side {
        place: place.at(z * layer + y * pitch + x),
        pitch,
        layer,
    })
}

/// A fill of `width` elements × `height` rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) address: u64,
    /// Bytes from row to row.
    pub(crate) pitch: u64,
    pub(crate) value: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub(crate) element: u32,
    pub(crate) width: u64,
    pub(crate) height: u64,
}

impl Fill {
    /// Bytes from the first to one past the last, or an error where the arguments mean nothing.
    pub(crate) fn extent(&self) -> Result<u64> {
        let element = u64::from(self.element);
        if !matches!(self.element, 1 | 2 | 4) {
            fail!(INVALID_VALUE, "element size {element}: expected 1, 2 or 4");
        }
        if !self.address.is_multiple_of(element) {
            fail!(
                INVALID_VALUE,
                "address {:#x} is not a multiple of the element size {element}",
                self.address
            );
        }
        let Some(row) = self.width.checked_mul(element) else {
            fail!(
                INVALID_VALUE,
                "{} elements of {element} bytes are too many",
                self.width
            );
        };
        if self.height > 1 && (self.pitch < row || !self.pitch.is_multiple_of(element)) {
            fail!(
                INVALID_VALUE,
                "pitch {} for rows of {row} bytes in elements of {element}",
                self.pitch
            );
        }
        if row == 0 || self.height == 0 {
            return Ok(0);
        }
        match (self.height - 1)
            .checked_mul(self.pitch)
            .and_then(|above| above.checked_add(row))
        {
            Some(extent) => Ok(extent),
            None => fail!(
                INVALID_VALUE,
                "{} rows at pitch {} are too many",
                self.height,
                self.pitch
            ),
        }
    }

    /// Does the fill.
    pub(crate) fn run(&self, space: &AddressSpace) -> Result<(), MemoryError> {
        let bytes = self.value.to_le_bytes();
        for row in 0..self.height {
            space.fill(
                self.address + row * self.pitch,
                &bytes[..self.element as usize],
                self.width,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Owner;

    #[test]
    fn rows_and_layers_land_where_the_pitches_say() {
        let space = AddressSpace::new();
        let device = space.allocate(64, Owner::Device(0), None).unwrap();
        space.fill(device.address, &[9], 64).unwrap();
        let source: Vec<u8> = (0..12).collect();
        let mut copy = Copy {
            from: Side {
                place: Place::Host(HostPointer(source.as_ptr().cast_mut())),
                pitch: 3,
                layer: 6,
            },
            to: Side {
                place: Place::Device(device.address),
                pitch: 8,
                layer: 32,
            },
            width: 3,
            height: 2,
            depth: 2,
            staged: None,
        };
        assert_eq!(
            copy.device_ranges().collect::<Vec<_>>(),
            [(device.address, 32 + 8 + 3)]
        );
        copy.stage();
        copy.run(&space).unwrap();
        let mut out = [0; 48];
        space.read(device.address, &mut out).unwrap();
        let mut expected = [9; 48];
        for (at, value) in [(0, 0), (8, 3), (32, 6), (40, 9)] {
            for i in 0..3 {
                expected[at + i] = value + i as u8;
            }
        }
        assert_eq!(out, expected);
    }

    #[test]
    fn a_fill_checks_its_shape() {
        let fill = Fill {
            address: 8,
            pitch: 16,
            value: 7,
            element: 4,
            width: 3,
            height: 2,
        };
        assert_eq!(fill.extent().unwrap(), 28);
        assert!(Fill { address: 6, ..fill }.extent().is_err());
        assert!(Fill { pitch: 8, ..fill }.extent().is_err());
        assert!(Fill { element: 3, ..fill }.extent().is_err());
        assert_eq!(Fill { height: 0, ..fill }.extent().unwrap(), 0);
    }
}
