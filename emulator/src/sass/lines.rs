//! Which line each machine instruction came from: of the PTX and of the CUDA source.
//!
//! `-lineinfo` leaves two tables in a cubin, both line programs of DWARF:
//! `.debug_line` for the source and `.nv_debug_line_sass` for the PTX, whose text lies
//! in `.nv_debug_ptx_txt`. Addresses in them are relocated to sections of code.

use std::collections::BTreeMap;
use std::sync::Arc;

use gimli::{AttributeValue, DebugLine, DebugLineOffset, EndianSlice, RelocateReader};
use object::LittleEndian;
use object::read::elf::{SectionHeader, Sym};

use super::SassError;
use super::decode::Instruction;
use crate::image::cubin::Cubin;

/// A line of CUDA source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceLine {
    /// Path of the file.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
}

/// A table: by section of code and offset in it, the line from there on.
pub(super) type Rows<L> = BTreeMap<(usize, u64), Option<L>>;

/// Where relocated values lead: offset in the table to section of code and offset in it.
#[derive(Debug, Clone)]
struct Relocations(Arc<BTreeMap<usize, (usize, u64)>>);

/// Relocated addresses hold the section in their upper bits.
const SECTION_SHIFT: u32 = 40;

impl gimli::Relocate for Relocations {
    fn relocate_address(&self, offset: usize, value: u64) -> gimli::Result<u64> {
        Ok(match self.0.get(&offset) {
            Some((section, at)) => ((*section as u64) << SECTION_SHIFT) | value.wrapping_add(*at),
            None => value,
        })
    }

    fn relocate_offset(&self, _: usize, value: usize) -> gimli::Result<usize> {
        Ok(value)
    }
}

type Bytes<'a> = RelocateReader<EndianSlice<'a, gimli::LittleEndian>, Relocations>;

fn damaged(error: impl std::fmt::Display) -> SassError {
    SassError::Lines {
        reason: error.to_string(),
    }
}

/// The relocations of a section; `.rel` and `.rela` sections name it by index.
fn relocations(cubin: &Cubin<'_>, target: usize) -> Result<Relocations, SassError> {
    let e = LittleEndian;
    let mut places = BTreeMap::new();
    for (_, _, section) in cubin.named() {
        if section.sh_info(e) as usize != target {
            continue;
        }
        let mut entries = Vec::new();
        if let Some((rels, _)) = section.rel(e, cubin.bytes).map_err(damaged)? {
            entries.extend(rels.iter().map(|r| (r.r_offset.get(e), r.r_sym(e), 0)));
        }
        if let Some((relas, _)) = section.rela(e, cubin.bytes).map_err(damaged)? {
            entries.extend(relas.iter().map(|r| {
                (
                    r.r_offset.get(e),
                    r.r_sym(e, false),
                    r.r_addend.get(e) as u64,
                )
            }));
        }
        for (offset, symbol, addend) in entries {
            let symbol = object::SymbolIndex(symbol as usize);
            let symbol = cubin.symbols.symbol(symbol).map_err(damaged)?;
            let at = symbol.st_value(e).wrapping_add(addend);
            places.insert(offset as usize, (symbol.st_shndx(e).0.into(), at));
        }
    }
    Ok(Relocations(Arc::new(places)))
}

/// Runs the line programs of a section; `line` makes a line of a file's path and a number.
fn rows<L: Clone>(
    cubin: &Cubin<'_>,
    name: &str,
    line: impl Fn(&mut dyn FnMut() -> Arc<str>, u32) -> L,
) -> Result<Rows<L>, SassError> {
    let mut all = Rows::new();
    let Some((index, _, section)) = cubin.named().find(|(_, other, _)| *other == name) else {
        return Ok(all);
    };
    let data = cubin.data(section)?;
    let reader = RelocateReader::new(
        EndianSlice::new(data, gimli::LittleEndian),
        relocations(cubin, index)?,
    );
    let table: DebugLine<Bytes<'_>> = DebugLine::from(reader);
    let mut offset = 0;
    while offset < data.len() {
        let program = table
            .program(DebugLineOffset(offset), 8, None, None)
            .map_err(damaged)?;
        // The unit's length does not count its own field.
        offset += program.header().unit_length() + size_of::<u32>();
        let mut paths: BTreeMap<u64, Arc<str>> = BTreeMap::new();
        let mut rows = program.rows();
        while let Some((header, row)) = rows.next_row().map_err(damaged)? {
            let address = row.address();
            let place = (
                (address >> SECTION_SHIFT) as usize,
                address & ((1 << SECTION_SHIFT) - 1),
            );
            let number = row.line().map_or(0, |n| n.get() as u32);
            let at = if row.end_sequence() || number == 0 {
                None
            } else {
                let file = row.file_index();
                let mut path = || {
                    let path = paths.entry(file).or_insert_with(|| path(header, file));
                    path.clone()
                };
                Some(line(&mut path, number))
            };
            // The end of one sequence may be the start of the next, which then counts.
            if at.is_some() || !all.contains_key(&place) {
                all.insert(place, at);
            }
        }
    }
    Ok(all)
}

/// A file of a line program, with its directory.
fn path(header: &gimli::LineProgramHeader<Bytes<'_>>, file: u64) -> Arc<str> {
    let text = |value: AttributeValue<Bytes<'_>>| match value {
        AttributeValue::String(bytes) => {
            String::from_utf8_lossy(bytes.inner().slice()).into_owned()
        }
        _ => String::new(),
    };
    let Some(entry) = header.file(file) else {
        return "".into();
    };
    let name = text(entry.path_name());
    match entry.directory(header).map(text) {
        Some(directory) if !directory.is_empty() && !name.starts_with('/') => {
            format!("{directory}/{name}").into()
        }
        _ => name.into(),
    }
}

/// The PTX line of each address.
pub(super) fn ptx_lines(cubin: &Cubin<'_>) -> Result<Rows<u32>, SassError> {
    rows(cubin, ".nv_debug_line_sass", |_, line| line)
}

/// The source line of each address.
pub(super) fn source_lines(cubin: &Cubin<'_>) -> Result<Rows<SourceLine>, SassError> {
    rows(cubin, ".debug_line", |path, line| SourceLine {
        file: path(),
        line,
    })
}

/// Gives each instruction of a section the line in force at its address.
pub(super) fn attach<L>(
    instructions: &mut [Instruction],
    section: usize,
    rows: &Rows<L>,
    give: impl Fn(&mut Instruction, &L),
) {
    let mut rows = rows.range((section, 0)..=(section, u64::MAX)).peekable();
    let mut in_force = None;
    for instruction in instructions {
        while let Some((_, line)) = rows.next_if(|((_, at), _)| *at <= instruction.address) {
            in_force = line.as_ref();
        }
        if let Some(line) = in_force {
            give(instruction, line);
        }
    }
}

/// The PTX that the cubin was compiled from: its lines, comments emptied, each ended by a NUL.
pub(super) fn ptx_text(cubin: &Cubin<'_>) -> Result<Option<String>, SassError> {
    let Some((_, _, section)) = cubin
        .named()
        .find(|(_, name, _)| *name == ".nv_debug_ptx_txt")
    else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(cubin.data(section)?);
    Ok(Some(text.replace('\0', "\n")))
}
