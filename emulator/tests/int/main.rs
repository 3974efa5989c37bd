//! Integer instructions, against 128-bit arithmetic and the ISA's own pseudocode.

mod arithmetic;
mod bits;
#[path = "../lanes/mod.rs"]
mod lanes;
mod packed;
mod video;

use lanes::Reg::{D, H, P, W};
use lanes::{Mix, check, product, refused, rows, table};

/// Edge values of a width.
fn edges(width: u32) -> Vec<u64> {
    let ones = u64::MAX >> (64 - width);
    let top = 1 << (width - 1);
    vec![
        0,
        1,
        2,
        3,
        7,
        0x55,
        ones / 3,
        top - 1,
        top,
        top + 1,
        ones - 1,
        ones,
    ]
}

fn reg(width: u32) -> lanes::Reg {
    match width {
        16 => H,
        32 => W,
        _ => D,
    }
}

fn operands(columns: usize, width: u32) -> Vec<Vec<u64>> {
    let edges = edges(width);
    let lists: Vec<&[u64]> = vec![&edges; columns.min(2)];
    let mut rows = product(&lists);
    let mut mix = Mix(u64::from(width));
    for row in &mut rows {
        row.extend((lists.len()..columns).map(|_| mix.bits() & (u64::MAX >> (64 - width))));
    }
    rows.extend(mix.rows(200, columns, width));
    rows
}

fn signed(x: u64, width: u32) -> i128 {
    i128::from((x as i64) << (64 - width) >> (64 - width))
}

fn value(x: u64, width: u32, sign: char) -> i128 {
    if sign == 's' {
        signed(x, width)
    } else {
        i128::from(x)
    }
}

fn cut(x: i128, width: u32) -> u64 {
    x as u64 & (u64::MAX >> (64 - width))
}

#[test]
fn what_does_not_exist_is_refused() {
    for (body, out, of) in [
        ("add.sat.u32 %d, %a, %a;", W, W),
        ("mul.wide.u64 %d, %a, %a;", D, D),
        ("and.u32 %d, %a, %a;", W, W),
        ("shl.s32 %d, %a, %a;", W, W),
        ("neg.u32 %d, %a;", W, W),
        ("add.u32 %d, %a;", W, W),
        ("add.u64 %d, %a, %a;", D, W),
        ("lop3.b32 %d, %a, %a, %a, 300;", W, W),
        ("prmt.b32.xyz %d, %a, %a, %a;", W, W),
        ("popc.b16 %d, %a;", W, H),
    ] {
        refused(body, &[out], &[of]);
    }
}
