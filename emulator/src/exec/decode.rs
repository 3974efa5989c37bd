//! From syntax tree to flat program: registers to slots, symbols to addresses, each instruction to the
//! handler that executes it.

mod fragments;
mod operand;

pub use fragments::{FactorA, Fragments, HeldFactors, HeldLoad};

use super::doubt::Effects;
use super::flow::{self, Analysis};
use super::module::{GlobalVariable, Kernel, LoadError, ParamLayout};
use super::ops;
use super::program::{FunctionInfo, Inst, InstInfo, Pipe, Program, SLOT, SpecialSlot};
use super::watch::Watch;
use crate::ptx::ast::{self, AddressBase, Body, Linkage, Operand, Space, Type};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Slot that destinations thrown away are written to (two slots wide).
const SINK: u32 = 0;
/// Slot of a predicate that is true in every lane.
const TRUE: u32 = 2 * SLOT;

/// An address operand, taken apart.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// Slot of the base register, or of a constant.
    pub slot: u32,
    /// Whether the base is 64 bits wide.
    pub wide: bool,
    /// Bytes added.
    pub offset: i64,
    /// The base is the frame in local memory.
    pub in_frame: bool,
    /// Space of the variable named, where one is.
    pub space: Option<Space>,
}

/// What a symbol stands for inside the function being decoded.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// A constant address in its space.
    Fixed(Space, u64),
    /// Bytes from the frame in local memory.
    Frame(u32),
    /// Bytes from the start of the kernel's parameters.
    Param(u32),
}

/// Decodes one kernel and what it calls.
///
/// # Errors
/// The first instruction that cannot be executed faithfully, by name and line.
pub fn kernel(
    module: &ast::Module,
    entry: &ast::Function,
    globals: &BTreeMap<String, GlobalVariable>,
) -> Result<Kernel, LoadError> {
    let mut params = Vec::new();
    let mut at = 0u32;
    for p in &entry.params {
        at = at.next_multiple_of(p.align.max(1));
        params.push(ParamLayout {
            offset: at,
            size: p.size,
        });
        at += p.size;
    }
    let param_bytes = at;
    let reached = reachable(module, entry);
    let mut decoder = Decoder::new(module, globals);
    decoder.place_shared(&reached)?;
    decoder.link(entry, &reached, &params)?;
    let directive = |name: &str| {
        let (_, numbers) = entry.directives.iter().find(|(n, _)| n == name)?;
        let axis = |k: usize| numbers.get(k).copied().unwrap_or(1);
        Some([axis(0), axis(1), axis(2)])
    };
    let program = decoder.finish(module);
    let local_bytes = program.functions[0].frame_bytes;
    if u64::from(local_bytes) > super::local::LOCAL_LIMIT {
        return Err(LoadError::Invalid {
            line: entry.line,
            message: format!(
                "`{}` needs {local_bytes} bytes of local memory, past {}",
                entry.name,
                super::local::LOCAL_LIMIT
            ),
        });
    }
    Ok(Kernel {
        name: entry.name.clone(),
        params,
        param_bytes,
        static_shared: program.static_shared,
        local_bytes,
        max_threads: directive("maxntid").or_else(|| directive("reqntid")),
        required_threads: directive("reqntid"),
        cluster: directive("reqnctapercluster").unwrap_or([1, 1, 1]),
        program: Arc::new(program),
    })
}

/// The functions with bodies that `entry` may reach, itself first. An indirect call may reach every one
/// whose address is taken; a plain closure over all symbols named covers both.
fn reachable<'m>(module: &'m ast::Module, entry: &'m ast::Function) -> Vec<&'m ast::Function> {
    let mut list = vec![entry];
    let mut seen: HashSet<&str> = HashSet::from([entry.name.as_str()]);
    let mut names: Vec<&str> = Vec::new();
    let from_tables = module
        .variables
        .iter()
        .flat_map(|v| &v.init)
        .filter_map(|i| match i {
            ast::Init::Address { symbol, .. } => Some(symbol.as_str()),
            ast::Init::Bits(_) => None,
        });
    let tabled: Vec<&str> = from_tables.collect();
    let mut k = 0;
    while k < list.len() {
        names.clear();
        let mut indirect = false;
        if let Some(body) = &list[k].body {
            for inst in &body.instructions {
                for operand in &inst.operands {
                    symbols_of(operand, &mut names);
                }
                indirect |= inst.opcode[0] == "call" && !body.call_prototypes.is_empty();
            }
            for targets in body.call_targets.values() {
                names.extend(targets.iter().map(String::as_str));
            }
        }
        if indirect {
            names.extend(&tabled);
        }
        for name in &names {
            let found = module
                .functions
                .iter()
                .find(|f| f.name == *name && f.body.is_some() && !f.is_entry);
            if let Some(function) = found
                && seen.insert(&function.name)
            {
                list.push(function);
            }
        }
        k += 1;
    }
    list
}

fn symbols_of<'o>(operand: &'o Operand, names: &mut Vec<&'o str>) {
    match operand {
        Operand::Symbol(name, _) | Operand::Address(AddressBase::Symbol(name), _) => {
            names.push(name)
        }
        Operand::Vector(list) | Operand::List(list) | Operand::Composite(list) => {
            list.iter().for_each(|o| symbols_of(o, names));
        }
        Operand::Pair(a, b) => {
            symbols_of(a, names);
            symbols_of(b, names);
        }
        _ => {}
    }
}

/// State of decoding one kernel.
pub struct Decoder<'m> {
    /// The module.
    pub module: &'m ast::Module,
    globals: &'m BTreeMap<String, GlobalVariable>,
    insts: Vec<Inst>,
    info: Vec<InstInfo>,
    effects: Vec<Effects>,
    extra: Vec<u32>,
    functions: Vec<FunctionInfo>,
    names: HashMap<&'m str, u32>,
    next_slot: u32,
    constants: HashMap<(u64, bool), u32>,
    specials: Vec<SpecialSlot>,
    shared: HashMap<String, u64>,
    static_shared: u32,
    widths: Vec<(u32, u32)>,
    watches: HashMap<u32, Watch>,
    watch_slots: Vec<u32>,
    held_slots: Option<(u32, u32)>,
    // Of the function being decoded:
    body: &'m Body,
    function: u32,
    slots: Vec<u32>,
    analysis: Option<Analysis>,
    fragments: Fragments,
    /// The instruction being decoded, among those of its body.
    at: usize,
    mask_slots: HashMap<usize, u32>,
    places: HashMap<&'m str, Place>,
    base_pc: u32,
    line: u32,
    spelled: Arc<str>,
    /// All spelled so far, by where their words are.
    spellings: HashMap<*const String, Arc<str>>,
}

const NO_BODY: &Body = &Body {
    regs: Vec::new(),
    variables: Vec::new(),
    instructions: Vec::new(),
    labels: BTreeMap::new(),
    branch_targets: BTreeMap::new(),
    call_targets: BTreeMap::new(),
    call_prototypes: BTreeMap::new(),
};

impl<'m> Decoder<'m> {
    fn new(module: &'m ast::Module, globals: &'m BTreeMap<String, GlobalVariable>) -> Decoder<'m> {
        let mut decoder = Decoder {
            module,
            globals,
            insts: Vec::new(),
            info: Vec::new(),
            effects: Vec::new(),
            extra: Vec::new(),
            functions: Vec::new(),
            names: HashMap::new(),
            next_slot: TRUE + SLOT,
            constants: HashMap::new(),
            specials: Vec::new(),
            shared: HashMap::new(),
            static_shared: 0,
            widths: Vec::new(),
            watches: HashMap::new(),
            watch_slots: Vec::new(),
            held_slots: None,
            body: NO_BODY,
            function: 0,
            slots: Vec::new(),
            analysis: None,
            fragments: Fragments::default(),
            at: 0,
            mask_slots: HashMap::new(),
            places: HashMap::new(),
            base_pc: 0,
            line: 0,
            spelled: "".into(),
            spellings: HashMap::new(),
        };
        decoder.constants.insert((u64::from(u32::MAX), false), TRUE);
        decoder
    }

    fn take_slots(&mut self, count: u32) -> u32 {
        let slot = self.next_slot;
        self.next_slot += count * SLOT;
        slot
    }

    /// Lays out the `.shared` variables that the reached functions name.
    fn place_shared(&mut self, reached: &[&'m ast::Function]) -> Result<(), LoadError> {
        let mut named: Vec<&str> = Vec::new();
        for function in reached {
            for inst in function.body.iter().flat_map(|b| &b.instructions) {
                inst.operands.iter().for_each(|o| symbols_of(o, &mut named));
            }
        }
        let named: HashSet<&str> = named.into_iter().collect();
        let module_scope = self
            .module
            .variables
            .iter()
            .filter(|v| named.contains(v.name.as_str()));
        let function_scope = reached
            .iter()
            .filter_map(|f| f.body.as_ref())
            .flat_map(|b| &b.variables);
        let mut at = 0u64;
        let mut dynamic_align = 16u64;
        let mut dynamic = Vec::new();
        for v in module_scope
            .chain(function_scope)
            .filter(|v| v.space == Space::Shared)
        {
            let align = u64::from(v.align.max(1));
            if v.unsized_array || v.linkage == Linkage::Extern {
                dynamic_align = dynamic_align.max(align);
                dynamic.push(v.name.clone());
                continue;
            }
            at = at.next_multiple_of(align);
            self.shared.insert(v.name.clone(), at);
            at += v.size;
        }
        let end = if dynamic.is_empty() {
            at
        } else {
            at.next_multiple_of(dynamic_align)
        };
        for name in dynamic {
            self.shared.insert(name, end);
        }
        self.static_shared = u32::try_from(end).map_err(|_| LoadError::Invalid {
            line: 0,
            message: format!("{end} bytes of static shared memory"),
        })?;
        Ok(())
    }

    fn link(
        &mut self,
        entry: &'m ast::Function,
        reached: &[&'m ast::Function],
        params: &[ParamLayout],
    ) -> Result<(), LoadError> {
        let recursive = super::call::recursive(reached);
        let mut pc = 0u32;
        for (k, function) in reached.iter().enumerate() {
            self.names.insert(&function.name, k as u32);
            self.functions.push(FunctionInfo {
                name: function.name.clone(),
                entry: pc,
                frame_bytes: 0,
                params: Vec::new(),
                returns: Vec::new(),
                slots: (0, 0),
                recursive: recursive[k],
            });
            // One more instruction ends every function: the way out where the text falls off its end.
            pc += function.body.as_ref().map_or(0, |b| b.instructions.len()) as u32 + 1;
        }
        for (k, function) in reached.iter().enumerate() {
            self.frame(
                k,
                function,
                if std::ptr::eq(*function, entry) {
                    Some(params)
                } else {
                    None
                },
            );
            self.functions[k].slots = self.assign_slots(function);
            self.decode_body(k, function)?;
        }
        Ok(())
    }

    /// Lays out a function's frame: variables, call parameters, and its own formal parameters.
    fn frame(&mut self, index: usize, function: &'m ast::Function, params: Option<&[ParamLayout]>) {
        self.places.clear();
        let mut at = 0u32;
        let mut put = |size: u32, align: u32| {
            at = at.next_multiple_of(align.max(1));
            let here = at;
            at += size;
            here
        };
        let info = &mut self.functions[index];
        match params {
            Some(layout) => {
                for (p, l) in function.params.iter().zip(layout) {
                    self.places.insert(&p.name, Place::Param(l.offset));
                }
            }
            None => {
                for (list, out) in [
                    (&function.returns, &mut info.returns),
                    (&function.params, &mut info.params),
                ] {
                    for p in list {
                        let here = put(p.size, p.align);
                        out.push((here, p.size));
                        self.places.insert(&p.name, Place::Frame(here));
                    }
                }
            }
        }
        for v in function.body.iter().flat_map(|b| &b.variables) {
            match v.space {
                Space::Local | Space::Param => {
                    let here = put(v.size as u32, v.align);
                    self.places.insert(&v.name, Place::Frame(here));
                }
                _ => {}
            }
        }
        info.frame_bytes = at.next_multiple_of(16);
    }

    /// Gives the function's registers slots, shared between registers that are never alive at once, but for
    /// the watched ones.
    fn assign_slots(&mut self, function: &'m ast::Function) -> (u32, u32) {
        const SLOTS_OF_CLASS: [u32; 4] = [1, 1, 2, 4];
        let first = self.next_slot;
        self.slots.clear();
        self.mask_slots.clear();
        let Some(body) = &function.body else {
            self.analysis = None;
            self.fragments = Fragments::default();
            return (first, first);
        };
        let analysis = flow::analyse(body);
        let class = |r: usize| match (body.regs[r].ty, body.regs[r].ty.size()) {
            (Type::Pred, _) => 0,
            (_, 0..=4) => 1,
            (_, 5..=8) => 2,
            _ => 3,
        };
        let shared: Vec<Option<usize>> = (0..body.regs.len())
            .map(|r| (!analysis.watched[r]).then(|| class(r)))
            .collect();
        let (places, needed) = flow::allocate(&analysis, &shared, SLOTS_OF_CLASS.len());
        let mut bases = Vec::new();
        for (class, &count) in needed.iter().enumerate() {
            let width = SLOTS_OF_CLASS[class];
            let base = self.take_slots(width * count as u32);
            let bytes = if class == 0 { 0 } else { width * 4 };
            for k in 0..count as u32 {
                self.widths.push((base + k * width * SLOT, bytes));
            }
            bases.push(base);
        }
        for r in 0..body.regs.len() {
            let width = SLOTS_OF_CLASS[class(r)];
            if analysis.watched[r] {
                let slot = self.take_slots(width);
                self.widths
                    .push((slot, if class(r) == 0 { 0 } else { width * 4 }));
                self.slots.push(slot);
                let mask = self.take_slots(1);
                self.widths.push((mask, 0));
                self.watch_slots.push(mask);
                self.mask_slots.insert(r, mask);
            } else if analysis.lives[r].is_some() {
                self.slots
                    .push(bases[class(r)] + places[r] as u32 * width * SLOT);
            } else {
                // Declared and never used.
                self.slots.push(SINK);
            }
        }
        self.fragments = Fragments::find(body, &analysis);
        self.analysis = Some(analysis);
        (first, self.next_slot)
    }

    /// Wraps an instruction that touches watched registers.
    fn watch(&mut self, at: usize, inst: &mut Inst) {
        let Some(analysis) = &self.analysis else {
            return;
        };
        let effects = &analysis.effects[at];
        let slots = |list: &[usize]| {
            list.iter()
                .filter_map(|r| self.mask_slots.get(r).copied())
                .collect::<Vec<u32>>()
        };
        let (reads, writes) = (slots(&effects.reads), slots(&effects.writes));
        let harm: Vec<(u32, String)> = effects
            .harm
            .iter()
            .filter_map(|r| Some((*self.mask_slots.get(r)?, self.body.regs[*r].name.clone())))
            .collect();
        if reads.is_empty() && writes.is_empty() && harm.is_empty() {
            return;
        }
        let pc = self.insts.len() as u32;
        self.watches.insert(
            pc,
            Watch {
                inner: inst.run,
                reads,
                harm,
                writes,
            },
        );
        inst.run = super::watch::watched;
    }

    /// What an instruction does to slots. Its guard is not among them.
    fn slot_effects(&self, at: usize, instruction: &ast::Instruction) -> Effects {
        let Some(analysis) = &self.analysis else {
            return Effects::default();
        };
        let effects = &analysis.effects[at];
        let slots = |list: &[usize]| list.iter().map(|&r| self.slots[r]).collect();
        let opcode = instruction.opcode[0].as_str();
        // Lanes see each other's values.
        let across = matches!(opcode, "mma" | "wmma" | "movmatrix" | "redux");
        Effects {
            writes: slots(&effects.writes),
            reads: slots(if across { &[] } else { &effects.reads }),
            harm: if across {
                slots(&[effects.harm.as_slice(), effects.reads.as_slice()].concat())
            } else {
                slots(&effects.harm)
            },
            choice: opcode == "selp",
        }
    }

    fn spell(&mut self, opcode: &[String]) -> Arc<str> {
        // Instructions of the same opcode have the same words: see the parser.
        let made = || opcode.join(".").into();
        let spelled = self.spellings.entry(opcode.as_ptr());
        spelled.or_insert_with(made).clone()
    }

    fn decode_body(&mut self, index: usize, function: &'m ast::Function) -> Result<(), LoadError> {
        self.function = index as u32;
        self.body = function.body.as_ref().unwrap_or(NO_BODY);
        self.base_pc = self.functions[index].entry;
        for (at, instruction) in self.body.instructions.iter().enumerate() {
            self.at = at;
            self.line = instruction.line;
            self.spelled = self.spell(&instruction.opcode);
            let mut inst = ops::decode(self, instruction)?;
            if let Some(guard) = instruction.guard {
                inst.guard = self.slots[guard.reg.0 as usize];
                inst.guard_xor = if guard.negated { u32::MAX } else { 0 };
            }
            self.watch(at, &mut inst);
            let effects = self.slot_effects(at, instruction);
            self.effects.push(effects);
            self.insts.push(inst);
            self.info.push(InstInfo {
                opcode: self.spelled.clone(),
                text: super::text::instruction(instruction, self.body),
                line: instruction.line,
                loc: instruction.loc,
                pipe: ops::pipe(instruction),
                function: index as u32,
            });
        }
        let end = if function.is_entry {
            ops::control::exit(self)
        } else {
            ops::control::ret(self)
        };
        self.insts.push(end);
        self.effects.push(Effects::default());
        self.info.push(InstInfo {
            opcode: "exit".into(),
            text: super::text::END.into(),
            line: self.line,
            loc: None,
            pipe: Pipe::Control,
            function: index as u32,
        });
        Ok(())
    }

    fn finish(self, module: &ast::Module) -> Program {
        let constants = self
            .constants
            .iter()
            .map(|(&(bits, wide), &slot)| (slot, bits, wide))
            .collect();
        let inlined = self
            .info
            .iter()
            .filter_map(|i| i.loc)
            .filter_map(|l| Some(((l.file, l.line, l.column), l.inlined_at?)))
            .collect();
        Program {
            inlined,
            insts: self.insts,
            info: self.info,
            effects: self.effects,
            extra: self.extra,
            functions: self.functions,
            file_bytes: self.next_slot,
            constants,
            specials: self.specials,
            files: module.files.clone(),
            static_shared: self.static_shared,
            by_module_index: self
                .names
                .iter()
                .filter_map(|(name, &f)| {
                    Some((module.functions.iter().position(|m| m.name == *name)?, f))
                })
                .collect(),
            widths: self.widths,
            watches: self.watches,
            watch_slots: self.watch_slots,
        }
    }
}
