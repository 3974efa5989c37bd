//! Instruction words: the opcode, the predicate and where control goes.
//!
//! From Volta to Hopper an instruction is 128 bits: the opcode in the low 12 (of which
//! the upper 3 say where operands come from), a predicate in the next 4. Only what
//! counting needs is decoded; the tables were made by comparing with nvdisasm.

use super::lines::SourceLine;

/// Bytes of an instruction.
pub(super) const BYTES: usize = 16;

/// The predicate that is always true.
const PT: u8 = 7;

/// An instruction's predicate; of uniform instructions, a uniform register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predicate {
    /// Register: 0 to 6; 7 is the one that is always true.
    pub register: u8,
    /// `@!P`.
    pub negated: bool,
}

/// Where control goes after an instruction. Targets are byte offsets in the section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// To the next one.
    Next,
    /// `BRA`: to the target.
    Branch(u64),
    /// `BRA.DIV` to the target where lanes of the warp are absent, `BRA.CONV` where none is.
    Divergence {
        /// The target.
        target: u64,
        /// Whether a whole warp goes there.
        if_whole: bool,
    },
    /// `BRX`, `JMX`: to a target that a register holds.
    Indirect,
    /// `BSSY`: on, noting where its warp comes together again.
    Converge(u64),
    /// `CALL` to the target, and back to the next one.
    Call(u64),
    /// `CALL` through a register or to another section, and back.
    CallAway,
    /// `RET`, `EXIT` and the like: out of the function.
    Leave,
}

/// One machine instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// Byte offset in the function's section.
    pub address: u64,
    /// Mnemonic without modifiers, `OP_1ff` (the low 9 bits) for one not named here.
    pub mnemonic: &'static str,
    /// The opcode's low 9 bits, which leave out where operands come from.
    pub opcode: u16,
    /// Its predicate; `None` where it always executes.
    pub predicate: Option<Predicate>,
    /// Where control goes.
    pub flow: Flow,
    /// Line of the PTX that it came from.
    pub ptx_line: Option<u32>,
    /// Line of the CUDA source that it came from.
    pub source: Option<SourceLine>,
}

/// Mnemonics by the low 9 bits of the opcode.
const MNEMONICS: &[(u16, &str)] = &[
    (0x002, "MOV"),
    (0x005, "CS2R"),
    (0x006, "VOTE"),
    (0x007, "SEL"),
    (0x008, "FSEL"),
    (0x009, "FMNMX"),
    (0x00a, "FSET"),
    (0x00b, "FSETP"),
    (0x00c, "ISETP"),
    (0x00d, "FCHK"),
    (0x010, "IADD3"),
    (0x011, "LEA"),
    (0x012, "LOP3"),
    (0x013, "IABS"),
    (0x016, "PRMT"),
    (0x017, "IMNMX"),
    (0x019, "SHF"),
    (0x01a, "SGXT"),
    (0x01b, "BMSK"),
    (0x01c, "PLOP3"),
    (0x020, "FMUL"),
    (0x021, "FADD"),
    (0x023, "FFMA"),
    (0x024, "IMAD"),
    (0x025, "IMAD"),
    (0x026, "IDP"),
    (0x027, "IMAD"),
    (0x028, "DMUL"),
    (0x029, "DADD"),
    (0x02a, "DSETP"),
    (0x02b, "DFMA"),
    (0x030, "HADD2"),
    (0x031, "HFMA2"),
    (0x032, "HMUL2"),
    (0x033, "HSET2"),
    (0x034, "HSETP2"),
    (0x035, "HFMA2"),
    (0x036, "VIADD"),
    (0x037, "IMMA"),
    (0x03a, "MOVM"),
    (0x03b, "LDSM"),
    (0x03c, "HMMA"),
    (0x03d, "BMMA"),
    (0x03e, "F2FP"),
    (0x03f, "DMMA"),
    (0x040, "HMNMX2"),
    (0x044, "STSM"),
    (0x045, "I2FP"),
    (0x046, "VIADDMNMX"),
    (0x048, "VIMNMX"),
    (0x082, "UMOV"),
    (0x086, "VOTEU"),
    (0x087, "USEL"),
    (0x08c, "UISETP"),
    (0x090, "UIADD3"),
    (0x091, "ULEA"),
    (0x092, "ULOP3"),
    (0x096, "UPRMT"),
    (0x099, "USHF"),
    (0x09a, "USGXT"),
    (0x09b, "UBMSK"),
    (0x09c, "UPLOP3"),
    (0x0a4, "UIMAD"),
    (0x0a5, "UIMAD"),
    (0x0b9, "ULDC"),
    (0x0bd, "UFLO"),
    (0x0bf, "UPOPC"),
    (0x0ca, "R2UR"),
    (0x100, "FLO"),
    (0x101, "BREV"),
    (0x105, "F2I"),
    (0x106, "I2F"),
    (0x107, "FRND"),
    (0x108, "MUFU"),
    (0x109, "POPC"),
    (0x110, "F2F"),
    (0x111, "F2I"),
    (0x112, "I2F"),
    (0x113, "FRND"),
    (0x118, "NOP"),
    (0x119, "S2R"),
    (0x11a, "DEPBAR"),
    (0x11b, "ENDCOLLECTIVE"),
    (0x141, "BSYNC"),
    (0x142, "BREAK"),
    (0x143, "CALL"),
    (0x144, "CALL"),
    (0x145, "BSSY"),
    (0x146, "YIELD"),
    (0x147, "BRA"),
    (0x148, "WARPSYNC"),
    (0x149, "BRX"),
    (0x14a, "JMP"),
    (0x14c, "JMX"),
    (0x14d, "EXIT"),
    (0x14e, "LEPC"),
    (0x14f, "RTT"),
    (0x150, "RET"),
    (0x152, "RPCMOV"),
    (0x155, "BMOV"),
    (0x156, "BMOV"),
    (0x15b, "KILL"),
    (0x15c, "BPT"),
    (0x15d, "NANOSLEEP"),
    (0x180, "LD"),
    (0x181, "LDG"),
    (0x182, "LDC"),
    (0x183, "LDL"),
    (0x184, "LDS"),
    (0x185, "ST"),
    (0x186, "STG"),
    (0x187, "STL"),
    (0x188, "STS"),
    (0x189, "SHFL"),
    (0x18a, "ATOM"),
    (0x18b, "ATOM"),
    (0x18c, "ATOMS"),
    (0x18d, "ATOMS"),
    (0x18e, "RED"),
    (0x18f, "CCTL"),
    (0x192, "MEMBAR"),
    (0x1a1, "MATCH"),
    (0x1a3, "ATOMG"),
    (0x1a6, "REDG"),
    (0x1a7, "SYNCS"),
    (0x1a8, "ATOMG"),
    (0x1a9, "ATOMG"),
    (0x1ab, "ERRBAR"),
    (0x1ae, "LDGSTS"),
    (0x1af, "LDGDEPBAR"),
    (0x1b0, "ARRIVES"),
    (0x1b1, "SYNCS"),
    (0x1b2, "SYNCS"),
    (0x1ba, "UBLKCP"),
    (0x1c2, "R2UR"),
    (0x1c3, "S2UR"),
    (0x1c4, "REDUX"),
    (0x1c6, "FENCE"),
    (0x11d, "BAR"),
];

fn mnemonic(opcode: u16) -> Option<&'static str> {
    MNEMONICS
        .iter()
        .find(|(known, _)| *known == opcode)
        .map(|(_, name)| *name)
}

/// Decodes a section of code. Bytes beyond the last whole instruction are left out.
pub(super) fn instructions(code: &[u8], arch: u32) -> Vec<Instruction> {
    let words = code.chunks_exact(BYTES).map(|bytes| {
        let word = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        (word(0), word(8))
    });
    let addresses = (0u64..).step_by(BYTES);
    addresses
        .zip(words)
        .map(|(address, (low, high))| instruction(address, low, high, arch))
        .collect()
}

fn instruction(address: u64, low: u64, high: u64, arch: u32) -> Instruction {
    let opcode = (low & 0x1ff) as u16;
    let mnemonic = mnemonic(opcode).unwrap_or("other");
    let guard = predicate(low >> 12);
    // `BRA P1, target`: a second predicate, of no use to others.
    let second = (mnemonic == "BRA").then(|| predicate(high >> 23)).flatten();
    Instruction {
        address,
        mnemonic,
        opcode,
        predicate: guard.or(second),
        flow: flow(mnemonic, address, low, high, arch),
        ptx_line: None,
        source: None,
    }
}

/// The predicate in the low 4 bits: a register and whether it is negated.
fn predicate(bits: u64) -> Option<Predicate> {
    let register = (bits & 7) as u8;
    let negated = bits >> 3 & 1 == 1;
    (register != PT || negated).then_some(Predicate { register, negated })
}

fn flow(mnemonic: &str, address: u64, low: u64, high: u64, arch: u32) -> Flow {
    let next = address + BYTES as u64;
    // A distance in words of 4 bytes: 48 bits from bit 34 on; in
    // Hopper's BRA and CALL they are the upper ones, and bits 16 to 23 the lower.
    let upper = low >> 34 | (high & 0x3_ffff) << 30;
    let signed = (upper << 16) as i64 >> 16;
    let target = |distance: i64| next.wrapping_add_signed(distance.wrapping_mul(4));
    let plain = target(signed);
    let split = target(signed << 8 | (low >> 16 & 0xff) as i64);
    match mnemonic {
        "BRA" => {
            let target = if arch >= 90 { split } else { plain };
            match low >> 32 & 3 {
                2 | 3 => Flow::Divergence {
                    target,
                    if_whole: low >> 32 & 1 == 1,
                },
                _ => Flow::Branch(target),
            }
        }
        "BSSY" => Flow::Converge(plain),
        "BRX" | "JMX" | "JMP" => Flow::Indirect,
        "CALL" if low & 0xfff == 0x944 => Flow::Call(if arch >= 90 { split } else { plain }),
        "CALL" => Flow::CallAway,
        "EXIT" | "RET" | "KILL" | "RTT" => Flow::Leave,
        _ => Flow::Next,
    }
}
