//! What the operation modules ask of the decoder: instructions to fill in, errors, and the slots and addresses of
//! operands.

use super::{Address, Decoder, HeldFactors, HeldLoad, Place, SINK, TRUE};
use crate::exec::module::LoadError;
use crate::exec::ops::mma::held;
use crate::exec::program::{FunctionInfo, Handler, Inst, SpecialSlot};
use crate::exec::special;
use crate::exec::symbols::function_address;
use crate::ptx::ast::{AddressBase, Body, Operand, RegId, Space, Type};

impl<'m> Decoder<'m> {
    /// An instruction that does `run` on nothing yet.
    pub fn inst(&self, run: Handler) -> Inst {
        Inst {
            run,
            guard: TRUE,
            guard_xor: 0,
            d: SINK,
            a: SINK,
            b: SINK,
            c: SINK,
            imm: 0,
            aux: 0,
            extra: 0,
        }
    }

    /// The error that this instruction, or `detail` about it, is not executed here.
    pub fn unsupported<T>(&self, detail: impl Into<String>) -> Result<T, LoadError> {
        let detail = detail.into();
        let detail = if detail.is_empty() {
            detail
        } else {
            format!(": {detail}")
        };
        Err(LoadError::Unsupported {
            line: self.line,
            instruction: self.spelled.to_string(),
            detail,
        })
    }

    /// The error that the text means nothing.
    pub fn invalid<T>(&self, message: impl Into<String>) -> Result<T, LoadError> {
        Err(LoadError::Invalid {
            line: self.line,
            message: format!("`{}`: {}", self.spelled, message.into()),
        })
    }

    /// Appends further operands; the index of the first.
    pub fn extras(&mut self, values: impl IntoIterator<Item = u32>) -> u32 {
        let first = self.extra.len() as u32;
        self.extra.extend(values);
        first
    }

    /// What the load being decoded hands to a product, if it does.
    pub fn held_load(&self) -> Option<HeldLoad> {
        self.fragments.load(self.at)
    }

    /// How the product being decoded gets its factors, where it is one of those that hold them.
    pub fn held_product(&self) -> Option<HeldFactors> {
        self.fragments.product(self.at)
    }

    /// The first slots of the places for an unpacked A and an unpacked B.
    pub fn held_slots(&mut self) -> (u32, u32) {
        if let Some(slots) = self.held_slots {
            return slots;
        }
        let slots = (
            self.take_slots(held::A_SLOTS),
            self.take_slots(held::B_SLOTS),
        );
        self.held_slots = Some(slots);
        slots
    }

    /// Where the module's constant variables lie: first bytes, and one past the last.
    pub fn constant_ranges(&self) -> Vec<(u64, u64)> {
        let constants = self
            .module
            .variables
            .iter()
            .filter(|v| v.space == Space::Const);
        let placed = constants.filter_map(|v| self.globals.get(&v.name));
        placed
            .map(|g| (g.allocation.address, g.allocation.address + g.size))
            .collect()
    }

    /// Slot of a constant of the width (in bytes) of the lanes that will read it.
    pub fn constant(&mut self, bits: u64, width: u32) -> u32 {
        let wide = width > 4;
        let bits = match width {
            1 => bits & 0xff,
            2 => bits & 0xffff,
            3..=4 => bits & 0xffff_ffff,
            _ => bits,
        };
        if let Some(&slot) = self.constants.get(&(bits, wide)) {
            return slot;
        }
        let slot = self.take_slots(if wide { 2 } else { 1 });
        self.constants.insert((bits, wide), slot);
        slot
    }

    /// Slot of a register.
    pub fn reg(&self, reg: RegId) -> u32 {
        self.slots[reg.0 as usize]
    }

    /// Declared type of a register.
    pub fn reg_type(&self, reg: RegId) -> Type {
        self.body.regs[reg.0 as usize].ty
    }

    /// A destination of `ty`: a register of that size, or the sink.
    ///
    /// # Errors
    /// Where the operand is neither, or the register's size differs.
    pub fn dst(&mut self, operand: &Operand, ty: Type) -> Result<u32, LoadError> {
        match operand {
            Operand::Sink => Ok(SINK),
            Operand::Reg(reg) => {
                self.same_size(*reg, ty)?;
                Ok(self.reg(*reg))
            }
            other => self.invalid(format!("destination is {other:?}, not a register")),
        }
    }

    fn same_size(&self, reg: RegId, ty: Type) -> Result<(), LoadError> {
        let have = self.reg_type(reg);
        let predicate = (have == Type::Pred) != (ty == Type::Pred);
        // Byte registers do not exist: 8-bit values live in 16-bit registers or wider.
        if predicate || (have.size() != ty.size() && !(ty.size() == 1 && have.size() >= 1)) {
            return self.invalid(format!(
                "register {} is .{have:?}, the instruction wants .{ty:?}",
                self.body.regs[reg.0 as usize].name
            ));
        }
        Ok(())
    }

    /// A source of `ty`: register, immediate, special register or address of a symbol.
    ///
    /// # Errors
    /// Where the operand cannot be of that type.
    pub fn src(&mut self, operand: &Operand, ty: Type) -> Result<u32, LoadError> {
        match operand {
            Operand::Reg(reg) => {
                self.same_size(*reg, ty)?;
                Ok(self.reg(*reg))
            }
            _ => self.src_any(operand, ty),
        }
    }

    /// As [`Decoder::src`], without asking that a register have the size of `ty` (`ld`, `st`, `cvt`).
    ///
    /// # Errors
    /// Where the operand cannot be read at all.
    pub fn src_any(&mut self, operand: &Operand, ty: Type) -> Result<u32, LoadError> {
        match operand {
            Operand::Reg(reg) => Ok(self.reg(*reg)),
            Operand::Int(value) if ty == Type::Pred => {
                Ok(self.constant(if *value != 0 { u64::from(u32::MAX) } else { 0 }, 4))
            }
            Operand::Int(value) => {
                let bits = match ty {
                    // An integer literal where a float is wanted is its value only for 16-bit hex bit patterns.
                    Type::F64 => (*value as f64).to_bits(),
                    Type::F32 => u64::from((*value as f32).to_bits()),
                    _ => *value as u64,
                };
                Ok(self.constant(bits, ty.size()))
            }
            Operand::F32(bits) => {
                let value = f32::from_bits(*bits);
                let bits = match ty {
                    Type::F64 => f64::from(value).to_bits(),
                    _ => u64::from(*bits),
                };
                Ok(self.constant(bits, ty.size()))
            }
            Operand::F64(bits) => {
                let value = f64::from_bits(*bits);
                let bits = match ty {
                    Type::F32 => u64::from((value as f32).to_bits()),
                    Type::F16 => u64::from(half::f16::from_f64(value).to_bits()),
                    Type::BF16 => u64::from(half::bf16::from_f64(value).to_bits()),
                    _ => *bits,
                };
                Ok(self.constant(bits, ty.size()))
            }
            Operand::Special(name) => self.special(name, ty),
            Operand::Symbol(name, offset) => self.symbol_constant(name, *offset, ty),
            Operand::NotReg(_) => self.invalid("a negated predicate where none may stand"),
            other => self.invalid(format!("operand {other:?} is no value")),
        }
    }

    fn special(&mut self, name: &str, ty: Type) -> Result<u32, LoadError> {
        let Some(width) = special::width(name) else {
            return self.unsupported(format!("special register {name}"));
        };
        // A 32-bit special register read as 64 bits, or as 16, is converted by value.
        if width == 32 && ty.size() > 4 || width == 64 && ty.size() < 8 {
            return self.unsupported(format!("{name} read as .{ty:?}"));
        }
        if let Some(known) = self.specials.iter().find(|s| s.name == name) {
            return Ok(known.slot);
        }
        let slot = self.take_slots(if width == 64 { 2 } else { 1 });
        self.specials.push(SpecialSlot {
            name: name.into(),
            slot,
        });
        Ok(slot)
    }

    fn place(&self, name: &str) -> Option<Place> {
        if let Some(place) = self.places.get(name) {
            return Some(*place);
        }
        if let Some(&offset) = self.shared.get(name) {
            return Some(Place::Fixed(Space::Shared, offset));
        }
        if let Some(global) = self.globals.get(name) {
            return Some(Place::Fixed(Space::Global, global.allocation.address));
        }
        function_address(self.module, name).map(|a| Place::Fixed(Space::Global, a))
    }

    fn symbol_constant(&mut self, name: &str, offset: i64, ty: Type) -> Result<u32, LoadError> {
        let bits = match self.place(name) {
            Some(Place::Fixed(_, address)) => address.wrapping_add_signed(offset),
            // The address of a kernel parameter: its offset, which `cvta.param` makes generic.
            Some(Place::Param(at)) => u64::from(at).wrapping_add_signed(offset),
            Some(Place::Frame(_)) => {
                return self.unsupported(format!("address of `{name}` outside mov"));
            }
            None => return Err(LoadError::Unresolved(name.into())),
        };
        Ok(self.constant(bits, ty.size()))
    }

    /// Offset in the frame of a local variable or call parameter, if `name` is one.
    pub fn frame_offset(&self, name: &str) -> Option<u32> {
        match self.place(name) {
            Some(Place::Frame(at)) => Some(at),
            _ => None,
        }
    }

    /// A predicate source and whether it is negated.
    ///
    /// # Errors
    /// Where the operand is no predicate.
    pub fn predicate(&mut self, operand: &Operand) -> Result<(u32, bool), LoadError> {
        match operand {
            Operand::NotReg(reg) => {
                self.same_size(*reg, Type::Pred)?;
                Ok((self.reg(*reg), true))
            }
            other => Ok((self.src(other, Type::Pred)?, false)),
        }
    }

    /// The address operand of an access.
    ///
    /// # Errors
    /// Where it is none, or names an unknown symbol.
    pub fn address(&mut self, operand: &Operand) -> Result<Address, LoadError> {
        let Operand::Address(base, offset) = operand else {
            return self.invalid(format!("operand {operand:?} is no address"));
        };
        match base {
            AddressBase::Reg(reg) => {
                let wide = match self.reg_type(*reg).size() {
                    8 => true,
                    4 => false,
                    n => return self.invalid(format!("address register of {n} bytes")),
                };
                Ok(Address {
                    slot: self.reg(*reg),
                    wide,
                    offset: *offset,
                    in_frame: false,
                    space: None,
                })
            }
            AddressBase::Absolute => {
                let slot = self.constant(*offset as u64, 8);
                Ok(Address {
                    slot,
                    wide: true,
                    offset: 0,
                    in_frame: false,
                    space: None,
                })
            }
            AddressBase::Symbol(name) => {
                let (bits, in_frame, space) = match self.place(name) {
                    Some(Place::Fixed(space, address)) => (address, false, space),
                    Some(Place::Param(at)) => (u64::from(at), false, Space::Param),
                    Some(Place::Frame(at)) => (u64::from(at), true, Space::Local),
                    None => return Err(LoadError::Unresolved(name.clone())),
                };
                let bits = bits.wrapping_add_signed(*offset);
                // Addresses in shared memory have 32 bits in registers, too.
                let wide = space != Space::Shared || u32::try_from(bits).is_err();
                let slot = self.constant(bits, if wide { 8 } else { 4 });
                Ok(Address {
                    slot,
                    wide,
                    offset: 0,
                    in_frame,
                    space: Some(space),
                })
            }
        }
    }

    /// Program counter of a label.
    ///
    /// # Errors
    /// Where the function has no such label.
    pub fn label(&self, operand: &Operand) -> Result<u32, LoadError> {
        match operand {
            Operand::Symbol(name, 0) => self.label_named(name),
            other => self.invalid(format!("operand {other:?} is no label")),
        }
    }

    /// Program counter of a label by name.
    ///
    /// # Errors
    /// Where the function has no such label.
    pub fn label_named(&self, name: &str) -> Result<u32, LoadError> {
        match self.body.labels.get(name) {
            Some(&at) => Ok(self.base_pc + at as u32),
            None => self.invalid(format!("unknown label {name}")),
        }
    }

    /// The function being decoded.
    pub fn body(&self) -> &'m Body {
        self.body
    }

    /// Index of a function linked into the program.
    pub fn function_named(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// Index of the function decoded now.
    pub fn current_function(&self) -> u32 {
        self.function
    }

    /// What is known of a linked function.
    pub fn function_info(&self, index: u32) -> &FunctionInfo {
        &self.functions[index as usize]
    }
}
