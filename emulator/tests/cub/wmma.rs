//! Products of `mma.h`: `wmma.cu`.

use super::*;

static SOURCE: Source = Source::new("wmma.cu", "compute_80");

/// An element as it lies in memory, and back.
#[derive(Clone, Copy)]
struct Kind {
    bytes: usize,
    put: fn(i32, &mut Vec<u8>),
}

const F16: Kind = Kind {
    bytes: 2,
    put: |v, out| out.extend(half::f16::from_f32(v as f32).to_le_bytes()),
};
const BF16: Kind = Kind {
    bytes: 2,
    put: |v, out| out.extend(half::bf16::from_f32(v as f32).to_le_bytes()),
};
const F32: Kind = Kind {
    bytes: 4,
    put: |v, out| out.extend((v as f32).to_le_bytes()),
};
const F64: Kind = Kind {
    bytes: 8,
    put: |v, out| out.extend(f64::from(v).to_le_bytes()),
};
const BYTE: Kind = Kind {
    bytes: 1,
    put: |v, out| out.push(v as u8),
};
const S32: Kind = Kind {
    bytes: 4,
    put: |v, out| out.extend(v.to_le_bytes()),
};

fn matrix(kind: Kind, values: &[i32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * kind.bytes);
    values.iter().for_each(|&v| (kind.put)(v, &mut out));
    out
}

#[test]
fn products_of_tiles() {
    let Some(ptx) = SOURCE.ptx() else { return };
    // Kernel, shape, whether the operands are row-major, element, sum, and the numbers drawn: small enough for
    // every sum to be exact.
    let cases = [
        (
            "f16_16x16x16_rc",
            [16, 16, 16],
            [true, false],
            F16,
            F32,
            -40..40,
        ),
        (
            "f16_32x8x16_cr",
            [32, 8, 16],
            [false, true],
            F16,
            F32,
            -40..40,
        ),
        (
            "f16_8x32x16_rr",
            [8, 32, 16],
            [true, true],
            F16,
            F32,
            -40..40,
        ),
        (
            "bf16_16x16x16_cc",
            [16, 16, 16],
            [false, false],
            BF16,
            F32,
            -40..40,
        ),
        (
            "tf32_16x16x8_rc",
            [16, 16, 8],
            [true, false],
            F32,
            F32,
            -400..400,
        ),
        (
            "s8_16x16x16_rr",
            [16, 16, 16],
            [true, true],
            BYTE,
            S32,
            -128..128,
        ),
        (
            "u8_32x8x16_cc",
            [32, 8, 16],
            [false, false],
            BYTE,
            S32,
            0..256,
        ),
        (
            "f64_8x8x4_rc",
            [8, 8, 4],
            [true, false],
            F64,
            F64,
            -9999..9999,
        ),
    ];
    for (kernel, [m, n, k], [a_rows, b_rows], element, sum, range) in cases {
        let values = |count: usize| proptest::collection::vec(range.clone(), count);
        for_all(
            4,
            (values(m * k), values(k * n), values(m * n), order()),
            |(a, b, c, seed)| {
                let args = [
                    Arg::Buffer(matrix(element, &a)),
                    Arg::Buffer(matrix(element, &b)),
                    Arg::Buffer(matrix(sum, &c)),
                ];
                let done = launch(ptx, kernel, (1, 32), seed, &args);
                let at_a = |row: usize, t: usize| a[if a_rows { row * k + t } else { t * m + row }];
                let at_b = |t: usize, column: usize| {
                    b[if b_rows {
                        t * n + column
                    } else {
                        column * k + t
                    }]
                };
                let mut expected = Vec::new();
                for row in 0..m {
                    for column in 0..n {
                        let dot: i32 = (0..k).map(|t| at_a(row, t) * at_b(t, column)).sum();
                        expected.push(2 * (dot + c[row * n + column]));
                    }
                }
                assert_eq!(done.buffers[2], matrix(sum, &expected), "{kernel}");
            },
        );
    }
}
