//! One instruction over lists of operands: a kernel is written around it, thread after thread works on
//! operand after operand.
#![allow(dead_code)] // each test file uses a part of it

use ptx_emulator::exec::LoadError;
use ptx_emulator::run::{Arg, RunError, Setup, run};
use std::fmt::Write;

/// A register that the instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// A predicate: 0 or 1.
    P,
    /// 16 bits.
    H,
    /// 32 bits.
    W,
    /// 64 bits.
    D,
}

impl Reg {
    fn class(self) -> &'static str {
        match self {
            Reg::P => ".pred",
            Reg::H => ".b16",
            Reg::W => ".b32",
            Reg::D => ".b64",
        }
    }
}

const NAMES: [&str; 5] = ["%a", "%b", "%c", "%e", "%f"];

/// The kernel around `body`, which reads `%a`, `%b`, `%c`, `%e`, `%f` of the classes `ins` and writes `%d`
/// and, where `outs` has two classes, `%q`.
pub fn kernel(body: &str, outs: &[Reg], ins: &[Reg]) -> String {
    let mut text =
        String::from(".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(");
    let count = outs.len() + ins.len();
    for k in 0..count {
        let comma = if k + 1 < count { ", " } else { "" };
        write!(text, ".param .u64 p{k}{comma}").unwrap();
    }
    text.push_str(")\n{\n.reg .b64 %at, %base; .reg .b32 %i, %n, %k, %word;\n");
    for (name, reg) in ["%d", "%q"].iter().zip(outs).chain(NAMES.iter().zip(ins)) {
        writeln!(text, ".reg {} {name};", reg.class()).unwrap();
    }
    text.push_str("mov.u32 %i, %tid.x;\nmov.u32 %n, %ntid.x;\nmov.u32 %k, %ctaid.x;\nmad.lo.u32 %i, %k, %n, %i;\n");
    for (k, (name, reg)) in NAMES.iter().zip(ins).enumerate() {
        writeln!(
            text,
            "ld.param.u64 %base, [p{}];\nmad.wide.u32 %at, %i, 8, %base;",
            k + outs.len()
        )
        .unwrap();
        match reg {
            Reg::P => writeln!(
                text,
                "ld.global.b32 %word, [%at];\nsetp.ne.u32 {name}, %word, 0;"
            )
            .unwrap(),
            reg => writeln!(text, "ld.global{} {name}, [%at];", reg.class()).unwrap(),
        }
    }
    writeln!(text, "{body}").unwrap();
    for (k, (name, reg)) in ["%d", "%q"].iter().zip(outs).enumerate() {
        writeln!(
            text,
            "ld.param.u64 %base, [p{k}];\nmad.wide.u32 %at, %i, 8, %base;"
        )
        .unwrap();
        match reg {
            Reg::P => writeln!(
                text,
                "selp.u32 %word, 1, 0, {name};\nst.global.b32 [%at], %word;"
            )
            .unwrap(),
            reg => writeln!(text, "st.global{} [%at], {name};", reg.class()).unwrap(),
        }
    }
    text.push_str("ret;\n}\n");
    text
}

/// Runs `body` on rows of operands; the results, a row of them for each.
pub fn try_rows(
    body: &str,
    outs: &[Reg],
    ins: &[Reg],
    rows: &[Vec<u64>],
) -> Result<Vec<Vec<u64>>, RunError> {
    let text = kernel(body, outs, ins);
    let count = rows.len().max(1);
    let padded = count.next_multiple_of(64);
    let mut args: Vec<Arg> = outs.iter().map(|_| Arg::longs(&vec![0; padded])).collect();
    for column in 0..ins.len() {
        let values: Vec<u64> = (0..padded)
            .map(|r| rows.get(r.min(count - 1)).map_or(0, |row| row[column]))
            .collect();
        args.push(Arg::longs(&values));
    }
    let setup = Setup {
        grid: [(padded / 64) as u32, 1, 1],
        block: [64, 1, 1],
        threads: 1,
        ..Setup::default()
    };
    let done = run(&text, "k", &args, &setup)?;
    let columns: Vec<Vec<u64>> = (0..outs.len()).map(|k| done.longs(k)).collect();
    Ok((0..rows.len())
        .map(|r| columns.iter().map(|c| c[r]).collect())
        .collect())
}

/// [`try_rows`] where it must succeed.
pub fn rows(body: &str, outs: &[Reg], ins: &[Reg], rows: &[Vec<u64>]) -> Vec<Vec<u64>> {
    match try_rows(body, outs, ins, rows) {
        Ok(results) => results,
        Err(error) => panic!("`{body}`: {error}"),
    }
}

/// Checks `body` against `expect` on every row.
#[track_caller]
pub fn check(
    body: &str,
    out: Reg,
    ins: &[Reg],
    operands: &[Vec<u64>],
    expect: impl Fn(&[u64]) -> u64,
) {
    let results = rows(body, &[out], ins, operands);
    for (operands, result) in operands.iter().zip(results) {
        let want = expect(operands);
        assert_eq!(
            result[0], want,
            "`{body}` of {operands:x?}: {:#x}, where {want:#x} belongs",
            result[0]
        );
    }
}

/// Checks `body` on a table of operands and results.
#[track_caller]
pub fn table(body: &str, out: Reg, ins: &[Reg], cases: &[(&[u64], u64)]) {
    let operands: Vec<Vec<u64>> = cases
        .iter()
        .map(|(operands, _)| operands.to_vec())
        .collect();
    let results = rows(body, &[out], ins, &operands);
    for ((operands, want), result) in cases.iter().zip(results) {
        assert_eq!(
            result[0], *want,
            "`{body}` of {operands:x?}: {:#x}, where {want:#x} belongs",
            result[0]
        );
    }
}

/// That loading `body` is refused, with the reason.
#[track_caller]
pub fn refused(body: &str, outs: &[Reg], ins: &[Reg]) -> String {
    match try_rows(body, outs, ins, &[]) {
        Err(RunError::Load(
            error @ (LoadError::Unsupported { .. } | LoadError::Invalid { .. }),
        )) => error.to_string(),
        other => panic!("`{body}` was not refused: {other:?}"),
    }
}

/// Every combination of the values.
pub fn product(columns: &[&[u64]]) -> Vec<Vec<u64>> {
    let mut rows = vec![Vec::new()];
    for column in columns {
        rows = rows
            .iter()
            .flat_map(|row| column.iter().map(|v| [row.clone(), vec![*v]].concat()))
            .collect();
    }
    rows
}

/// A plain generator of test values, the same each time.
pub struct Mix(pub u64);

impl Mix {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `count` rows of `columns` values of `width` bits.
    pub fn rows(&mut self, count: usize, columns: usize, width: u32) -> Vec<Vec<u64>> {
        let cut = u64::MAX >> (64 - width);
        (0..count)
            .map(|_| (0..columns).map(|_| self.bits() & cut).collect())
            .collect()
    }
}
