//! What ptxas recorded in a cubin: registers, stack and shared memory of each kernel.

use std::collections::BTreeMap;

use object::LittleEndian;
use object::elf::{FileHeader64, SHT_NOBITS, STT_FUNC, SectionHeader64};
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym, SymbolTable};

use super::ImageError;

/// Bytes of an ELF header.
pub(super) const HEADER_BYTES: usize = size_of::<Header>();

pub(crate) type Header = FileHeader64<LittleEndian>;
pub(crate) type Section = SectionHeader64<LittleEndian>;

/// ELF's machine number for CUDA.
const EM_CUDA: u16 = 190;

/// `st_other` bit of a kernel's symbol.
const STO_CUDA_ENTRY: u8 = 0x10;

/// Attributes of `.nv.info` sections.
const EIATTR_CBANK_PARAM_SIZE: u8 = 0x19;
const EIATTR_FRAME_SIZE: u8 = 0x11;
const EIATTR_INDIRECT_BRANCH_TARGETS: u8 = 0x34;
const EIATTR_MIN_STACK_SIZE: u8 = 0x12;
const EIATTR_REGCOUNT: u8 = 0x2f;

/// A kernel as ptxas compiled it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Name, mangled.
    pub name: String,
    /// Registers a thread (`launch__registers_per_thread`).
    pub registers: u32,
    /// Bytes of the kernel's own stack frame a thread; spills and local arrays live there.
    pub frame_bytes: u32,
    /// Bytes of stack a thread, callees included; what recursion adds cannot be known.
    pub stack_bytes: u32,
    /// Static shared memory in bytes.
    pub shared_bytes: u64,
    /// Parameters in bytes.
    pub param_bytes: u32,
    /// Machine code in bytes, functions called from it included.
    pub code_bytes: u64,
}

/// A cubin's tables.
pub(crate) struct Cubin<'a> {
    pub bytes: &'a [u8],
    pub sections: SectionTable<'a, Header>,
    pub symbols: SymbolTable<'a, Header>,
}

fn damaged(error: object::Error) -> ImageError {
    ImageError::Elf {
        reason: error.to_string(),
    }
}

pub(crate) fn bad(reason: impl Into<String>) -> ImageError {
    ImageError::Elf {
        reason: reason.into(),
    }
}

fn header(bytes: &[u8]) -> Result<&Header, ImageError> {
    let header = Header::parse(bytes).map_err(damaged)?;
    header.endian().map_err(damaged)?;
    match header.e_machine.get(LittleEndian).0 {
        EM_CUDA => Ok(header),
        other => Err(ImageError::BadField {
            field: "machine of the ELF file",
            value: other.into(),
            allowed: "190 (CUDA)",
        }),
    }
}

/// The architecture a cubin was compiled for.
pub(crate) fn architecture(bytes: &[u8]) -> Result<u32, ImageError> {
    let header = header(bytes)?;
    let flags = header.e_flags.get(LittleEndian).0;
    // ABI 8 (CUDA 13) moved the number up to make room.
    Ok(match header.e_ident.abi_version {
        8.. => flags >> 8 & 0xff,
        _ => flags & 0xff,
    })
}

/// Where the header's tables end.
pub(super) fn tables_end(bytes: &[u8]) -> Result<u64, ImageError> {
    let header = header(bytes)?;
    let table = |offset: u64, size: u16, count: u16| {
        offset.saturating_add(u64::from(size) * u64::from(count))
    };
    let e = LittleEndian;
    let sections = table(
        header.e_shoff.get(e),
        header.e_shentsize.get(e),
        header.e_shnum.get(e),
    );
    let segments = table(
        header.e_phoff.get(e),
        header.e_phentsize.get(e),
        header.e_phnum.get(e),
    );
    Ok(sections.max(segments).max(HEADER_BYTES as u64))
}

/// Where the file ends, from bytes that reach to the end of its tables.
pub(super) fn end(bytes: &[u8]) -> Result<u64, ImageError> {
    let header = header(bytes)?;
    let sections = header
        .section_headers(LittleEndian, bytes)
        .map_err(damaged)?;
    let end = |section: &Section| {
        let e = LittleEndian;
        match section.sh_type(e) {
            SHT_NOBITS => 0,
            _ => section.sh_offset(e).saturating_add(section.sh_size(e)),
        }
    };
    let last = sections.iter().map(end).max().unwrap_or(0);
    Ok(last.max(bytes.len() as u64))
}

impl<'a> Cubin<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let header = header(bytes)?;
        let sections = header.sections(LittleEndian, bytes).map_err(damaged)?;
        let symbols = sections
            .symbols(LittleEndian, bytes, object::elf::SHT_SYMTAB)
            .map_err(damaged)?;
        Ok(Cubin {
            bytes,
            sections,
            symbols,
        })
    }

    /// Sections with their indices and names.
    pub fn named(&self) -> impl Iterator<Item = (usize, &'a str, &'a Section)> + '_ {
        self.sections.enumerate().filter_map(|(index, section)| {
            let name = self.sections.section_name(LittleEndian, section).ok()?;
            Some((index.0, std::str::from_utf8(name).ok()?, section))
        })
    }

    pub fn data(&self, section: &'a Section) -> Result<&'a [u8], ImageError> {
        section.data(LittleEndian, self.bytes).map_err(damaged)
    }

    /// The functions of the symbol table.
    pub fn functions(&self) -> Vec<FunctionSymbol<'a>> {
        let e = LittleEndian;
        let mut functions = Vec::new();
        for (index, symbol) in self.symbols.enumerate() {
            if symbol.st_type() != STT_FUNC {
                continue;
            }
            let Some(name) = self.symbol_name(index.0) else {
                continue;
            };
            functions.push(FunctionSymbol {
                name,
                section: symbol.st_shndx(e).0.into(),
                offset: symbol.st_value(e),
                is_kernel: symbol.st_other().0 & STO_CUDA_ENTRY != 0,
            });
        }
        functions
    }

    /// Targets of a function's indirect branches, by the branch's offset; all in its section.
    pub fn indirect_targets(&self, function: &str) -> Result<BTreeMap<u64, Vec<u64>>, ImageError> {
        let mut targets = BTreeMap::new();
        let info = self
            .named()
            .find(|(_, name, _)| name.strip_prefix(".nv.info.") == Some(function));
        let Some((_, _, section)) = info else {
            return Ok(targets);
        };
        for attribute in attributes(self.data(section)?)? {
            if attribute.number != EIATTR_INDIRECT_BRANCH_TARGETS {
                continue;
            }
            // For each branch: its offset, two halves of no use here, a count, the offsets.
            let words = attribute.value.chunks_exact(4);
            let mut words = words.map(|w| u64::from(u32::from_le_bytes([w[0], w[1], w[2], w[3]])));
            while let (Some(branch), Some(_), Some(count)) =
                (words.next(), words.next(), words.next())
            {
                let all = words.by_ref().take(count as usize).collect();
                targets.insert(branch, all);
            }
        }
        Ok(targets)
    }

    pub fn symbol_name(&self, index: usize) -> Option<&'a str> {
        let symbol = self.symbols.symbol(object::SymbolIndex(index)).ok()?;
        let name = symbol.name(LittleEndian, self.symbols.strings()).ok()?;
        std::str::from_utf8(name).ok()
    }
}

/// A function's entry in the symbol table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FunctionSymbol<'a> {
    pub name: &'a str,
    pub section: usize,
    pub offset: u64,
    pub is_kernel: bool,
}

/// What ptxas recorded about every kernel of a cubin.
///
/// # Errors
/// [`ImageError::Elf`] for tables that lead outside the file.
pub fn kernels(bytes: &[u8]) -> Result<Vec<Kernel>, ImageError> {
    let cubin = Cubin::parse(bytes)?;
    let mut kernels: BTreeMap<&str, Kernel> = BTreeMap::new();
    for function in cubin.functions() {
        if function.is_kernel {
            kernels.insert(function.name, Kernel::named(function.name));
        }
    }
    for (_, name, section) in cubin.named() {
        let size = section.sh_size(LittleEndian);
        if name == ".nv.info" {
            for attribute in attributes(cubin.data(section)?)? {
                let Some((symbol, value)) = attribute.pair() else {
                    continue;
                };
                let Some(kernel) = cubin
                    .symbol_name(symbol as usize)
                    .and_then(|name| kernels.get_mut(name))
                else {
                    continue;
                };
                match attribute.number {
                    EIATTR_REGCOUNT => kernel.registers = value,
                    EIATTR_FRAME_SIZE => kernel.frame_bytes = value,
                    EIATTR_MIN_STACK_SIZE => kernel.stack_bytes = value,
                    _ => {}
                }
            }
        } else if let Some(kernel) = name
            .strip_prefix(".nv.info.")
            .and_then(|name| kernels.get_mut(name))
        {
            for attribute in attributes(cubin.data(section)?)? {
                if attribute.number == EIATTR_CBANK_PARAM_SIZE {
                    kernel.param_bytes = attribute.half.into();
                }
            }
        } else if let Some(kernel) = name
            .strip_prefix(".nv.shared.")
            .and_then(|name| kernels.get_mut(name))
        {
            kernel.shared_bytes = size;
        } else if let Some(kernel) = name
            .strip_prefix(".text.")
            .and_then(|name| kernels.get_mut(name))
        {
            kernel.code_bytes = size;
        }
    }
    Ok(kernels.into_values().collect())
}

impl Kernel {
    fn named(name: &str) -> Self {
        Kernel {
            name: name.to_string(),
            registers: 0,
            frame_bytes: 0,
            stack_bytes: 0,
            shared_bytes: 0,
            param_bytes: 0,
            code_bytes: 0,
        }
    }
}

/// One attribute of a `.nv.info` section.
struct Attribute<'a> {
    number: u8,
    /// The value that stands in the attribute itself, where it is no larger.
    half: u16,
    /// The value that follows otherwise.
    value: &'a [u8],
}

impl Attribute<'_> {
    /// Two words: a symbol and a number.
    fn pair(&self) -> Option<(u32, u32)> {
        let (symbol, rest) = self.value.split_first_chunk::<4>()?;
        let value = rest.first_chunk::<4>()?;
        Some((u32::from_le_bytes(*symbol), u32::from_le_bytes(*value)))
    }
}

/// Splits a section into attributes: format, number, then two bytes of value or, in
/// format 4, the length of the value that follows.
fn attributes(mut bytes: &[u8]) -> Result<Vec<Attribute<'_>>, ImageError> {
    const SIZED: u8 = 4;
    let mut all = Vec::new();
    while let Some(([format, number, low, high], rest)) = bytes.split_first_chunk::<4>() {
        let half = u16::from_le_bytes([*low, *high]);
        let size = if *format == SIZED { half.into() } else { 0 };
        if size > rest.len() {
            return Err(bad(format!(
                "attribute {number:#x} of .nv.info has {size} bytes, {} are left",
                rest.len()
            )));
        }
        let (value, after) = rest.split_at(size);
        all.push(Attribute {
            number: *number,
            half,
            value,
        });
        bytes = after;
    }
    Ok(all)
}
