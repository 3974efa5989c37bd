//! What the emulator covers, counted: forms of instructions from `forms.txt` that load, driver calls that work, checks,
//! mutants. The table in the README is compared with the counts; `PTX_EMULATOR_BLESS=1` writes it anew.

#[path = "../cluster/mutants.rs"]
mod cluster;
#[path = "../mutants/list.rs"]
mod mutants;

use ptx_emulator::check::Checks;
use ptx_emulator::exec::{LoadError, Module};
use ptx_emulator::memory::AddressSpace;
use ptx_emulator::ptx;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

/// The texts that a template stands for: each `<a|b>` is one of its parts, and where a part ends in `:x`, `$1` means
/// register 1 of kind x.
fn expand(template: &str) -> Vec<String> {
    let mut done: Vec<(String, &str)> = vec![(String::new(), "r")];
    let mut rest = template;
    while let Some((before, (inside, after))) = rest
        .split_once('<')
        .and_then(|(before, more)| Some((before, more.split_once('>')?)))
    {
        done = done
            .iter()
            .flat_map(|(text, kind)| {
                inside.split('|').map(move |choice| {
                    let (part, kind) = match choice.rsplit_once(':') {
                        Some((part, register)) if matches!(register, "p" | "h" | "r" | "d") => {
                            (part, register)
                        }
                        _ => (choice, *kind),
                    };
                    (format!("{text}{before}{part}"), kind)
                })
            })
            .collect();
        rest = after;
    }
    done.into_iter()
        .map(|(text, kind)| format!("{text}{rest}").replace('$', &format!("%{kind}")))
        .collect()
}

enum Answer {
    Executed,
    Refused,
}

/// Whether a kernel of that one instruction loads.
fn ask(instruction: &str) -> Result<Answer, String> {
    let text = format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k() {{
         .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<12>; .reg .b64 %d<12>; .reg .b128 %q<6>;
         {instruction}\nEND: ret;\n}}\n"
    );
    let tree = ptx::parse(&text).map_err(|e| format!("{instruction} {e}"))?;
    match Module::load(&tree, 90, &AddressSpace::new(), 0) {
        Ok(_) => Ok(Answer::Executed),
        Err(LoadError::Unsupported { .. }) => Ok(Answer::Refused),
        Err(other) => Err(format!("{instruction} {other}")),
    }
}

#[derive(Default)]
struct Family {
    name: String,
    opcodes: BTreeSet<String>,
    executed: usize,
    refused: BTreeSet<String>,
    refused_forms: usize,
}

fn families() -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let mut wrong = Vec::new();
    for line in include_str!("forms.txt").lines() {
        if let Some(name) = line.strip_prefix("# ") {
            families.push(Family {
                name: name.into(),
                ..Family::default()
            });
            continue;
        }
        let Some(family) = families.last_mut() else {
            continue;
        };
        for form in expand(line) {
            let spelled = form.split([' ', ';']).next().unwrap_or_default();
            let opcode = spelled.split('.').next().unwrap_or_default().to_string();
            match ask(&form) {
                Ok(Answer::Executed) => {
                    family.executed += 1;
                    family.opcodes.insert(opcode);
                }
                Ok(Answer::Refused) => {
                    family.refused_forms += 1;
                    family.refused.insert(opcode);
                }
                Err(error) => wrong.push(error),
            }
        }
    }
    assert!(wrong.is_empty(), "no PTX:\n{}", wrong.join("\n"));
    families
}

/// The rows of the README's table.
fn table() -> String {
    let mut out = String::from("| forms tried | executed | refused by name |\n|---|---|---|\n");
    // Writing to a string cannot fail.
    let (mut executed, mut refused) = (0, 0);
    for family in families() {
        executed += family.executed;
        refused += family.refused_forms;
        let _ = writeln!(
            out,
            "| {} | {} | {} |",
            family.name,
            match (family.executed, family.opcodes.len()) {
                (0, _) => "none".to_string(),
                (forms, 1) => format!("{forms} forms of one opcode"),
                (forms, opcodes) => format!("{forms} forms of {opcodes} opcodes"),
            },
            match family.refused_forms {
                0 => "none".to_string(),
                n => {
                    let names: Vec<&str> = family.refused.iter().map(String::as_str).collect();
                    format!("{n} (`{}`)", names.join("`, `"))
                }
            }
        );
    }
    let _ = writeln!(out, "| together | {executed} forms | {refused} |");
    let tried = mutants::MUTANTS.len() + cluster::MUTANTS.len();
    let _ = writeln!(
        out,
        "\n{} checks. {tried} broken versions of sound kernels, and every one is reported.",
        Checks::ALL.count()
    );
    out
}

const BEGIN: &str = "<!-- counted by tests/coverage -->\n";
const END: &str = "<!-- end of what is counted -->\n";

#[test]
fn the_readme_has_the_counts() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme
        .split_once(BEGIN)
        .expect("the README marks the table");
    let (found, after) = rest
        .split_once(END)
        .expect("the README marks the table's end");
    let table = table();
    if std::env::var_os("PTX_EMULATOR_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert!(
        found == table,
        "the README's table is out of date (PTX_EMULATOR_BLESS=1 writes it):\n{table}"
    );
}
