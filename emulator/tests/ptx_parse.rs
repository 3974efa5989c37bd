//! The PTX reader: snippets against expected trees, errors with their places, files of nvcc.

use ptx_emulator::ptx::ast::{
    AddressBase, Function, Init, Linkage, Module, Operand, RegId, Space, Type,
};
use ptx_emulator::ptx::{MAX_VERSION, ParseError, ParseErrorKind, parse};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

fn module(text: &str) -> Module {
    parse(&format!("{HEAD}{text}")).unwrap_or_else(|e| panic!("{e}\nin:\n{HEAD}{text}"))
}

/// A kernel with some registers around the given statements.
fn kernel(statements: &str) -> Function {
    let text = format!(
        ".global .align 4 .u32 table[8];\n.visible .entry k(.param .u64 p, .param .u32 n)\n{{\n\
         .reg .pred %p<4>;\n.reg .b32 %r<8>;\n.reg .b64 %rd<4>;\n{statements}\n}}\n"
    );
    module(&text).functions.remove(0)
}

/// Register of [`kernel`]: predicates come first, then `%r`, then `%rd`.
fn p(i: u32) -> Operand {
    Operand::Reg(RegId(i))
}
fn r(i: u32) -> Operand {
    Operand::Reg(RegId(4 + i))
}
fn rd(i: u32) -> Operand {
    Operand::Reg(RegId(12 + i))
}
fn at(base: Operand, offset: i64) -> Operand {
    match base {
        Operand::Reg(reg) => Operand::Address(AddressBase::Reg(reg), offset),
        Operand::Symbol(name, 0) => Operand::Address(AddressBase::Symbol(name), offset),
        other => panic!("no address: {other:?}"),
    }
}
fn symbol(name: &str) -> Operand {
    Operand::Symbol(name.into(), 0)
}
fn pair(a: Operand, b: Operand) -> Operand {
    Operand::Pair(Box::new(a), Box::new(b))
}

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

#[test]
fn nested_scopes_get_unique_names() {
    let function = kernel(
        "{ .reg .b32 t; .param .b32 a; L: mov.b32 t, 1; st.param.b32 [a], t; bra L; }\n\
         { .reg .b32 t; .param .b32 a; mov.b32 t, 2; st.param.b32 [a], t; bra L; L: }\n\
         { .shared .b32 table; mov.b32 %r1, table; }",
    );
    let body = function.body.unwrap();
    let names: Vec<_> = body.variables.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["a", "a.1", "table.0"]);
    assert_eq!(body.labels["L"], 0);
    assert_eq!(body.labels["L.1"], 6);
    let operands: Vec<_> = body.instructions.iter().map(|i| &i.operands).collect();
    assert_eq!(operands[1][0], at(symbol("a"), 0));
    assert_eq!(operands[4][0], at(symbol("a.1"), 0));
    assert_ne!(
        operands[0][0], operands[3][0],
        "each scope has its own register"
    );
    assert_eq!(operands[2][0], symbol("L"));
    assert_eq!(
        operands[5][0],
        symbol("L.1"),
        "a later label of the same scope wins"
    );
    assert_eq!(operands[6][1], symbol("table.0"));
}

#[test]
fn registers_of_every_declaration() {
    let function = kernel(
        ".reg .v2 .u32 v; .reg .v4 .f32 w<2>; .reg .u32 a, b; .reg .b32 %r1x<2>, %q1<12>;\n\
         mov.u32 a, v.y;\nmov.v2.u32 v, {a, b};\nmov.f32 w1.z, w0.w;\nmov.b32 %q111, %r1x0;",
    );
    let body = function.body.unwrap();
    let name = |operand: &Operand| match operand {
        Operand::Reg(reg) => body.regs[reg.0 as usize].name.clone(),
        other => panic!("not a register: {other:?}"),
    };
    let of = |i: usize, k: usize| &body.instructions[i].operands[k];
    assert_eq!((name(of(0, 0)), name(of(0, 1))), ("a".into(), "v.y".into()));
    let Operand::Vector(parts) = of(1, 0) else {
        panic!()
    };
    assert_eq!(parts.iter().map(name).collect::<Vec<_>>(), ["v.x", "v.y"]);
    assert_eq!(
        (name(of(2, 0)), name(of(2, 1))),
        ("w1.z".into(), "w0.w".into())
    );
    assert_eq!(
        (name(of(3, 0)), name(of(3, 1))),
        ("%q111".into(), "%r1x0".into())
    );
    assert_eq!(body.regs[1].ty, Type::Pred);
    assert_eq!(body.regs[4].name, "%r0");
}

#[test]
fn calls_and_tables() {
    let text = ".extern .func (.param .b32 r) f (.param .b64 a, .param .align 8 .b8 b[16]) .noreturn;\n\
        .visible .entry k()\n{\n.reg .b32 %r<4>; .reg .b64 %rd<4>;\n\
        .param .b32 out; .param .b64 in; .param .align 8 .b8 rest[16];\n\
        call.uni (out), f, (in, rest);\n\
        proto: .callprototype (.param .b32 _) _ (.param .b64 _, .param .align 8 .b8 _[16]);\n\
        call (out), %rd1, (in, rest), proto;\n\
        list: .calltargets f, later;\n\
        call (out), %rd1, (in, rest), list;\n\
        call later;\n\
        targets: .branchtargets A, B;\nbrx.idx %r1, targets;\nA:\nB: ret;\n}\n\
        .func later { ret; }\n.alias other, later;";
    let error = parse(&format!("{HEAD}{text}")).unwrap_err();
    let undeclared = ParseErrorKind::Undeclared {
        name: "other".into(),
    };
    assert_eq!(
        error.kind, undeclared,
        "an alias is declared before it is defined"
    );
    let module = module(&text.replace(".alias", ".func other;\n.alias"));
    assert_eq!(module.aliases, [("other".into(), "later".into())]);
    let declaration = &module.functions[0];
    assert_eq!(
        (declaration.linkage, declaration.is_entry),
        (Linkage::Extern, false)
    );
    assert_eq!(declaration.directives, [("noreturn".into(), vec![])]);
    assert_eq!(declaration.params[1].size, 16);
    assert_eq!(declaration.params[1].align, 8);
    let body = module.functions[1].body.as_ref().unwrap();
    let list = |names: &[&str]| Operand::List(names.iter().map(|n| symbol(n)).collect());
    assert_eq!(
        body.instructions[0].operands,
        [list(&["out"]), symbol("f"), list(&["in", "rest"])]
    );
    assert_eq!(body.instructions[1].operands[3], symbol("proto"));
    let (returns, params) = &body.call_prototypes["proto"];
    assert_eq!((returns.len(), params.len(), params[1].size), (1, 2, 16));
    assert_eq!(body.call_targets["list"], ["f", "later"]);
    assert_eq!(body.branch_targets["targets"], ["A", "B"]);
    assert_eq!(body.labels["A"], body.labels["B"]);
}

#[test]
fn heads_and_their_directives() {
    let module = module(
        ".func (.reg .b32 r) f (.reg .b32 a) { add.s32 r, a, 1; ret; }\n\
         .weak .entry k(.param .u64 .ptr .global .align 16 q, .param .align 4 .b8 s[12])\n\
         .maxntid 128, 2, 1 .minnctapersm 2 .explicitcluster .reqnctapercluster 2, 1, 1\n\
         .pragma \"nounroll\";\n{ ret; }",
    );
    let f = &module.functions[0];
    assert_eq!(f.returns[0].reg, Some(RegId(0)));
    assert_eq!(f.params[0].reg, Some(RegId(1)));
    let add = &f.body.as_ref().unwrap().instructions[0];
    assert_eq!(add.operands[..2], [p(0), p(1)]);
    let k = &module.functions[1];
    assert_eq!(k.linkage, Linkage::Weak);
    assert_eq!(k.params[0].size, 8);
    assert_eq!((k.params[1].size, k.params[1].align), (12, 4));
    let directives: Vec<_> = k
        .directives
        .iter()
        .map(|(n, v)| (n.as_str(), &v[..]))
        .collect();
    let expected: [(&str, &[u32]); 4] = [
        ("maxntid", &[128, 2, 1]),
        ("minnctapersm", &[2]),
        ("explicitcluster", &[]),
        ("reqnctapercluster", &[2, 1, 1]),
    ];
    assert_eq!(directives, expected);
}

#[test]
fn variables_and_initialisers() {
    let bits = |values: &[u64]| values.iter().map(|v| Init::Bits(*v)).collect::<Vec<_>>();
    let address = |symbol: &str, offset, generic, mask| Init::Address {
        symbol: symbol.into(),
        offset,
        generic,
        mask,
    };
    let cases: Vec<(&str, u64, u32, Vec<Init>)> = vec![
        (".global .b32 a;", 4, 4, vec![]),
        (
            ".global .align 16 .b8 a[5] = {1, 0xff, -1};",
            5,
            16,
            bits(&[1, 0xff, 0xff]),
        ),
        (
            ".const .f32 a = 1.5;",
            4,
            4,
            bits(&[1.5f32.to_bits().into()]),
        ),
        (".const .f64 a = 0f3F800000;", 8, 8, bits(&[1f64.to_bits()])),
        (
            ".global .f64 a[2] = {0d3FF0000000000000, -.5};",
            16,
            8,
            bits(&[1f64.to_bits(), (-0.5f64).to_bits()]),
        ),
        (
            ".global .s32 a[][2] = {{-1}, {2, 3}, {}};",
            24,
            4,
            bits(&[0xffff_ffff, 0, 2, 3, 0, 0]),
        ),
        (".global .s32 a[2][2] = {1, 2, 3};", 16, 4, bits(&[1, 2, 3])),
        (".global .v4 .f32 a[2];", 32, 16, vec![]),
        (".global .v2 .u16 a = {1, 2};", 4, 4, bits(&[1, 2])),
        (
            ".global .u64 a[2] = {x, generic(x)+4};",
            16,
            8,
            vec![address("x", 0, false, None), address("x", 4, true, None)],
        ),
        (
            ".global .b8 a[2] = {0xFF(x), 0xFF00(x+2)};",
            2,
            1,
            vec![
                address("x", 0, false, Some(0xff)),
                address("x", 2, false, Some(0xff00)),
            ],
        ),
        (".extern .shared .align 16 .b8 a[];", 0, 16, vec![]),
        (
            ".visible .global .attribute(.managed) .u32 a = 7;",
            4,
            4,
            bits(&[7]),
        ),
        (".global .u32 b, a[2*4];", 32, 4, vec![]),
    ];
    for (text, size, align, init) in cases {
        let module = module(&format!(".global .b32 x[4];\n{text}"));
        let variable = module.variables.last().unwrap();
        assert_eq!(variable.name, "a", "{text}");
        assert_eq!((variable.size, variable.align), (size, align), "{text}");
        assert_eq!(variable.init, init, "{text}");
        assert_eq!(variable.unsized_array, text.contains("a[];"), "{text}");
    }
}

#[test]
fn positions_in_the_source() {
    let module = module(
        ".file 1 \"a.cu\", 1700000000, 123\n.file 2 \"b.h\"\n.visible .entry k()\n{\n\
         ret;\n.loc 1 20 5\nret;\n.loc\t2 30 7, function_name $L__info_string0, inlined_at 1 21 3\n\
         ret;\n}\n.section .debug_str\n{\n$L__info_string0:\n.b8 95,0\n}\n",
    );
    assert_eq!(module.files[&1], "a.cu");
    assert_eq!(module.files[&2], "b.h");
    let body = module.functions[0].body.as_ref().unwrap();
    let locs: Vec<_> = body.instructions.iter().map(|i| i.loc).collect();
    assert_eq!(locs[0], None);
    assert_eq!(
        locs[1].map(|l| (l.file, l.line, l.column)),
        Some((1, 20, 5))
    );
    assert_eq!(
        locs[2].map(|l| (l.file, l.line, l.column)),
        Some((2, 30, 7))
    );
}

fn error(text: &str) -> ParseError {
    match parse(text) {
        Ok(_) => panic!("no error in:\n{text}"),
        Err(error) => error,
    }
}

#[test]
fn errors_say_where_and_what() {
    let in_kernel = |statement: &str| {
        format!("{HEAD}.visible .entry k()\n{{\n.reg .b32 %r<4>;\n  {statement}\n}}\n")
    };
    let cases: Vec<(String, &str)> = vec![
        (
            "".into(),
            "PTX line 1, column 1: met the end of the text, expected `.version`",
        ),
        (
            "\n  hello".into(),
            "PTX line 2, column 3: met `hello`, expected `.version`",
        ),
        (
            ".version 9.9\n.target sm_80".into(),
            "PTX line 1, column 10: PTX version 9.9 is newer than 9.0, the newest understood",
        ),
        (
            ".version 8.0\n.target sm_".into(),
            "PTX line 2, column 9: met `sm_`, expected a target such as `sm_80`",
        ),
        (
            ".version 8.0\n.target sm_80\n.address_size 32".into(),
            "PTX line 3, column 15: `.address_size 32` is not supported",
        ),
        (
            format!("{HEAD}.global .texref t;"),
            "PTX line 4, column 9: `.texref` is not supported",
        ),
        (
            format!("{HEAD}.global .f32 x = 1;"),
            "PTX line 4, column 18: met `1`, expected a floating-point value, as the variable's type asks",
        ),
        (
            format!("{HEAD}.global .b32 x[2] = {{1, 2, 3}};"),
            "PTX line 4, column 30: more than 2 elements in the initialiser of this array",
        ),
        (
            format!("{HEAD}.global .b32 x;\n.global .b32 x;"),
            "PTX line 5, column 14: `x` is already declared in this scope",
        ),
        (
            format!("{HEAD}/* never ends"),
            "PTX line 4, column 1: met a comment without end, expected `*/`",
        ),
        (
            format!("{HEAD}.pragma \"never ends"),
            "PTX line 4, column 9: met a string without end, expected `\"` on the same line",
        ),
        (
            in_kernel("mov.b32 %r1 %r2;"),
            "PTX line 7, column 15: met `%r2`, expected `,` or `;`",
        ),
        (
            in_kernel("mov.b32 %r1, %r9;"),
            "PTX line 7, column 16: `%r9` is not declared",
        ),
        (
            in_kernel("bra nowhere;"),
            "PTX line 7, column 7: `nowhere` is not declared",
        ),
        (
            in_kernel("ld.u32 %r1, [0f3F800000];"),
            "PTX line 7, column 16: met `0f3F800000`, expected an address",
        ),
        (
            in_kernel("mov.b32 %r1, 0x;"),
            "PTX line 7, column 16: bad number `0x`: a digit does not belong to it",
        ),
        (
            in_kernel("mov.b32 %r1, 19f;"),
            "PTX line 7, column 16: bad number `19f`: a digit does not belong to it",
        ),
        (
            in_kernel("mov.f32 %r1, 0f3F8;"),
            "PTX line 7, column 16: bad number `0f3F8`: `0f` takes exactly 8 hexadecimal digits",
        ),
        (
            in_kernel("mov.b32 %r1, 1/0;"),
            "PTX line 7, column 19: bad number `1 / 0`: division by zero",
        ),
        (
            in_kernel("mov.b32 %r1, é;"),
            "PTX line 7, column 16: met the character 'é', expected PTX",
        ),
        (
            in_kernel("/* é */ mov.b32 %r1, #;"),
            "PTX line 7, column 24: met the character '#', expected PTX",
        ),
        (
            in_kernel("L: L: ret;"),
            "PTX line 7, column 6: `L` is already declared in this scope",
        ),
        (
            in_kernel("{ ret;"),
            "PTX line 9, column 1: met the end of the text, expected an instruction, a declaration, a label or `}`",
        ),
        (
            in_kernel(".reg .b32 %x<4000000000>;"),
            "PTX line 7, column 27: more than 4194304 registers in a module",
        ),
        (
            in_kernel(&format!(
                "mov.b32 %r1, {}1{};",
                "(".repeat(500),
                ")".repeat(500)
            )),
            "PTX line 7, column 115: more than 100 levels of nesting",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(&text).to_string(), expected, "{text}");
    }
    let newer = error(&format!(
        ".version {}.{}\n",
        MAX_VERSION.0,
        MAX_VERSION.1 + 1
    ));
    assert!(matches!(newer.kind, ParseErrorKind::VersionTooNew { max, .. } if max == MAX_VERSION));
}

#[test]
fn a_file_of_nvcc() {
    let module = parse(include_str!("data/calls.ptx")).unwrap();
    assert_eq!((module.version, module.target), ((9, 0), 80));
    assert_eq!(module.files[&1], "calls.cu");
    let variable = |name: &str| module.variables.iter().find(|v| v.name == name).unwrap();
    assert!(variable("dynamic").unsized_array);
    assert_eq!(variable("dynamic").space, Space::Shared);
    assert_eq!(variable("weights").space, Space::Const);
    assert_eq!(variable("steps").init.len(), 3);
    assert_eq!(variable("scale").init, [Init::Bits(3.25f64.to_bits())]);
    let kernel = module
        .functions
        .iter()
        .find(|f| f.is_entry && f.body.is_some())
        .unwrap();
    assert_eq!(kernel.name, "_Z5callsPii");
    let body = kernel.body.as_ref().unwrap();
    assert_eq!(body.call_prototypes.len(), 1);
    let calls = body
        .instructions
        .iter()
        .filter(|i| i.opcode[0] == "call")
        .count();
    assert_eq!(calls, 3);
    assert!(
        body.instructions
            .iter()
            .all(|i| i.loc.is_some_and(|l| l.file == 1))
    );
}
