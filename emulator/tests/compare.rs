//! Comparison, selection, and logic of predicates.

mod lanes;

use lanes::Reg::{self, D, H, P, W};
use lanes::{check, product, refused, rows, table};
use std::cmp::Ordering;

/// Whether a comparison holds, from the order of its operands (`None`: one is NaN).
fn holds(name: &str, order: Option<Ordering>) -> bool {
    use Ordering::{Equal, Greater, Less};
    match (name, order) {
        ("num", order) => order.is_some(),
        ("nan", order) => order.is_none(),
        (name, None) => name.ends_with('u') && name.len() == 3,
        ("eq" | "equ", Some(o)) => o == Equal,
        ("ne" | "neu", Some(o)) => o != Equal,
        ("lt" | "ltu" | "lo", Some(o)) => o == Less,
        ("le" | "leu" | "ls", Some(o)) => o != Greater,
        ("gt" | "gtu" | "hi", Some(o)) => o == Greater,
        (_, Some(o)) => o != Less,
    }
}

const REAL: [&str; 14] = [
    "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];
const SIGNED: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];
const UNSIGNED: [&str; 10] = ["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];

struct Kind {
    name: &'static str,
    reg: Reg,
    operators: &'static [&'static str],
    values: &'static [u64],
    order: fn(u64, u64) -> Option<Ordering>,
}

fn singles(a: u64, b: u64) -> Option<Ordering> {
    f32::from_bits(a as u32).partial_cmp(&f32::from_bits(b as u32))
}

fn flush(x: u64) -> u64 {
    if x & 0x7f80_0000 == 0 {
        x & 0x8000_0000
    } else {
        x
    }
}

fn half(x: u64) -> f32 {
    half::f16::from_bits(x as u16).to_f32()
}

fn brain(x: u64) -> f32 {
    f32::from_bits((x as u32) << 16)
}

fn flushed_half(x: u64) -> f32 {
    if x & 0x7c00 == 0 { 0.0 } else { half(x) }
}

const F32: &[u64] = &[
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x3f80_0000,
    0x3f80_0001,
    0xbf80_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffff_ffff,
];
const F16: &[u64] = &[
    0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x3c00, 0x3c01, 0xbc00, 0x7c00, 0xfc00, 0x7e00, 0xffff,
];
const BF16: &[u64] = &[
    0, 0x8000, 1, 0x8001, 0x007f, 0x0080, 0x3f80, 0x3f81, 0xbf80, 0x7f80, 0xff80, 0x7fc0, 0xffff,
];
const I16: &[u64] = &[0, 1, 2, 0x7fff, 0x8000, 0x8001, 0xffff];
const I32: &[u64] = &[0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_ffff];
const I64: &[u64] = &[
    0,
    1,
    0xffff_ffff,
    0x1_0000_0000,
    u64::MAX >> 1,
    1 << 63,
    u64::MAX,
];
const F64: &[u64] = &[
    0,
    1 << 63,
    1,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
];

const KINDS: [Kind; 15] = [
    Kind {
        name: "b16",
        reg: H,
        operators: &["eq", "ne"],
        values: I16,
        order: |a, b| Some(a.cmp(&b)),
    },
    Kind {
        name: "b32",
        reg: W,
        operators: &["eq", "ne"],
        values: I32,
        order: |a, b| Some(a.cmp(&b)),
    },
    Kind {
        name: "b64",
        reg: D,
        operators: &["eq", "ne"],
        values: I64,
        order: |a, b| Some(a.cmp(&b)),
    },
    Kind {
        name: "u16",
        reg: H,
        operators: &UNSIGNED,
        values: I16,
        order: |a, b| Some(a.cmp(&b)),
    },
    Kind {
        name: "u32",
        reg: W,
        operators: &UNSIGNED,
        values: I32,
        order: |a, b| Some(a.cmp(&b)),
    },
    Kind {
        name: "u64",
        reg: D,
        operators: &UNSIGNED,
        values: I64,
        order: |a, b| Some(a.cmp(&b)),
    },
    Kind {
        name: "s16",
        reg: H,
        operators: &SIGNED,
        values: I16,
        order: |a, b| Some((a as i16).cmp(&(b as i16))),
    },
    Kind {
        name: "s32",
        reg: W,
        operators: &SIGNED,
        values: I32,
        order: |a, b| Some((a as i32).cmp(&(b as i32))),
    },
    Kind {
        name: "s64",
        reg: D,
        operators: &SIGNED,
        values: I64,
        order: |a, b| Some((a as i64).cmp(&(b as i64))),
    },
    Kind {
        name: "f32",
        reg: W,
        operators: &REAL,
        values: F32,
        order: singles,
    },
    Kind {
        name: "ftz.f32",
        reg: W,
        operators: &REAL,
        values: F32,
        order: |a, b| singles(flush(a), flush(b)),
    },
    Kind {
        name: "f64",
        reg: D,
        operators: &REAL,
        values: F64,
        order: |a, b| f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
    },
    Kind {
        name: "f16",
        reg: H,
        operators: &REAL,
        values: F16,
        order: |a, b| half(a).partial_cmp(&half(b)),
    },
    Kind {
        name: "ftz.f16",
        reg: H,
        operators: &REAL,
        values: F16,
        order: |a, b| flushed_half(a).partial_cmp(&flushed_half(b)),
    },
    Kind {
        name: "bf16",
        reg: H,
        operators: &REAL,
        values: BF16,
        order: |a, b| brain(a).partial_cmp(&brain(b)),
    },
];

#[test]
fn every_comparison_of_every_type() {
    for kind in &KINDS {
        let list = product(&[kind.values, kind.values]);
        for operator in kind.operators {
            check(
                &format!("setp.{operator}.{} %d, %a, %b;", kind.name),
                P,
                &[kind.reg; 2],
                &list,
                |v| holds(operator, (kind.order)(v[0], v[1])).into(),
            );
        }
    }
}

#[test]
fn outcomes_combine_with_a_predicate() {
    type Op = fn(bool, bool) -> bool;
    let ops: [(&str, Op); 3] = [
        ("and", |t, c| t && c),
        ("or", |t, c| t || c),
        ("xor", |t, c| t != c),
    ];
    let list = product(&[F32, F32, &[0, 1]]);
    for (name, op) in ops {
        for (not, text) in [(false, ""), (true, "!")] {
            let results = rows(
                &format!("setp.ltu.{name}.f32 %d|%q, %a, %b, {text}%c;"),
                &[P, P],
                &[W, W, P],
                &list,
            );
            for (v, r) in list.iter().zip(results) {
                let (t, c) = (holds("ltu", singles(v[0], v[1])), (v[2] != 0) != not);
                // The second takes the complement of the comparison, NaN or not.
                assert_eq!(r, [u64::from(op(t, c)), u64::from(op(!t, c))], "{v:x?}");
            }
        }
    }
    let both = rows(
        "setp.eq.s32 %d|%q, %a, 7;",
        &[P, P],
        &[W],
        &[vec![7], vec![8]],
    );
    assert_eq!(both, [[1, 0], [0, 1]]);
    let second = rows("setp.eq.s32 _|%d, %a, 7;", &[P], &[W], &[vec![7], vec![8]]);
    assert_eq!(second, [[0], [1]]);
}

#[test]
fn two_halves_at_once() {
    let list: Vec<Vec<u64>> = product(&[F16, F16])
        .into_iter()
        .map(|v| vec![v[0] | v[1] << 16, v[1] | 0x3c00 << 16, v[0] & 1])
        .collect();
    for operator in REAL {
        let results = rows(
            &format!("setp.{operator}.f16x2 %d|%q, %a, %b;"),
            &[P, P],
            &[W, W, P],
            &list,
        );
        let combined = rows(
            &format!("setp.{operator}.xor.ftz.f16x2 %d|%q, %a, %b, !%c;"),
            &[P, P],
            &[W, W, P],
            &list,
        );
        for ((v, r), s) in list.iter().zip(results).zip(combined) {
            let order = |shift: u32, f: fn(u64) -> f32| {
                f(v[0] >> shift & 0xffff).partial_cmp(&f(v[1] >> shift & 0xffff))
            };
            let plain = [0, 16].map(|shift| u64::from(holds(operator, order(shift, half))));
            assert_eq!(r, plain, "{operator} {v:x?}");
            let c = v[2] == 0;
            let flushed =
                [0, 16].map(|shift| u64::from(holds(operator, order(shift, flushed_half)) != c));
            assert_eq!(s, flushed, "{operator} {v:x?}");
        }
    }
    let list: Vec<Vec<u64>> = product(&[BF16, BF16])
        .into_iter()
        .map(|v| vec![v[0] | v[1] << 16, v[1] | v[0] << 16])
        .collect();
    for operator in REAL {
        let outcome = |v: &[u64], shift: u32| {
            holds(
                operator,
                brain(v[0] >> shift & 0xffff).partial_cmp(&brain(v[1] >> shift & 0xffff)),
            )
        };
        for (out, yes) in [("bf16x2", 0x3f80u64), ("u32", 0xffff), ("s32", 0xffff)] {
            check(
                &format!("set.{operator}.{out}.bf16x2 %d, %a, %b;"),
                W,
                &[W; 2],
                &list,
                |v| {
                    (if outcome(v, 0) { yes } else { 0 })
                        | if outcome(v, 16) { yes << 16 } else { 0 }
                },
            );
        }
    }
}

#[test]
fn outcomes_as_numbers() {
    for kind in &KINDS {
        let list = product(&[kind.values, kind.values, &[0, 1]]);
        let ins = [kind.reg, kind.reg, P];
        let (flag, name) = kind
            .name
            .split_once('.')
            .map_or(("", kind.name), |(_, name)| (".ftz", name));
        for (out, reg, yes) in [
            ("u32", W, 0xffff_ffffu64),
            ("s32", W, 0xffff_ffff),
            ("f32", W, 0x3f80_0000),
            ("f16", H, 0x3c00),
            ("u16", H, 0xffff),
        ] {
            check(
                &format!("set.eq{flag}.{out}.{name} %d, %a, %b;"),
                reg,
                &ins,
                &list,
                |v| {
                    if holds("eq", (kind.order)(v[0], v[1])) {
                        yes
                    } else {
                        0
                    }
                },
            );
            check(
                &format!("set.ne.and{flag}.{out}.{name} %d, %a, %b, !%c;"),
                reg,
                &ins,
                &list,
                |v| {
                    if holds("ne", (kind.order)(v[0], v[1])) && v[2] == 0 {
                        yes
                    } else {
                        0
                    }
                },
            );
        }
    }
}

#[test]
fn selections() {
    for (ty, reg, a, b) in [
        ("b16", H, 0x1234, 0x8765),
        ("u32", W, 1, 2),
        ("f32", W, 0x3f80_0000, 0xffff_ffff),
        ("b64", D, 1 << 40, 3),
        ("f64", D, u64::MAX, 0),
    ] {
        table(
            &format!("selp.{ty} %d, %a, %b, %c;"),
            reg,
            &[reg, reg, P],
            &[(&[a, b, 1], a), (&[a, b, 0], b)],
        );
        // Zero and above select the first, minus zero too.
        table(
            &format!("slct.{ty}.s32 %d, %a, %b, %c;"),
            reg,
            &[reg, reg, W],
            &[
                (&[a, b, 0], a),
                (&[a, b, 0x7fff_ffff], a),
                (&[a, b, 0x8000_0000], b),
                (&[a, b, 0xffff_ffff], b),
            ],
        );
        let real: &[(&[u64], u64)] = &[
            (&[a, b, 0x8000_0000], a),
            (&[a, b, 0x7f80_0000], a),
            (&[a, b, 0xff80_0000], b),
            (&[a, b, 0x7fc0_0000], b),
            (&[a, b, 0xbf80_0000], b),
        ];
        table(
            &format!("slct.{ty}.f32 %d, %a, %b, %c;"),
            reg,
            &[reg, reg, W],
            real,
        );
        table(
            &format!("slct.{ty}.f32 %d, %a, %b, %c;"),
            reg,
            &[reg, reg, W],
            &[(&[a, b, 0x8000_0001], b)],
        );
        table(
            &format!("slct.ftz.{ty}.f32 %d, %a, %b, %c;"),
            reg,
            &[reg, reg, W],
            real,
        );
        table(
            &format!("slct.ftz.{ty}.f32 %d, %a, %b, %c;"),
            reg,
            &[reg, reg, W],
            &[(&[a, b, 0x8000_0001], a), (&[a, b, 0x8080_0000], b)],
        );
    }
}

#[test]
fn logic_of_predicates() {
    let list = product(&[&[0, 1], &[0, 1]]);
    check("and.pred %d, %a, %b;", P, &[P; 2], &list, |v| v[0] & v[1]);
    check("or.pred %d, %a, %b;", P, &[P; 2], &list, |v| v[0] | v[1]);
    check("xor.pred %d, %a, %b;", P, &[P; 2], &list, |v| v[0] ^ v[1]);
    check("not.pred %d, %a;", P, &[P; 2], &list, |v| 1 - v[0]);
}

#[test]
fn guards_leave_other_lanes_alone() {
    let body = "setp.lt.s32 %d, %a, 5;\n@%b setp.gt.s32 %d, %a, 5;";
    let list = product(&[&[3, 5, 7], &[0, 1]]);
    check(body, P, &[W, P], &list, |v| {
        if v[1] != 0 { v[0] > 5 } else { v[0] < 5 }.into()
    });
    let body = "mov.b32 %d, %a;\n@!%b set.gt.u32.s32 %d, %a, 5;";
    check(body, W, &[W, P], &list, |v| match v[1] {
        0 if v[0] > 5 => 0xffff_ffff,
        0 => 0,
        _ => v[0],
    });
}

#[test]
fn what_does_not_exist_is_refused() {
    for (body, out, of) in [
        ("setp.lt.b32 %d, %a, %a;", P, W),
        ("setp.lo.s32 %d, %a, %a;", P, W),
        ("setp.equ.u32 %d, %a, %a;", P, W),
        ("setp.lt.ftz.f64 %d, %a, %a;", P, D),
        ("setp.lt.f16x2 %d, %a, %a;", P, W),
        ("setp.lt.nand.s32 %d, %a, %a, %d;", P, W),
        ("set.eq.s64.s32 %d, %a, %a;", D, W),
        ("selp.pred %d, %a, %a, %a;", P, P),
    ] {
        refused(body, &[out], &[of]);
    }
}
