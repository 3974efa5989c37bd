//! Operands, guards and labels.

use super::*;

#[test]
fn operands_of_every_form() {
    use Operand::*;
    let cases: Vec<(&str, &str, Vec<Operand>)> = vec![
        (
            "mov.u32 %r1, %tid.x;",
            "mov.u32",
            vec![r(1), Special("%tid.x".into())],
        ),
        (
            "mov.u32 %r1, %laneid;",
            "mov.u32",
            vec![r(1), Special("%laneid".into())],
        ),
        (
            "mov.u32 %r1, %envreg31;",
            "mov.u32",
            vec![r(1), Special("%envreg31".into())],
        ),
        ("mov.b32 %r1, -5;", "mov.b32", vec![r(1), Int(-5)]),
        (
            "mov.b32 %r1, 0xffffffff;",
            "mov.b32",
            vec![r(1), Int(0xffff_ffff)],
        ),
        (
            "mov.b64 %rd1, 0xffffffffffffffff;",
            "mov.b64",
            vec![rd(1), Int(-1)],
        ),
        ("mov.b32 %r1, 017;", "mov.b32", vec![r(1), Int(15)]),
        ("mov.b32 %r1, 0b101U;", "mov.b32", vec![r(1), Int(5)]),
        ("mov.b32 %r1, 0;", "mov.b32", vec![r(1), Int(0)]),
        ("mov.b32 %r1, WARP_SZ;", "mov.b32", vec![r(1), Int(32)]),
        (
            "mov.b32 %r1, (3 + 4) * 2 - 1;",
            "mov.b32",
            vec![r(1), Int(13)],
        ),
        ("mov.b32 %r1, 1 << 4 | 1;", "mov.b32", vec![r(1), Int(17)]),
        ("mov.b32 %r1, ~0 & 0xf0;", "mov.b32", vec![r(1), Int(0xf0)]),
        ("mov.b32 %r1, !5;", "mov.b32", vec![r(1), Int(0)]),
        (
            "mov.b32 %r1, 2 > 1 ? 10 : 20;",
            "mov.b32",
            vec![r(1), Int(10)],
        ),
        ("mov.b32 %r1, -7 / 2;", "mov.b32", vec![r(1), Int(-3)]),
        (
            "mov.b32 %r1, (.u64) -8 >> 60;",
            "mov.b32",
            vec![r(1), Int(15)],
        ),
        ("mov.b32 %r1, -8 >> 1;", "mov.b32", vec![r(1), Int(-4)]),
        (
            "mov.b64 %rd1, -1 / 2U;",
            "mov.b64",
            vec![rd(1), Int(i64::MAX)],
        ),
        (
            "mov.f32 %r1, 0f3F800000;",
            "mov.f32",
            vec![r(1), F32(0x3f80_0000)],
        ),
        (
            "mov.f32 %r1, -0f3F800000;",
            "mov.f32",
            vec![r(1), F32(0xbf80_0000)],
        ),
        (
            "mov.f64 %rd1, 0d3FF0000000000000;",
            "mov.f64",
            vec![rd(1), F64(1f64.to_bits())],
        ),
        (
            "mov.f32 %r1, 1.5e-3;",
            "mov.f32",
            vec![r(1), F64(1.5e-3f64.to_bits())],
        ),
        (
            "mov.f32 %r1, .5;",
            "mov.f32",
            vec![r(1), F64(0.5f64.to_bits())],
        ),
        (
            "mov.f32 %r1, -2.0 * 3;",
            "mov.f32",
            vec![r(1), F64((-6f64).to_bits())],
        ),
        (
            "mov.u64 %rd1, table;",
            "mov.u64",
            vec![rd(1), symbol("table")],
        ),
        (
            "mov.u64 %rd1, table+8;",
            "mov.u64",
            vec![rd(1), Symbol("table".into(), 8)],
        ),
        (
            "mov.u64 %rd1, table-4;",
            "mov.u64",
            vec![rd(1), Symbol("table".into(), -4)],
        ),
        (
            "mov.u64 %rd1, table[2];",
            "mov.u64",
            vec![rd(1), Symbol("table".into(), 8)],
        ),
        (
            "ld.global.u32 %r1, table[2];",
            "ld.global.u32",
            vec![r(1), at(symbol("table"), 8)],
        ),
        (
            "ld.param.u64 %rd1, [p];",
            "ld.param.u64",
            vec![rd(1), at(symbol("p"), 0)],
        ),
        ("ld.u32 %r1, [%rd1];", "ld.u32", vec![r(1), at(rd(1), 0)]),
        (
            "ld.u32 %r1, [%rd1+16];",
            "ld.u32",
            vec![r(1), at(rd(1), 16)],
        ),
        (
            "ld.u32 %r1, [%rd1+-16];",
            "ld.u32",
            vec![r(1), at(rd(1), -16)],
        ),
        (
            "ld.u32 %r1, [%rd1 - 16];",
            "ld.u32",
            vec![r(1), at(rd(1), -16)],
        ),
        (
            "ld.u32 %r1, [%rd1+(1?4:8)+2*8];",
            "ld.u32",
            vec![r(1), at(rd(1), 20)],
        ),
        (
            "ld.u32 %r1, [table+4];",
            "ld.u32",
            vec![r(1), at(symbol("table"), 4)],
        ),
        (
            "ld.u32 %r1, [256];",
            "ld.u32",
            vec![r(1), Address(AddressBase::Absolute, 256)],
        ),
        (
            "ld.global.v4.u32 {%r1, %r2, _, %r3}, [%rd1];",
            "ld.global.v4.u32",
            vec![Vector(vec![r(1), r(2), Sink, r(3)]), at(rd(1), 0)],
        ),
        (
            "setp.lt.and.s32 %p1|%p2, %r1, 4, !%p3;",
            "setp.lt.and.s32",
            vec![pair(p(1), p(2)), r(1), Int(4), NotReg(RegId(3))],
        ),
        (
            "shfl.sync.bfly.b32 _|%p1, %r1, 16, 31, -1;",
            "shfl.sync.bfly.b32",
            vec![pair(Sink, p(1)), r(1), Int(16), Int(31), Int(-1)],
        ),
        (
            "cp.async.cg.shared.global.L2::128B [%r1], [%rd1], 16, %r2;",
            "cp.async.cg.shared.global.L2::128B",
            vec![at(r(1), 0), at(rd(1), 0), Int(16), r(2)],
        ),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], %r2, [%r3];",
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes",
            vec![at(r(1), 0), at(rd(1), 0), r(2), at(r(3), 0)],
        ),
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.tile [%r1], [%rd1, {%r2, %r3}], [%r4];",
            "cp.async.bulk.tensor.2d.shared::cluster.global.tile",
            vec![
                at(r(1), 0),
                Composite(vec![rd(1), Vector(vec![r(2), r(3)])]),
                at(r(4), 0),
            ],
        ),
        (
            "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p1, [%r1], %r2, 0x989680;",
            "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64",
            vec![p(1), at(r(1), 0), r(2), Int(10_000_000)],
        ),
        ("bar.sync 0;", "bar.sync", vec![Int(0)]),
        ("ret;", "ret", vec![]),
    ];
    for (text, opcode, operands) in cases {
        let function = kernel(text);
        let body = function.body.unwrap();
        let instruction = &body.instructions[0];
        assert_eq!(instruction.opcode.join("."), opcode, "{text}");
        assert_eq!(instruction.operands, operands, "{text}");
        assert_eq!(instruction.guard, None);
        assert_eq!(instruction.line, 10, "{text}");
    }
}

#[test]
fn guards_and_labels() {
    let function = kernel("@%p1 bra L;\n@!%p2 bra M;\nL:\nM: N:\nexit;\nE:");
    let body = function.body.unwrap();
    let guards: Vec<_> = body.instructions.iter().map(|i| i.guard).collect();
    assert_eq!(guards[0].map(|g| (g.reg.0, g.negated)), Some((1, false)));
    assert_eq!(guards[1].map(|g| (g.reg.0, g.negated)), Some((2, true)));
    assert_eq!(guards[2], None);
    let labels: Vec<_> = body.labels.iter().map(|(n, i)| (n.as_str(), *i)).collect();
    assert_eq!(labels, [("E", 3), ("L", 2), ("M", 2), ("N", 2)]);
}
