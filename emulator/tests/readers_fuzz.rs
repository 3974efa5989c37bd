//! Random, truncated and mutated input: the readers refuse it with an error, never
//! with a panic or without end.
//!
//! Each test draws cases for `PTX_EMULATOR_FUZZ_SECONDS` (20 if unset). A failure
//! prints its input; every case must end within [`CASE_LIMIT`].

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use ptx_emulator::exec::Module;
use ptx_emulator::image::{self, cubin, images};
use ptx_emulator::memory::AddressSpace;
use ptx_emulator::ptx;
use ptx_emulator::sass::Code;

const FAT_BINARIES: [&[u8]; 3] = [
    include_bytes!("data/images.zstd.fatbin"),
    include_bytes!("data/images.lz4.fatbin"),
    include_bytes!("data/images.none.fatbin"),
];
const PTX: &str = include_str!("data/calls.ptx");

/// Far beyond what the largest case takes on a busy machine.
const CASE_LIMIT: Duration = Duration::from_secs(20);

/// Draws cases until the time is up and runs each.
fn fuzz<S: Strategy>(strategy: S, run: impl Fn(&S::Value))
where
    S::Value: std::fmt::Debug + std::panic::RefUnwindSafe,
{
    let seconds = match std::env::var("PTX_EMULATOR_FUZZ_SECONDS") {
        Ok(text) => text
            .parse()
            .expect("PTX_EMULATOR_FUZZ_SECONDS is a number of seconds"),
        Err(_) => 20,
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut runner = TestRunner::default();
    let mut cases = 0u64;
    while Instant::now() < end {
        let case = strategy.new_tree(&mut runner).unwrap().current();
        let start = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&case)));
        let took = start.elapsed();
        assert!(outcome.is_ok(), "panicked on {case:?}");
        assert!(took < CASE_LIMIT, "took {took:?} on {case:?}");
        cases += 1;
    }
    println!("{cases} cases");
    assert!(cases > 0);
}

/// Words and characters of PTX, to be strung together at random.
fn token() -> impl Strategy<Value = String> {
    let words = select(vec![
        ".version 8.0\n",
        ".target sm_80\n",
        ".address_size 64\n",
        ".entry",
        ".func",
        ".visible",
        ".extern",
        ".global",
        ".shared",
        ".const",
        ".local",
        ".param",
        ".reg",
        ".align",
        ".b8",
        ".b32",
        ".u64",
        ".f32",
        ".pred",
        ".v4",
        ".loc",
        ".file",
        ".pragma",
        ".section",
        ".callprototype",
        ".calltargets",
        ".branchtargets",
        ".alias",
        ".maxntid",
        ".attribute",
        "mov",
        "ld",
        "call",
        "bra",
        "setp",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "<",
        ">",
        ",",
        ";",
        ":",
        "+",
        "-",
        "*",
        "/",
        "%",
        "!",
        "~",
        "|",
        "&",
        "?",
        "=",
        "@",
        "_",
        "%r",
        "%r1",
        "%tid.x",
        "WARP_SZ",
        "generic",
        "name",
        "$L",
        "0",
        "1",
        "0x7fffffffffffffff",
        "0xffffffffffffffffU",
        "4294967295",
        "1e400",
        "0f3F800000",
        "0d3FF0000000000000",
        "\"text\"",
        "//",
        "/*",
        "*/",
        "\n",
        " ",
        "\0",
        "é",
    ])
    .prop_map(str::to_string);
    prop_oneof![8 => words, 1 => "\\PC{0,6}", 1 => any::<u64>().prop_map(|n| n.to_string())]
}

/// One change of a text or file.
#[derive(Debug, Clone)]
enum Change {
    Cut(Index),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Insert(Index, Vec<u8>),
    Set(Index, Vec<u8>),
}

fn change(what: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    (what, place(), 1..200usize, 1..20usize, 0..16u8).prop_map(|(bytes, at, len, times, kind)| {
        match kind {
            0 => Change::Cut(at),
            1..4 => Change::Remove(at, len),
            4..6 => Change::Repeat(at, len, times),
            6..10 => Change::Insert(at, bytes),
            _ => Change::Set(at, bytes),
        }
    })
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    match change {
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Change::Remove(at, len) => {
            let at = at.index(bytes.len());
            let end = (at + len).min(bytes.len());
            bytes.drain(at..end);
        }
        Change::Repeat(at, len, times) => {
            let at = at.index(bytes.len());
            let end = (at + len).min(bytes.len());
            let piece = bytes[at..end].repeat(*times);
            bytes.splice(end..end, piece);
        }
        Change::Insert(at, new) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Set(at, new) => {
            let at = at.index(bytes.len());
            for (old, new) in bytes[at..].iter_mut().zip(new) {
                *old = *new;
            }
        }
    }
}

/// What every reader of PTX does with a text.
fn read_ptx(text: &str) {
    let target = ptx::target(text);
    if let Ok(module) = ptx::parse(text) {
        assert_eq!(target.map(|t| t.arch), Ok(module.target));
        for body in module.functions.iter().filter_map(|f| f.body.as_ref()) {
            assert!(
                body.labels
                    .values()
                    .all(|at| *at <= body.instructions.len())
            );
        }
    }
}

/// What every reader of images does with a file.
fn read_image(bytes: &[u8]) {
    let Ok(all) = images(bytes) else { return };
    for image in &all {
        let Ok(contents) = image.contents() else {
            continue;
        };
        if image.kind == image::Kind::Elf {
            let _ = cubin::kernels(&contents);
            let _ = Code::read(&contents);
            let _ = images(&contents);
        }
        let _ = image.text();
    }
}

#[test]
fn token_soup_is_refused_in_words() {
    let head = "\n.version 8.0\n.target sm_80\n.address_size 64\n";
    let openings = select(vec![
        "",
        head,
        "\n.version 8.0\n.target sm_80\n.entry k() {\n",
    ]);
    fuzz(
        (openings, vec(token(), 0..200), any::<bool>()),
        |(opening, tokens, spaced)| {
            let soup = tokens.join(if *spaced { " " } else { "" });
            read_ptx(&format!("{opening}{soup}"));
        },
    );
}

#[test]
fn mutated_ptx_is_refused_in_words() {
    let changes = vec(
        change(vec(token(), 1..5).prop_map(|t| t.concat().into_bytes())),
        1..4,
    );
    fuzz(changes, |changes| {
        let mut bytes = PTX.as_bytes().to_vec();
        for change in changes {
            apply(&mut bytes, change);
        }
        read_ptx(&String::from_utf8_lossy(&bytes));
    });
}

/// PTX whose instructions are of many kinds.
fn kernels() -> Vec<String> {
    let machine = images(include_bytes!("data/machine.fatbin")).unwrap();
    let of_image = |image: &image::Image| image.text().unwrap();
    let ptx = machine.iter().filter(|i| i.kind == image::Kind::Ptx);
    let forms = include_str!("coverage/forms.txt")
        .lines()
        .filter(|l| !l.starts_with('#') && !l.contains(['<', '$']));
    let all: Vec<&str> = forms.collect();
    let body = all.join("\n");
    ptx.map(of_image)
        .chain([
            PTX.to_string(),
            format!(
                ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p) {{
                 .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<12>; .reg .b64 %d<12>; .reg .b128 %q<6>;
                 .shared .align 16 .b8 room[256]; .local .b8 depot[64];
                 {body}\nEND: ret;\n}}\n"
            ),
        ])
        .collect()
}

#[test]
fn mutated_kernels_load_or_are_refused() {
    let texts = kernels();
    let case = (
        0..texts.len(),
        vec(
            change(vec(token(), 1..3).prop_map(|t| t.concat().into_bytes())),
            1..3,
        ),
        any::<Index>(),
        any::<Index>(),
    );
    fuzz(case, |(which, changes, one, other)| {
        // Lines change places with others' operands, so that much of it is still an instruction.
        let mut lines: Vec<String> = texts[*which].lines().map(str::to_string).collect();
        let (from, to) = (one.index(lines.len()), other.index(lines.len()));
        let operands = |line: &str| line.split_once(' ').map(|(_, o)| o.to_string());
        if let (Some(taken), Some((opcode, _))) = (
            operands(lines[from].trim()),
            lines[to].trim().split_once(' '),
        ) {
            lines[to] = format!("{opcode} {taken}");
        }
        let mut bytes = lines.join("\n").into_bytes();
        if which.is_multiple_of(2) {
            changes.iter().for_each(|change| apply(&mut bytes, change));
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(tree) = ptx::parse(&text) {
            let _ = Module::load(&tree, 90, &AddressSpace::new(), 0);
        }
    });
}

#[test]
fn mutated_images_are_refused_in_words() {
    let word = prop_oneof![
        vec(any::<u8>(), 1..5),
        any::<u64>().prop_map(|n| n.to_le_bytes().to_vec()),
        (0..9u32).prop_map(|n| (1u32 << (4 * n.min(7))).to_le_bytes().to_vec()),
        Just(vec![0xff; 8]),
    ];
    // Headers are few bytes among many, so half of the cases change one of their fields. A quarter
    // works on the decompressed cubin, which the fat binary's compression would hide.
    let case = (
        0..4usize,
        vec(change(word), 1..4),
        any::<Option<(Index, u64)>>(),
    );
    let all = images(FAT_BINARIES[0]).unwrap();
    let cubin = all[0].contents().unwrap();
    fuzz(case, |(which, changes, field)| {
        let mut bytes = FAT_BINARIES.get(*which).copied().unwrap_or(&cubin).to_vec();
        match field {
            Some((at, value)) => {
                let header = if *which < 3 { 16 + 0x40 } else { 0x40 };
                let tables = bytes.len() - 2400.min(bytes.len());
                // A cubin's section table lies at its end.
                let at = match at.index(header * 2) {
                    early if early < header || *which < 3 => early % header,
                    late => tables + (late * 37) % 2400.min(bytes.len() - 8),
                };
                let value = value.to_le_bytes();
                let len = [1, 2, 4, 8][value[7] as usize % 4];
                let end = (at + len).min(bytes.len());
                bytes[at..end].copy_from_slice(&value[..end - at]);
            }
            None => changes.iter().for_each(|change| apply(&mut bytes, change)),
        }
        read_image(&bytes);
    });
}
