//! The linker, as far as it needs no linking: one PTX input goes through as it is.

use super::api::{In, Out, Text, driver_calls};
use super::error::{Result, fail};
use super::handle::{Handle, Kind};
use super::loader::{JitOptions, compile};
use super::state::lock;
use crate::image;
use std::ffi::c_void;

/// A link under way.
#[derive(Debug)]
pub(crate) struct Link {
    /// The one input, NUL behind text.
    input: Option<Vec<u8>>,
}

impl Kind for Link {
    const TAG: u8 = 10;
    const WHAT: &'static str = "link";
}

/// `CUjitInputType`.
const PTX: u32 = 1;
const FATBINARY: u32 = 2;

fn add(link: Handle<Link>, kind: u32, mut bytes: Vec<u8>, options: JitOptions) -> Result<()> {
    if !matches!(kind, PTX | FATBINARY) {
        fail!(
            NOT_SUPPORTED,
            "input type {kind}: the emulator executes PTX, alone or in a fat binary"
        );
    }
    let mut state = lock()?;
    let profile = state.profile_of(state.current()?)?;
    let of = state.links.get_mut(link)?;
    if of.input.is_some() {
        fail!(NOT_SUPPORTED, "linking several inputs is not emulated");
    }
    if kind == PTX && bytes.last() != Some(&0) {
        bytes.push(0);
    }
    // As the driver does, it is compiled here.
    let result = compile(image::images(&bytes), profile).map(|_| ());
    options.log(&result)?;
    result?;
    of.input = Some(bytes);
    Ok(())
}

driver_calls! { EXPORTS:
    fn cuLinkCreate_v2(count: u32, names: In<u32>, values: In<*mut c_void>, out: Out<Handle<Link>>) {
        JitOptions::read(count, names, values)?;
        let mut state = lock()?;
        state.current()?;
        let link = state.links.insert(Link { input: None });
        out.put(link)
    }

    fn cuLinkAddData_v2(
        link: Handle<Link>, kind: u32, data: In<u8>, size: usize, _name: *const u8, count: u32, names: In<u32>, values: In<*mut c_void>,
    ) {
        let options = JitOptions::read(count, names, values)?;
        add(link, kind, data.all(size, "data")?, options)
    }

    fn cuLinkAddFile_v2(link: Handle<Link>, kind: u32, path: Text, count: u32, names: In<u32>, values: In<*mut c_void>) {
        let options = JitOptions::read(count, names, values)?;
        add(link, kind, super::module::read_file(path)?, options)
    }

    fn cuLinkComplete(link: Handle<Link>, out: Out<*const u8>, size: Out<usize>) {
        let state = lock()?;
        match &state.links.get(link)?.input {
            // What cuModuleLoadData takes; it lives as long as the link.
            Some(bytes) => {
                size.put_if(bytes.len());
                out.put(bytes.as_ptr())
            }
            None => fail!(INVALID_VALUE, "nothing was added"),
        }
    }

    fn cuLinkDestroy(link: Handle<Link>) {
        lock()?.links.remove(link)?;
        Ok(())
    }
}
