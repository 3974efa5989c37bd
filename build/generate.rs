//! Writes `kernels.rs`: the images and ptxas's figures, as the crate includes them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::BuildError;
use super::compile::{self, Module};

/// Writes `kernels.rs` to `out_dir`: for each source a `pub static` byte slice in
/// capitals (empty where it has no module), and `RESOURCES`, the figures.
pub fn write(out_dir: &Path, sources: &[PathBuf], modules: &[Module]) -> Result<(), BuildError> {
    let path = out_dir.join("kernels.rs");
    let text = text(sources, modules);
    // Unchanged stays untouched: the crate need not be compiled again for it.
    if fs::read_to_string(&path).is_ok_and(|earlier| earlier == text) {
        return Ok(());
    }
    fs::write(&path, text).map_err(BuildError::file(&path))
}

fn text(sources: &[PathBuf], modules: &[Module]) -> String {
    let mut text = String::new();
    for source in sources {
        let name = compile::name(source);
        let image = if modules.iter().any(|module| module.source == *source) {
            format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.fatbin\"))")
        } else {
            "&[]".to_owned()
        };
        let _ = writeln!(text, "/// The fatbin of `{}`.", source.display());
        let _ = writeln!(
            text,
            "pub static {}: &[u8] = {image};\n",
            name.to_uppercase()
        );
    }
    text.push_str("/// What ptxas said of every kernel on every architecture built for.\n");
    text.push_str("pub static RESOURCES: &[Resources] = &[\n");
    for module in modules {
        for usage in &module.usages {
            let _ = writeln!(
                text,
                "    Resources {{ module: {:?}, kernel: {:?}, arch: {:?}, registers: {}, stack_bytes: {}, \
                 spill_store_bytes: {}, spill_load_bytes: {}, shared_bytes: {} }},",
                compile::name(&module.source),
                usage.kernel,
                usage.arch,
                usage.registers,
                usage.stack_bytes,
                usage.spill_store_bytes,
                usage.spill_load_bytes,
                usage.shared_bytes,
            );
        }
    }
    text.push_str("];\n");
    text
}

#[cfg(test)]
mod tests {
    use super::super::ptxas::Usage;
    use super::*;

    #[test]
    fn an_image_a_source_and_a_row_a_kernel() {
        let sources = ["kernels/append.cu", "kernels/decode.cu"].map(PathBuf::from);
        let usage = Usage {
            kernel: "kv_append".into(),
            arch: "80".into(),
            registers: 24,
            ..Usage::default()
        };
        let append = Module {
            source: sources[0].clone(),
            compiled: true,
            usages: vec![usage],
            warnings: Vec::new(),
        };
        let text = text(&sources, &[append]);
        assert!(
            text.contains("pub static APPEND: &[u8] = include_bytes!"),
            "{text}"
        );
        assert!(text.contains("pub static DECODE: &[u8] = &[];"), "{text}");
        assert!(
            text.contains("kernel: \"kv_append\", arch: \"80\", registers: 24,"),
            "{text}"
        );
    }
}
