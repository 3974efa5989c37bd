//! Where a module's variables live.

use super::module::{GlobalVariable, LoadError, device_owner};
use crate::memory::AddressSpace;
use crate::ptx::ast::{self, Init, Linkage, Space};
use std::collections::BTreeMap;

/// First address given to functions, so that a null function pointer is none of them.
pub const CODE_BASE: u64 = 0x1000;
/// Bytes between function addresses.
pub const CODE_STEP: u64 = 16;

/// The address by which a function is known to the program: by its place among the module's functions.
pub fn function_address(module: &ast::Module, name: &str) -> Option<u64> {
    let index = module.functions.iter().position(|f| f.name == name)?;
    Some(CODE_BASE + index as u64 * CODE_STEP)
}

/// Allocates and initialises the module's `.global` and `.const` variables.
///
/// # Errors
/// Where memory runs out, a symbol is unknown, or an `.extern` variable has no definition.
pub fn place_globals(
    module: &ast::Module,
    space: &AddressSpace,
    ordinal: u32,
) -> Result<BTreeMap<String, GlobalVariable>, LoadError> {
    let mut globals = BTreeMap::new();
    let in_memory = |v: &&ast::Variable| matches!(v.space, Space::Global | Space::Const);
    for variable in module.variables.iter().filter(in_memory) {
        if variable.linkage == Linkage::Extern {
            let defined = module
                .variables
                .iter()
                .any(|v| v.name == variable.name && v.linkage != Linkage::Extern);
            if defined {
                continue;
            }
            return Err(LoadError::Unresolved(variable.name.clone()));
        }
        let allocation = space
            .allocate(
                variable.size,
                device_owner(ordinal),
                Some(variable.name.clone()),
            )
            .map_err(|e| LoadError::Memory(e.to_string()))?;
        globals.insert(
            variable.name.clone(),
            GlobalVariable {
                allocation,
                size: variable.size,
            },
        );
    }
    // Initialisers may name variables that come later.
    for variable in module
        .variables
        .iter()
        .filter(in_memory)
        .filter(|v| v.linkage != Linkage::Extern)
    {
        let mut bytes = vec![0u8; variable.size as usize];
        let width = variable.ty.size() as usize;
        // A masked address (`0xFF(sym)`) fills one byte of a byte array each.
        for (element, init) in variable.init.iter().enumerate() {
            let value = match init {
                Init::Bits(bits) => *bits,
                Init::Address {
                    symbol,
                    offset,
                    mask,
                    ..
                } => {
                    let base = match globals.get(symbol) {
                        Some(global) => global.allocation.address,
                        None => function_address(module, symbol)
                            .ok_or_else(|| LoadError::Unresolved(symbol.clone()))?,
                    };
                    let address = base.wrapping_add_signed(*offset);
                    match mask {
                        Some(mask) if *mask != 0 => (address & mask) >> mask.trailing_zeros(),
                        _ => address,
                    }
                }
            };
            let at = element * width;
            let Some(slot) = bytes.get_mut(at..at + width) else {
                return Err(LoadError::Invalid {
                    line: variable.line,
                    message: format!(
                        "`{}` has more initialisers than its {} bytes hold",
                        variable.name, variable.size
                    ),
                });
            };
            slot.copy_from_slice(&value.to_le_bytes()[..width]);
        }
        let global = &globals[&variable.name];
        // Module variables without an initialiser are zero (PTX ISA, "Initializers").
        space
            .write(global.allocation.address, &bytes)
            .map_err(|e| LoadError::Memory(e.to_string()))?;
    }
    Ok(globals)
}
