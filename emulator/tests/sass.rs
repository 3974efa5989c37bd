//! Machine code: decoding against nvdisasm's listing, and weights against counts by hand.

use std::collections::BTreeMap;

use ptx_emulator::exec::text;
use ptx_emulator::image::{images, select, select_machine_code};
use ptx_emulator::ptx::{self, ast};
use ptx_emulator::sass::{Basis, Code, Executed, Flow, Function, SassError, Weights};

const MACHINE: &[u8] = include_bytes!("data/machine.fatbin");

fn code(cc: (u32, u32)) -> Code {
    let all = images(MACHINE).unwrap();
    let elf = select_machine_code(&all, cc).unwrap().contents().unwrap();
    Code::read(&elf).unwrap()
}

fn module() -> ast::Module {
    let all = images(MACHINE).unwrap();
    ptx::parse(&select(&all, (8, 0)).unwrap().text().unwrap()).unwrap()
}

#[test]
fn decodes_as_nvdisasm_does() {
    let listings = [
        ((8, 0), include_str!("data/machine.sm_80.txt")),
        ((9, 0), include_str!("data/machine.sm_90.txt")),
    ];
    for (cc, listing) in listings {
        let mut ours = Vec::new();
        for function in code(cc).functions {
            for i in &function.instructions {
                let predicate = i.predicate.map_or("-".into(), |p| {
                    let register = match p.register {
                        7 => "T".into(),
                        n => n.to_string(),
                    };
                    format!("{}P{register}", if p.negated { "!" } else { "" })
                });
                let target = match i.flow {
                    Flow::Branch(to) | Flow::Call(to) | Flow::Converge(to) => format!("{to:x}"),
                    Flow::Divergence { target, .. } => format!("{target:x}"),
                    _ => "-".into(),
                };
                ours.push(format!(
                    "{} {:x} {} {predicate} {target}",
                    function.name, i.address, i.mnemonic
                ));
            }
        }
        let mut expected: Vec<_> = listing.lines().skip(1).collect();
        ours.sort();
        expected.sort();
        assert_eq!(ours, expected);
    }
}

#[test]
fn instructions_know_their_lines() {
    let code = code((8, 0));
    let ptx = code.ptx.as_ref().unwrap();
    let lines: Vec<_> = ptx.text.lines().collect();
    let pairs = [
        ("HMMA", "mma.sync"),
        ("LDSM", "ldmatrix"),
        ("LDGSTS", "cp.async.cg"),
        ("SHFL", "shfl.sync"),
        ("BAR", "bar.sync"),
        ("STG", "st.global"),
        ("POPC", "popc"),
    ];
    let mut met = 0;
    for i in code.functions.iter().flat_map(|f| &f.instructions) {
        let Some((_, ptx)) = pairs.iter().find(|(mnemonic, _)| *mnemonic == i.mnemonic) else {
            continue;
        };
        let line = lines[i.ptx_line.unwrap() as usize - 1];
        assert!(line.contains(ptx), "{} came from `{line}`", i.mnemonic);
        let source = i.source.as_ref().unwrap();
        assert!(source.line > 0 && source.file.contains('/'), "{source:?}");
        met += 1;
    }
    assert!(met > 20);
}

/// Counts of a function's instructions from those of its basic blocks, in order: a block
/// begins at a label and behind a branch.
fn by_blocks(module: &ast::Module, function: &str, counts: &[u64]) -> Vec<(String, u64)> {
    let named = module.functions.iter().filter(|f| f.name == function);
    let body = named.filter_map(|f| f.body.as_ref()).next().unwrap();
    let mut block = 0;
    let mut executed = Vec::new();
    for (i, instruction) in body.instructions.iter().enumerate() {
        let branched =
            i > 0 && matches!(body.instructions[i - 1].opcode[0].as_str(), "bra" | "ret");
        if i > 0 && (branched || body.labels.values().any(|at| *at == i)) {
            block += 1;
        }
        executed.push((text::instruction(instruction, body), counts[block]));
    }
    assert_eq!(block + 1, counts.len(), "blocks of {function}");
    executed
}

/// Weighs one kernel, with the functions it calls.
fn weigh(code: &Code, functions: &[(&str, &[u64])]) -> (Function, Weights) {
    let module = module();
    let mut executed = Executed::default();
    for (name, counts) in functions {
        let counts = by_blocks(&module, name, counts);
        executed.functions.insert((*name).into(), counts);
    }
    let weights = code.weigh(&executed).unwrap();
    let kernel = code.functions.iter().find(|f| f.name == functions[0].0);
    (kernel.unwrap().clone(), weights)
}

#[test]
fn a_loop_with_barriers_and_shuffles() {
    // 4 warps, 6 rounds; warp 0 stores in three of them.
    let blocks = [4, 0, 4, 24, 3, 24, 4, 0, 4];
    for (cc, total) in [
        // Before the loop 10 and 4 instructions, in it 26, behind it 2.
        ((8, 0), 4 * (10 + 4 + 2) + 24 * 26),
        ((9, 0), 4 * (9 + 12 + 4) + 24 * 26),
    ] {
        let (_, weights) = weigh(&code(cc), &[("rounds", &blocks)]);
        assert_eq!(weights.total, f64::from(total), "{cc:?} {weights:?}");
        let of = |mnemonic| weights.by_mnemonic[mnemonic];
        assert_eq!((of("BAR"), of("SHFL"), of("STS")), (48.0, 120.0, 24.0));
        // The store behind a condition is issued in every round, for no lanes in most.
        assert_eq!(of("STG"), 24.0 + 4.0);
    }
}

#[test]
fn a_loop_that_ptxas_unrolled_again() {
    // The PTX loop takes 4 elements a round; machine code takes 16 while more than 12 are
    // left, then 8 if more than 4 are, then 4 at a time; PTX leaves less than 4 to a last loop.
    let code = code((8, 0));
    for n in [16, 20, 24, 39, 100, 1023] {
        let (rounds, rest) = (n / 4, n % 4);
        let (sixteens, left) = (rounds / 4, rounds % 4);
        let (eights, fours) = (left / 2, left % 2);
        let last = u64::from(rest > 0);
        let warps = 2;
        let blocks = [1, 1, 1, rounds, 1, last, rest, 1].map(|count| count * warps);
        let (_, weights) = weigh(&code, &[("unrolled", &blocks)]);
        let expected = warps
            * (6 + 6
                + 7
                + 3
                + 1
                + 38 * sixteens
                + 2
                + 22 * eights
                + 2
                + 16 * fours
                + 2
                + 3 * last
                + 9 * rest
                + 6);
        let loads = warps * (4 * rounds + rest);
        assert_eq!(weights.by_mnemonic["LDG"], loads as f64, "n = {n}");
        assert_eq!(weights.total, expected as f64, "n = {n}: {weights:?}");
    }
}

#[test]
fn a_branch_for_each_warp() {
    // Five warps, one in each case of the switch.
    let blocks = [5, 2, 3, 2, 1, 1, 2, 1, 0, 1, 1, 1, 1, 5];
    let (_, weights) = weigh(&code((8, 0)), &[("branches", &blocks)]);
    let dispatch = 10 * 5 + 5 * 2 + 6 * 3 + 2;
    let cases = 7 + 6 + 6 + 8 + 12;
    let end = (1 + 2) * 5;
    assert_eq!(
        weights.total,
        f64::from(dispatch + cases + end),
        "{weights:?}"
    );
}

#[test]
fn tiles_and_a_call() {
    // One warp, 5 tiles; the last round copies nothing.
    let blocks = [1, 1, 5, 1, 4, 5, 1, 1, 1];
    let functions: [(&str, &[u64]); 2] = [("tiles", &blocks), ("_Z5totalf", &[1])];
    for (cc, total) in [
        ((8, 0), 16 + 4 + 5 * 24 + 8 + 4 + 13u32),
        ((9, 0), 22 + 5 + 5 * 25 + 7 + 3 + 13),
    ] {
        let (_, weights) = weigh(&code(cc), &functions);
        assert_eq!(weights.total, f64::from(total), "{cc:?} {weights:?}");
        let of = |mnemonic| weights.by_mnemonic[mnemonic];
        assert_eq!((of("HMMA"), of("LDSM"), of("SHFL")), (5.0, 5.0, 5.0));
        assert_eq!((of("LDGSTS"), of("LDGDEPBAR")), (6.0, 6.0));
        assert_eq!(weights.by_basis.get(&Basis::Assumed), None);
        let json = weights.to_json();
        assert_eq!(json["instructions"], total);
        assert_eq!(json["by_opcode"]["HMMA"], 5);
        assert!(json["by_basis"]["anchored"].as_u64().unwrap() > u64::from(total) / 2);
    }
}

#[test]
fn padding_weighs_nothing() {
    let (kernel, weights) = weigh(&code((8, 0)), &[("rounds", &[4, 0, 4, 24, 3, 24, 4, 0, 4])]);
    let index = code((8, 0))
        .functions
        .iter()
        .position(|f| f.name == "rounds");
    let blocks = &weights.functions[index.unwrap()];
    let (block, weight) = kernel.blocks.iter().zip(blocks).next_back().unwrap();
    assert!(!block.reachable);
    assert_eq!((weight.weight, weight.basis), (0.0, Basis::Nothing));
    let held: usize = kernel.blocks.iter().map(|b| b.len).sum();
    assert_eq!(held, kernel.instructions.len());
}

#[test]
fn what_cannot_be_weighed_is_said() {
    let code = code((8, 0));
    let counts = by_blocks(&module(), "rounds", &[4, 0, 4, 24, 3, 24, 4, 0, 4]);
    let (mut other, mut longer, mut shorter) = (counts.clone(), counts.clone(), counts);
    // The same opcode with another operand, an instruction more, one less.
    other[5].0 = other[5].0.replace("%r", "%s");
    assert!(other[5].0.contains("%s"), "{}", other[5].0);
    longer.push(("ret".into(), 0));
    shorter.pop();
    for counts in [other, longer, shorter] {
        let mut executed = Executed::default();
        executed.functions.insert("rounds".into(), counts);
        let error = code.weigh(&executed).unwrap_err();
        assert!(
            matches!(&error, SassError::OtherPtx { function, .. } if function == "rounds"),
            "{error}"
        );
    }
    let strange = BTreeMap::from([("missing".to_string(), vec![])]);
    let error = code.weigh(&Executed { functions: strange }).unwrap_err();
    assert!(error.to_string().contains("`missing` differs"), "{error}");

    let mut bare = code.clone();
    bare.ptx = None;
    assert_eq!(bare.weigh(&Executed::default()), Err(SassError::NoLines));

    let all = images(MACHINE).unwrap();
    let mut elf = select_machine_code(&all, (8, 0))
        .unwrap()
        .contents()
        .unwrap()
        .into_owned();
    elf[0x31] = 120;
    assert_eq!(Code::read(&elf), Err(SassError::Architecture { arch: 120 }));
    elf[0x31] = 80;
    assert!(matches!(Code::read(&elf[..1000]), Err(SassError::Image(_))));
}
