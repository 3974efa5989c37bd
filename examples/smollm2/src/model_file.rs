//! Where the model's file lies.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

/// `given`, or else the one GGUF file that `cargo xtask demo` fetched into the workspace's `.toolchain/model`.
///
/// # Errors
/// Where the file given does not exist, or none or several were fetched.
pub fn find(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(file) = given {
        ensure!(file.is_file(), "there is no model file {}", file.display());
        return Ok(file);
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = here.ancestors().nth(2).unwrap_or(here);
    only_gguf_in(&workspace.join(".toolchain/model"))
}

/// The GGUF file in `folder` or in one of its folders: it is fetched as part of a package.
fn only_gguf_in(folder: &Path) -> Result<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect()
    };
    let near = entries(folder);
    let deeper: Vec<PathBuf> = near.iter().flat_map(|path| entries(path)).collect();
    let mut files: Vec<PathBuf> = near
        .into_iter()
        .chain(deeper)
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "gguf")
        })
        .collect();
    files.sort();
    match files.as_slice() {
        [file] => Ok(file.clone()),
        [] => bail!(
            "no model in {}: `cargo xtask demo` fetches it, or name one with --model or KV_MODEL",
            folder.display()
        ),
        several => bail!(
            "{} models in {}: name one with --model or KV_MODEL",
            several.len(),
            folder.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_model_is_found() {
        let folder = std::env::temp_dir().join(format!("kv-generate-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let none = only_gguf_in(&folder).unwrap_err().to_string();
        assert!(none.contains("cargo xtask demo"), "{none}");

        fs::write(folder.join("notes.txt"), "").unwrap();
        fs::write(folder.join("a.gguf"), "").unwrap();
        assert_eq!(only_gguf_in(&folder).unwrap(), folder.join("a.gguf"));
        assert_eq!(
            find(Some(folder.join("a.gguf"))).unwrap(),
            folder.join("a.gguf")
        );
        assert!(find(Some(folder.join("b.gguf"))).is_err());

        fs::create_dir(folder.join("package")).unwrap();
        fs::write(folder.join("package/b.gguf"), "").unwrap();
        let several = only_gguf_in(&folder).unwrap_err().to_string();
        assert!(several.starts_with("2 models in"), "{several}");
        fs::remove_file(folder.join("a.gguf")).unwrap();
        assert_eq!(
            only_gguf_in(&folder).unwrap(),
            folder.join("package/b.gguf")
        );
        fs::remove_dir_all(folder).unwrap();
    }
}
