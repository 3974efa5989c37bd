//! Fragments that go from `ldmatrix` to `mma`, and from one `mma` to the next: random programs of loads, products and
//! what may come between them, against the same steps taken one by one on arrays.

use super::*;
use half::f16;

/// Tiles of four matrices in shared memory.
const TILES: usize = 3;
/// Registers that tiles are loaded to more than once.
const REUSED: usize = 8;
/// Registers of factors B.
const FACTORS: usize = 4;
/// Registers of sums.
const SUMS: usize = 8;

#[derive(Debug, Clone)]
enum Step {
    /// `ldmatrix` of a tile to four registers.
    Load {
        tile: usize,
        trans: bool,
        to: [usize; 4],
    },
    /// `mma` of four loaded registers and two of B, from four sums to four.
    Product {
        a: [usize; 4],
        b: [usize; 2],
        c: usize,
        d: usize,
        guarded: bool,
    },
    /// A register of B takes another's value.
    Move { to: usize, from: usize },
    /// A loaded register's words are added to an output.
    Use { register: usize },
    /// A place that may be branched to.
    Label,
}

/// Steps, and how many registers they load tiles to: the first eight again and again, the others once.
fn draw(random: &mut Random, count: usize) -> (Vec<Step>, usize) {
    let mut some = |n: usize| random.below(n as u32) as usize;
    let mut steps = Vec::new();
    let mut loaded = REUSED;
    // Everything has a value before it is used.
    for first in [0, 4] {
        steps.push(Step::Load {
            tile: some(TILES),
            trans: false,
            to: std::array::from_fn(|k| first + k),
        });
    }
    for _ in 0..count {
        // In order or turned; those loaded last and once, or some of the others, mostly loaded together.
        let turn = if some(3) == 0 { some(4) } else { 0 };
        let skip = if some(6) == 0 { 2 } else { 0 };
        let (first, among) = match some(3) {
            0 => (4 * some(2) + skip, REUSED),
            _ => (loaded - 4, loaded),
        };
        let old: [usize; 4] = std::array::from_fn(|k| (first + (k + turn) % 4) % among);
        let new: [usize; 4] = std::array::from_fn(|k| loaded + (k + turn) % 4);
        let b = [[0, 1], [0, 1], [2, 3], [1, 0]];
        steps.push(match some(16) {
            kind @ 0..7 => {
                let to = if kind < 2 && among == REUSED {
                    old
                } else {
                    loaded += 4;
                    new
                };
                Step::Load {
                    tile: some(TILES),
                    trans: some(2) == 1,
                    to,
                }
            }
            7..13 => Step::Product {
                a: old,
                b: b[some(4)],
                c: 4 * some(2),
                d: 4 * some(2),
                guarded: some(8) == 0,
            },
            13 => Step::Label,
            14 => Step::Use {
                register: some(loaded),
            },
            _ => Step::Move {
                to: some(FACTORS),
                from: some(FACTORS),
            },
        });
    }
    (steps, loaded)
}

fn list(prefix: &str, registers: &[usize]) -> String {
    let names: Vec<String> = registers.iter().map(|k| format!("%{prefix}{k}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// The inputs are the tiles' matrices, then B's registers.
fn program(steps: &[Step], loaded: usize) -> String {
    let mut body = format!(
        ".shared .align 16 .b8 tiles[{}];
        .reg .b32 %row; .reg .b32 %put; .reg .b32 %a<{loaded}>; .reg .b32 %b<{FACTORS}>; .reg .b32 %c<{SUMS}>;
        .reg .b32 %sum; .reg .pred %always; .reg .pred %never;
        mov.u32 %row, tiles;
        shl.b32 %put, %t0, 2;
        add.u32 %put, %put, %row;
        setp.lt.u32 %always, %t0, 32;
        setp.ge.u32 %never, %t0, 32;
        mov.b32 %sum, 0;\n",
        512 * TILES
    );
    for k in 0..4 * TILES {
        body += &format!("st.shared.b32 [%put+{}], %i{k};\n", 128 * k);
    }
    body += "bar.sync 0;\nshl.b32 %put, %t0, 4;\nadd.u32 %row, %put, %row;\n";
    for k in 0..FACTORS {
        body += &format!("mov.b32 %b{k}, %i{};\n", 4 * TILES + k);
    }
    for k in 0..SUMS {
        body += &format!("mov.b32 %c{k}, 0;\n");
    }
    for (at, step) in steps.iter().enumerate() {
        body += &match step {
            Step::Load { tile, trans, to } => format!(
                "ldmatrix.sync.aligned.m8n8.x4{}.shared.b16 {}, [%row+{}];\n",
                if *trans { ".trans" } else { "" },
                list("a", to),
                512 * tile
            ),
            Step::Product {
                a,
                b,
                c,
                d,
                guarded,
            } => {
                let four = |first: usize| list("c", &[first, first + 1, first + 2, first + 3]);
                format!(
                    "{}mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {}, {}, {}, {};\n",
                    if *guarded { "@%always " } else { "" },
                    four(*d),
                    list("a", a),
                    list("b", b),
                    four(*c)
                )
            }
            Step::Move { to, from } => format!("mov.b32 %b{to}, %b{from};\n"),
            Step::Use { register } => format!("add.u32 %sum, %sum, %a{register};\n"),
            Step::Label => format!("@%never bra L{at};\nL{at}:\n"),
        };
    }
    for k in 0..SUMS {
        body += &format!("mov.b32 %o{k}, %c{k};\n");
    }
    body + &format!("mov.b32 %o{SUMS}, %sum;\n")
}

/// What the program leaves in its outputs.
fn expected(steps: &[Step], loaded: usize, inputs: &[Lanes]) -> Vec<Lanes> {
    let mut a = vec![[0u32; 32]; loaded];
    let mut b: [Lanes; FACTORS] = std::array::from_fn(|k| inputs[4 * TILES + k]);
    let mut c = [[0f32; 32]; SUMS];
    let mut sum = [0u32; 32];
    let half = |words: &Lanes, lane: usize, upper: usize| (words[lane] >> (16 * upper)) as u16;
    for step in steps {
        match step {
            Step::Load { tile, trans, to } => {
                for (k, &to) in to.iter().enumerate() {
                    let words = &inputs[4 * tile + k];
                    // Row r of the matrix is words 4 r to 4 r + 3.
                    let element = |r: usize, n: usize| half(words, 4 * r + n / 2, n % 2);
                    a[to] = std::array::from_fn(|lane| {
                        let (r, n) = (lane / 4, 2 * (lane % 4));
                        let pair = if *trans {
                            [element(n, r), element(n + 1, r)]
                        } else {
                            [element(r, n), element(r, n + 1)]
                        };
                        u32::from(pair[0]) | u32::from(pair[1]) << 16
                    });
                }
            }
            Step::Product {
                a: of_a,
                b: of_b,
                c: from,
                d: to,
                ..
            } => {
                let number = |words: &Lanes, lane, upper| f16::from_bits(half(words, lane, upper));
                let (mut left, mut right) = ([[0f32; 16]; 16], [[0f32; 8]; 16]);
                let places = (a_place("m16n8k16", 16), b_place("m16n8k16", 16));
                for lane in 0..32 {
                    for i in 0..8 {
                        let (r, k) = places.0(lane, i);
                        left[r][k] = number(&a[of_a[i / 2]], lane, i % 2).to_f32();
                    }
                    for i in 0..4 {
                        let (k, n) = places.1(lane, i);
                        right[k][n] = number(&b[of_b[i / 2]], lane, i % 2).to_f32();
                    }
                }
                let before = c;
                for lane in 0..32 {
                    for i in 0..4 {
                        let (r, n) = c_place(lane, i);
                        let terms = (0..16).map(|k| left[r][k] * right[k][n]);
                        c[to + i][lane] = before[from + i][lane] + terms.sum::<f32>();
                    }
                }
            }
            Step::Move { to, from } => b[*to] = b[*from],
            Step::Use { register } => {
                sum = std::array::from_fn(|lane| sum[lane].wrapping_add(a[*register][lane]));
            }
            Step::Label => {}
        }
    }
    let sums = c.iter().map(|lanes| lanes.map(f32::to_bits));
    sums.chain([sum]).collect()
}

#[test]
fn fragments_held_are_fragments_loaded() {
    let mut random = Random(97);
    for round in 0..200 {
        let (steps, loaded) = draw(&mut random, 1 + round / 8);
        let inputs: Vec<Lanes> = (0..4 * TILES + FACTORS)
            .map(|_| {
                std::array::from_fn(|_| {
                    // Small whole numbers, whose sums are exact in any order.
                    let pair: [u64; 2] =
                        std::array::from_fn(|_| whole("f16", random.below(5) as i32 - 2));
                    (pair[0] | pair[1] << 16) as u32
                })
            })
            .collect();
        let got = run(&program(&steps, loaded), &inputs, SUMS + 1);
        assert_eq!(
            got,
            expected(&steps, loaded, &inputs),
            "round {round}: {steps:?}"
        );
    }
}

#[test]
fn held_fragments_of_any_bits_are_those_of_registers() {
    let mut random = Random(101);
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0, %a1, %a2, %a3}, [%row];\n";
    for element in ["f16", "bf16"] {
        for trans in ["", ".trans"] {
            let load = load.replace(".x4", &format!(".x4{trans}"));
            let product = format!(
                "mma.sync.aligned.m16n8k16.row.col.f32.{element}.{element}.f32 {{%c0, %c1, %c2, %c3}}, \
                 {{%a0, %a1, %a2, %a3}}, {{%b0, %b1}}, {{%c0, %c1, %c2, %c3}};\n"
            );
            // A second use of the registers keeps them from being held.
            let uses: String = (0..4)
                .map(|k| format!("xor.b32 %sum, %sum, %a{k};\n"))
                .collect();
            let body = |steps: &str| {
                let empty = program(&[], REUSED);
                let (before, after) = empty.split_at(empty.find("mov.b32 %o0").expect("outputs"));
                format!("{before}{steps}{after}")
            };
            let inputs: Vec<Lanes> = (0..4 * TILES + FACTORS).map(|_| random.lanes()).collect();
            let held = run(&body(&format!("{load}{product}")), &inputs, SUMS + 1);
            let packed = run(&body(&format!("{load}{product}{uses}")), &inputs, SUMS + 1);
            assert_eq!(held[..SUMS], packed[..SUMS], "{element}{trans}");
        }
    }
}
