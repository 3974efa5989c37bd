//! What ptxas says of each kernel under `-v`: registers, spills, memory.

/// A kernel's demands on one architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Name of the entry function.
    pub kernel: String,
    /// Compute capability without the dot, such as `80` or `90a`.
    pub arch: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of stack a thread.
    pub stack_bytes: u32,
    /// Bytes of spill stores a thread.
    pub spill_store_bytes: u32,
    /// Bytes of spill loads a thread.
    pub spill_load_bytes: u32,
    /// Bytes of static shared memory a block.
    pub shared_bytes: u32,
}

/// Splits nvcc's standard error into the figures and what remains: warnings, each
/// once though every architecture repeats it.
pub fn parse(output: &str) -> (Vec<Usage>, Vec<String>) {
    let mut usages: Vec<Usage> = Vec::new();
    let mut remainder = String::new();
    // Properties are printed for device functions too; only those that follow
    // an entry's own heading are the entry's.
    let mut of_entry = false;
    for line in output.lines() {
        let info = line
            .strip_prefix("ptxas info")
            .map(|rest| rest.trim_start_matches([' ', ':']));
        if let Some(entry) = info.and_then(|info| info.strip_prefix("Compiling entry function ")) {
            let mut quoted = entry.split('\'').skip(1).step_by(2);
            let kernel = quoted.next().unwrap_or_default().to_owned();
            let arch = quoted
                .next()
                .unwrap_or_default()
                .trim_start_matches("sm_")
                .to_owned();
            usages.push(Usage {
                kernel,
                arch,
                ..Usage::default()
            });
        } else if let Some(name) =
            info.and_then(|info| info.strip_prefix("Function properties for "))
        {
            of_entry = usages.last().is_some_and(|usage| usage.kernel == name);
        } else if let Some(info) = info {
            if let Some(usage) = usages.last_mut().filter(|_| info.starts_with("Used ")) {
                usage.registers = before(info, " registers").unwrap_or_default();
                usage.shared_bytes = before(info, " bytes smem").unwrap_or_default();
            }
        } else if line.starts_with(' ') && line.contains(" bytes stack frame") {
            if let Some(usage) = usages.last_mut().filter(|_| of_entry) {
                usage.stack_bytes = before(line, " bytes stack frame").unwrap_or_default();
                usage.spill_store_bytes = before(line, " bytes spill stores").unwrap_or_default();
                usage.spill_load_bytes = before(line, " bytes spill loads").unwrap_or_default();
            }
        } else {
            remainder.push_str(line);
            remainder.push('\n');
        }
    }
    let mut warnings: Vec<String> = Vec::new();
    // nvcc sets its diagnostics apart by empty lines.
    for block in remainder.split("\n\n").map(str::trim_end) {
        if !block.is_empty() && !warnings.iter().any(|warning| warning == block) {
            warnings.push(block.to_owned());
        }
    }
    (usages, warnings)
}

/// The number that stands before `unit`.
fn before(line: &str, unit: &str) -> Option<u32> {
    let (head, _) = line.split_once(unit)?;
    head.rsplit(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'kv_decode' for 'sm_80'
ptxas info    : Function properties for kv_decode
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 94 registers, used 1 barriers, 8 bytes cumulative stack size, 4096 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 66.702 ms
ptxas info    : Function properties for helper
    32 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
kernels/decode.cu(7): warning #177-D: variable \"x\" was declared but never referenced
      int x;
          ^

kernels/decode.cu(7): warning #177-D: variable \"x\" was declared but never referenced
      int x;
          ^

ptxas info    : Compiling entry function 'kv_decode' for 'sm_90a'
ptxas info    : Function properties for kv_decode
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 96 registers, used 0 barriers
";

    #[test]
    fn figures_and_warnings_are_told_apart() {
        let (usages, warnings) = parse(OUTPUT);
        let first = Usage {
            kernel: "kv_decode".to_owned(),
            arch: "80".to_owned(),
            registers: 94,
            stack_bytes: 8,
            spill_store_bytes: 16,
            spill_load_bytes: 24,
            shared_bytes: 4096,
        };
        let second = Usage {
            kernel: "kv_decode".to_owned(),
            arch: "90a".to_owned(),
            registers: 96,
            ..Usage::default()
        };
        assert_eq!(usages, [first, second]);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("never referenced"));
    }
}
