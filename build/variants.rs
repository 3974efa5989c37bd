//! What the kernels are built for, read from the table that they expand.

use std::fs;
use std::path::Path;

use super::BuildError;

/// Writes `variants.rs` to `out_dir`: `HEAD_DIMS`, and `DECODE_VARIANTS` by head dimension and query rows of a block.
pub fn write(out_dir: &Path, table: &Path) -> Result<(), BuildError> {
    let text = fs::read_to_string(table).map_err(BuildError::file(table))?;
    let path = out_dir.join("variants.rs");
    let code = code(&text).ok_or_else(|| BuildError::Variants(table.to_owned()))?;
    if fs::read_to_string(&path).is_ok_and(|earlier| earlier == code) {
        return Ok(());
    }
    fs::write(&path, code).map_err(BuildError::file(&path))
}

/// The table's lines as Rust; `None` where there are none.
fn code(text: &str) -> Option<String> {
    let head_dims = lines(text, "HEAD_DIM(")?;
    let decode: Vec<String> = lines(text, "VARIANT(")?
        .into_iter()
        .map(|numbers| format!("({numbers})"))
        .collect();
    Some(format!(
        "/// Head dimensions the kernels are built for.\n\
         pub const HEAD_DIMS: &[usize] = &[{}];\n\n\
         /// Decode kernels of each element type: head dimension, query rows of a block.\n\
         pub const DECODE_VARIANTS: &[(u32, u32)] = &[{}];\n",
        head_dims.join(", "),
        decode.join(", ")
    ))
}

/// What stands between the brackets in lines of a macro's table. The line that defines the macro is none.
fn lines(text: &str, entry: &str) -> Option<Vec<String>> {
    let entries: Vec<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(entry)?.split_once(')'))
        .map(|(numbers, _)| numbers.to_owned())
        .collect();
    let is_number = |text: &str| text.trim().parse::<u32>().is_ok();
    let all_numbers = entries.iter().all(|e| e.split(',').all(is_number));
    (all_numbers && !entries.is_empty()).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_becomes_constants() {
        let text = "#define DIMS(HEAD_DIM) \\\n    HEAD_DIM(64) \\\n    HEAD_DIM(80)\n\n\
                    #define ALL(VARIANT) \\\n    VARIANT(64, 8)  \\\n    VARIANT(80, 16)\n";
        let code = code(text).expect("a table");
        assert!(code.contains("HEAD_DIMS: &[usize] = &[64, 80];"), "{code}");
        assert!(code.contains("= &[(64, 8), (80, 16)];"), "{code}");
    }

    #[test]
    fn no_table_is_an_error() {
        assert_eq!(code("#define HEAD_DIM(x) x\n"), None);
        assert_eq!(code("HEAD_DIM(64)\nVARIANT(64, eight)\n"), None);
    }
}
