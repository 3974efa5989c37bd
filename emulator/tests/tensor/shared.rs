//! Matrices in shared memory, and in registers.

use super::*;

const STAGE: &str = "
    .shared .align 16 .b8 tile[1024];
    .reg .b32 %row; .reg .b32 %at; .reg .b32 %put;
    mov.u32 %row, tile;
    // 512 bytes from the inputs: word l of input k is bytes 128 k + 4 l.
    shl.b32 %put, %t0, 2;
    add.u32 %put, %put, %row;
    st.shared.b32 [%put], %i0;
    st.shared.b32 [%put+128], %i1;
    st.shared.b32 [%put+256], %i2;
    st.shared.b32 [%put+384], %i3;
    bar.sync 0;
    // Row l: 16 bytes.
    shl.b32 %at, %t0, 4;
    add.u32 %at, %at, %row;
";

/// Four matrices of 16-bit elements, each 64 in row-major order, as the words of four inputs.
fn four_matrices(random: &mut Random) -> (Vec<Lanes>, Vec<[[u16; 8]; 8]>) {
    let inputs: Vec<Lanes> = (0..4).map(|_| random.lanes()).collect();
    let matrices = inputs
        .iter()
        .map(|words| {
            std::array::from_fn(|r| {
                std::array::from_fn(|c| (words[r * 4 + c / 2] >> (c % 2 * 16)) as u16)
            })
        })
        .collect();
    (inputs, matrices)
}

#[test]
fn matrices_load_in_rows_and_in_columns() {
    let mut random = Random(41);
    let (inputs, matrices) = four_matrices(&mut random);
    for (num, count) in [("x1", 1), ("x2", 2), ("x4", 4)] {
        for trans in [false, true] {
            let suffix = if trans { ".trans" } else { "" };
            let clear: String = (0..4).map(|k| format!("mov.b32 %o{k}, 0;\n")).collect();
            let body = format!(
                "{STAGE}{clear}ldmatrix.sync.aligned.m8n8.{num}{suffix}.shared.b16 {}, [%at];",
                names("o", 0, count)
            );
            let out = run(&body, &inputs, 4);
            for (k, m) in matrices.iter().enumerate().take(count) {
                for lane in 0..32 {
                    // Lane l holds elements 2 (l % 4) and the next of row l / 4, or of column l / 4.
                    let pick = |c: usize| {
                        if trans {
                            m[c][lane / 4]
                        } else {
                            m[lane / 4][c]
                        }
                    };
                    let want =
                        u32::from(pick(lane % 4 * 2)) | u32::from(pick(lane % 4 * 2 + 1)) << 16;
                    assert_eq!(out[k][lane], want, "{num}{suffix} matrix {k} lane {lane}");
                }
            }
        }
    }
}

#[test]
fn a_matrix_loads_by_generic_address_and_offset() {
    let mut random = Random(43);
    let (inputs, _) = four_matrices(&mut random);
    let body = format!(
        "{STAGE}mul.wide.u32 %d1, %at, 1;\ncvta.shared.u64 %d1, %d1;\nldmatrix.sync.aligned.m8n8.x1.b16 {{%o0}}, [%d1+128];"
    );
    assert_eq!(run(&body, &inputs, 1)[0], inputs[1]);
}

#[test]
fn matrices_store_as_they_load() {
    let mut random = Random(47);
    let (inputs, matrices) = four_matrices(&mut random);
    for trans in [false, true] {
        let suffix = if trans { ".trans" } else { "" };
        let body = format!(
            "{STAGE}
            bar.sync 0;
            stmatrix.sync.aligned.m8n8.x4{suffix}.shared.b16 [%at+512], {{%i0, %i1, %i2, %i3}};
            bar.sync 0;
            ld.shared.b32 %o0, [%put+512];
            ld.shared.b32 %o1, [%put+640];
            ld.shared.b32 %o2, [%put+768];
            ld.shared.b32 %o3, [%put+896];"
        );
        let out = run(&body, &inputs, 4);
        for (k, m) in matrices.iter().enumerate() {
            for lane in 0..32 {
                let pick = |c: usize| {
                    if trans {
                        m[c][lane / 4]
                    } else {
                        m[lane / 4][c]
                    }
                };
                let want = u32::from(pick(lane % 4 * 2)) | u32::from(pick(lane % 4 * 2 + 1)) << 16;
                assert_eq!(out[k][lane], want, "matrix {k} lane {lane}");
            }
        }
    }
}

#[test]
fn a_fragment_transposes_in_registers() {
    let mut random = Random(53);
    let (inputs, matrices) = four_matrices(&mut random);
    let out = run(
        "movmatrix.sync.aligned.m8n8.trans.b16 %o0, %i2;",
        &inputs,
        1,
    );
    for lane in 0..32 {
        let pick = |c: usize| u32::from(matrices[2][c][lane / 4]);
        assert_eq!(
            out[0][lane],
            pick(lane % 4 * 2) | pick(lane % 4 * 2 + 1) << 16
        );
    }
}

#[test]
fn rows_off_sixteen_bytes_are_reported() {
    let body = format!("{STAGE}ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%o0}}, [%at+4];");
    reported(
        &body,
        &[[0; 32]; 4],
        1,
        Check::Alignment,
        "past a multiple of 16",
    );
    let body = format!(
        "{STAGE}ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%o0, %o1, %o2, %o3}}, [%at+512];"
    );
    reported(
        &body,
        &[[0; 32]; 4],
        4,
        Check::UninitMemory,
        "never written",
    );
    let body = format!(
        "{STAGE}ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%o0, %o1, %o2, %o3}}, [%at+1008];"
    );
    reported(
        &body,
        &[[0; 32]; 4],
        4,
        Check::Bounds,
        "past the 1024 bytes",
    );
}

#[test]
fn rows_in_one_bank_are_counted() {
    // Eight rows 128 bytes apart all begin in bank 0: eight wavefronts. Rows 16 bytes apart: one a matrix.
    let spread = "
        .shared .align 128 .b8 tile[4096];
        .reg .b32 %row; .reg .b32 %at; .reg .b32 %put;
        mov.u32 %row, tile;
        shl.b32 %at, %t0, 7;
        add.u32 %at, %at, %row;
        st.shared.v4.b32 [%at], {%t0, %t0, %t0, %t0};
        bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%o0, %o1, %o2, %o3}, [%at];";
    let close =
        format!("{STAGE}ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%o0, %o1, %o2, %o3}}, [%at];");
    for (body, inputs, want) in [(spread, 0, (32, 4)), (close.as_str(), 4, (4, 4))] {
        let setup = ptx_emulator::run::Setup::default();
        let done = warp::try_lanes(body, &vec![[0; 32]; inputs], 4, &setup).expect("it runs");
        let counts = done
            .counters
            .instructions()
            .rev()
            .map(|(_, memory)| memory.shared)
            .find(|c| c.bytes == 512);
        let counts = counts.expect("the load of four matrices is counted");
        assert_eq!((counts.passes, counts.ideal), want);
        assert_eq!(counts.requests, 1);
    }
}
