//! `ptx-emulator check`: a whole program, run with the emulator's library in place of libcuda.so.1.

use crate::Failure;
use crate::launch::checks;
use clap::Args;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// Options of `check`.
#[derive(Debug, Args)]
pub struct Options {
    /// Checks in force: all, none, names separated by commas, or -name to leave one out.
    #[arg(long, default_value = "all", allow_hyphen_values = true)]
    checks: String,
    /// Run the program this many times, each under another order of warps and blocks (seeds 0, 1, …); once in plain
    /// order without it.
    #[arg(long)]
    seeds: Option<u64>,
    /// The devices there are, separated by commas: a100, h100, l4, rtx4090.
    #[arg(long, default_value = "h100")]
    devices: String,
    /// Most warp instructions of a launch.
    #[arg(long)]
    budget: Option<u64>,
    /// The status to end with where the program's own is 0 and something was found.
    #[arg(long, default_value_t = 1)]
    error_exitcode: u8,
    /// Print one JSON object: the findings, each with how often and under which seeds it was made.
    #[arg(long)]
    json: bool,
    /// Folder with the emulator's libcuda.so.1; the one that was built beside this program, if left out.
    #[arg(long)]
    library: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// One kind of finding.
struct Finding {
    report: Value,
    times: usize,
    seeds: Vec<u64>,
}

/// Runs the program; the status to end with.
///
/// # Errors
/// Where the library or the program is not there.
pub fn run(options: &Options) -> Result<u8, Failure> {
    checks(&options.checks)?;
    let library = library(options.library.as_deref())?;
    let seeds: Vec<Option<u64>> = match options.seeds {
        None => vec![None],
        Some(0) => return Err("--seeds 0: at least one run is needed".into()),
        Some(count) => (0..count).map(Some).collect(),
    };
    let mut findings: Vec<Finding> = Vec::new();
    let mut failed = None;
    for &seed in &seeds {
        let (status, reports) = once(options, &library, seed)?;
        if !status.success() {
            failed.get_or_insert(status);
        }
        for report in reports {
            note(&mut findings, report, seed);
        }
    }
    summarise(options, &findings, seeds.len());
    Ok(match failed {
        Some(status) => code_of(status),
        None if findings.is_empty() => 0,
        None => options.error_exitcode,
    })
}

/// The program's status, or, where a signal ended it, what a shell says.
fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|s| 128 + s))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// One run: how it ended, and the reports of the emulator in it.
fn once(
    options: &Options,
    library: &Path,
    seed: Option<u64>,
) -> Result<(ExitStatus, Vec<Value>), Failure> {
    let reports = Reports::new()?;
    let mut paths = vec![library.to_path_buf()];
    if let Some(before) = std::env::var_os("LD_LIBRARY_PATH") {
        paths.extend(std::env::split_paths(&before));
    }
    let (program, arguments) = options.program.split_first().ok_or("no program to run")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LD_LIBRARY_PATH", std::env::join_paths(paths)?)
        .env("PTX_EMULATOR_CHECKS", &options.checks)
        .env("PTX_EMULATOR_DEVICES", &options.devices)
        .env("PTX_EMULATOR_REPORTS", &reports.path);
    if let Some(seed) = seed {
        command.env("PTX_EMULATOR_SEED", seed.to_string());
    }
    if let Some(budget) = options.budget {
        command.env("PTX_EMULATOR_BUDGET", budget.to_string());
    }
    let status = command
        .status()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    Ok((status, reports.read()?))
}

/// The file that a run's reports go to; gone with this.
struct Reports {
    path: PathBuf,
}

impl Reports {
    fn new() -> Result<Reports, Failure> {
        let name = format!("ptx-emulator-{}.jsonl", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, "").map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Reports { path })
    }

    fn read(&self) -> Result<Vec<Value>, Failure> {
        let text = std::fs::read_to_string(&self.path)?;
        Ok(text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        // Whoever cleans the folder gets it otherwise.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Adds a report to those like it: of the same kind at the same place.
fn note(findings: &mut Vec<Finding>, report: Value, seed: Option<u64>) {
    let place = |r: &Value| {
        let at = |name: &str| r[name].clone();
        let place = [
            at("kind"),
            at("kernel"),
            at("file"),
            at("line"),
            at("ptx_line"),
        ];
        if r["kernel"].is_null() {
            [
                at("kind"),
                at("text"),
                Value::Null,
                Value::Null,
                Value::Null,
            ]
        } else {
            place
        }
    };
    let same = findings
        .iter_mut()
        .find(|f| place(&f.report) == place(&report));
    let finding = match same {
        Some(finding) => finding,
        None => {
            findings.push(Finding {
                report,
                times: 0,
                seeds: Vec::new(),
            });
            let last = findings.len() - 1;
            &mut findings[last]
        }
    };
    finding.times += 1;
    if let Some(seed) = seed
        && finding.seeds.last() != Some(&seed)
    {
        finding.seeds.push(seed);
    }
}

fn summarise(options: &Options, findings: &[Finding], runs: usize) {
    let total: usize = findings.iter().map(|f| f.times).sum();
    if options.json {
        let list: Vec<Value> = findings
            .iter()
            .map(|f| {
                let mut report = f.report.clone();
                report["times"] = f.times.into();
                report["seeds"] = json!(f.seeds);
                report
            })
            .collect();
        println!(
            "{}",
            json!({ "runs": runs, "errors": total, "findings": list })
        );
        return;
    }
    for finding in findings {
        let text = finding.report["text"].as_str().unwrap_or_default();
        eprintln!("\n{}", text.trim_end());
        if runs > 1 {
            let seeds: Vec<String> = finding.seeds.iter().map(u64::to_string).collect();
            eprintln!(
                "   = {} times, under seeds {}",
                finding.times,
                seeds.join(", ")
            );
        }
    }
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    eprintln!(
        "\nERROR SUMMARY: {total} error{} of {} kind{} in {runs} run{}",
        plural(total),
        findings.len(),
        plural(findings.len()),
        plural(runs)
    );
}

/// The folder of the library to run with.
fn library(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let beside = own.parent().map(|folder| folder.join("emulated"));
    let folder = named.map(Path::to_path_buf).or(beside);
    match folder {
        Some(folder) if folder.join("libcuda.so.1").exists() => Ok(folder.canonicalize()?),
        Some(folder) => Err(format!(
            "no libcuda.so.1 in {}: build it (cargo build --release -p ptx-emulator) and name its folder with --library",
            folder.display()
        )
        .into()),
        None => Err("name the folder of the emulator's libcuda.so.1 with --library".into()),
    }
}
