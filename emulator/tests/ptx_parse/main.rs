//! The PTX reader: snippets against expected trees, errors with their places, files of nvcc.

mod errors;
mod operands;

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

#[test]
fn a_file_of_nvcc() {
    let module = parse(include_str!("../data/calls.ptx")).unwrap();
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
