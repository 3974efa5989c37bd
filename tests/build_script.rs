//! The build script: its parts' own tests, and real runs of nvcc over small kernels.

#[path = "../build/mod.rs"]
mod kernels;

use std::env;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kernels::arch::Archs;
use kernels::compile::{self, Compiler, Module, Request};
use kernels::{BuildError, generate, toolchain, variants};

/// A package of three kernels: `a` and `b` include `shared.cuh`, `c` does not.
struct Package {
    root: tempfile::TempDir,
    compiler: Compiler,
    archs: Archs,
}

impl Package {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("kernels")).unwrap();
        fs::create_dir(root.path().join("out")).unwrap();
        let nvcc = toolchain::find_nvcc(
            env::var_os("NVCC").map(PathBuf::from),
            Path::new(env!("CARGO_MANIFEST_DIR")),
            env::var_os("PATH").as_deref(),
        );
        let package = Self {
            root,
            compiler: Compiler {
                nvcc: nvcc.unwrap(),
                args: Vec::new(),
                version: "1".to_owned(),
            },
            archs: "80".parse().unwrap(),
        };
        package.write("shared.cuh", "#define VALUE 1\n");
        for name in ["a", "b"] {
            package.write(
                &format!("{name}.cu"),
                &source(name, "#include \"shared.cuh\"", "VALUE"),
            );
        }
        package.write("c.cu", &source("c", "", "3"));
        package
    }

    /// Writes a kernel file, dated before the build that follows, as an editor's
    /// save is.
    fn write(&self, name: &str, text: &str) {
        let path = self.root.path().join("kernels").join(name);
        fs::write(&path, text).unwrap();
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_millis(5))
            .unwrap();
    }

    fn build(&self) -> Result<Vec<Module>, BuildError> {
        let root = self.root.path();
        let sources = compile::sources(root, "kernels")?;
        let modules = compile::all(&Request {
            root,
            sources: &sources,
            out_dir: &root.join("out"),
            compiler: &self.compiler,
            archs: &self.archs,
            jobs: NonZeroUsize::new(2).unwrap(),
        })?;
        generate::write(&root.join("out"), &sources, &modules)?;
        Ok(modules)
    }

    /// Builds and lists what nvcc ran for.
    fn compiled(&self) -> Vec<String> {
        let modules = self.build().unwrap().into_iter();
        modules
            .filter(|module| module.compiled)
            .map(|module| compile::name(&module.source))
            .collect()
    }
}

fn source(name: &str, include: &str, value: &str) -> String {
    format!("{include}\nextern \"C\" __global__ void kv_{name}(int* out) {{ *out = {value}; }}\n")
}

#[test]
fn a_change_compiles_its_users_and_nothing_else() {
    let mut package = Package::new();
    assert_eq!(package.compiled(), ["a", "b", "c"]);
    assert!(package.compiled().is_empty(), "nothing changed");

    package.write("shared.cuh", "#define VALUE 1\n");
    assert_eq!(package.compiled(), ["a", "b"], "a header was touched");
    package.write("c.cu", &source("c", "", "4"));
    assert_eq!(package.compiled(), ["c"], "a kernel changed");
    package.write("NOTES.md", "text");
    assert!(package.compiled().is_empty(), "notes are no source");

    package.write("d.cu", &source("d", "#include \"shared.cuh\"", "VALUE"));
    assert_eq!(package.compiled(), ["d"], "a kernel was added");
    fs::remove_file(package.root.path().join("out/b.fatbin")).unwrap();
    assert_eq!(package.compiled(), ["b"], "an image was lost");

    package.compiler.version = "2".to_owned();
    assert_eq!(
        package.compiled(),
        ["a", "b", "c", "d"],
        "the compiler changed"
    );
    package.archs = "90".parse().unwrap();
    assert_eq!(
        package.compiled(),
        ["a", "b", "c", "d"],
        "the architectures changed"
    );
}

#[test]
fn the_output_names_images_and_figures() {
    let package = Package::new();
    let modules = package.build().unwrap();
    for (module, name) in modules.iter().zip(["a", "b", "c"]) {
        assert_eq!(module.usages.len(), 1, "{name}");
        assert_eq!(module.usages[0].kernel, format!("kv_{name}"));
        assert_eq!(module.usages[0].arch, "80");
        assert!(module.usages[0].registers > 0);
        let image = fs::read(
            package
                .root
                .path()
                .join("out")
                .join(name)
                .with_extension("fatbin"),
        );
        // The magic number of a fatbin.
        assert_eq!(image.unwrap()[..4], 0xba55_ed50_u32.to_le_bytes());
    }
    let generated = fs::read_to_string(package.root.path().join("out/kernels.rs")).unwrap();
    assert!(generated.contains("pub static C: &[u8]"), "{generated}");
}

#[test]
fn a_mistake_is_told_in_the_compilers_words_and_mended_by_its_correction() {
    let package = Package::new();
    package.build().unwrap();
    package.write("shared.cuh", "#define VALUE absent\n");
    let text = package.build().map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("could not compile kernels/a.cu"), "{text}");
    assert!(text.contains("\"absent\" is undefined"), "{text}");
    package.write("shared.cuh", "#define VALUE 5\n");
    assert_eq!(package.compiled(), ["a", "b"]);
}

#[test]
fn warnings_reach_the_user() {
    let package = Package::new();
    package.write("c.cu", &source("c", "", "3; int unused"));
    let modules = package.build().unwrap();
    assert!(
        modules[2]
            .warnings
            .iter()
            .any(|line| line.contains("unused")),
        "{:?}",
        modules[2].warnings
    );
}

/// A package with this one's build script and kernels, built by cargo where there
/// is no nvcc: what the user sees are the three lines.
#[test]
fn cargo_build_without_nvcc_says_the_three_lines() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["build", "kernels", "src"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    for folder in ["build", "kernels"] {
        for entry in fs::read_dir(repository.join(folder)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), root.join(folder).join(entry.file_name())).unwrap();
        }
    }
    for file in ["build.rs", "Cargo.lock"] {
        fs::copy(repository.join(file), root.join(file)).unwrap();
    }
    fs::write(root.join("src/lib.rs"), "").unwrap();
    let manifest = "[package]\nname = \"kv-kernels\"\nedition = \"2024\"\n\
                    [build-dependencies]\ncc = \"1\"\n[workspace]\n";
    fs::write(root.join("Cargo.toml"), manifest).unwrap();

    let path = env::var_os("PATH").unwrap();
    let without_nvcc = env::split_paths(&path).filter(|folder| !folder.join("nvcc").is_file());
    let output = std::process::Command::new(env!("CARGO"))
        // From what this test's own build fetched.
        .args(["build", "--offline", "--target-dir"])
        .arg(root.join("target"))
        .current_dir(root)
        .env_remove("NVCC")
        .env_remove("DOCS_RS")
        .env("PATH", env::join_paths(without_nvcc).unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    let errors: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("error: kv-kernels@0.0.0: "))
        .collect();
    assert_eq!(
        errors,
        toolchain::NO_NVCC.lines().collect::<Vec<_>>(),
        "{text}"
    );
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn the_table_of_variants_becomes_constants() {
    let folder = tempfile::tempdir().expect("a folder");
    variants::write(folder.path(), Path::new("kernels/variants.h")).expect("a table");
    let written = fs::read_to_string(folder.path().join("variants.rs")).expect("a file");
    for &head_dim in kv_kernels::HEAD_DIMS {
        assert!(written.contains(&format!("({head_dim}, 8)")), "{written}");
    }
    let empty = folder.path().join("empty.h");
    fs::write(&empty, "#define HEAD_DIM(x) x\n").expect("a file");
    let error = variants::write(folder.path(), &empty).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: no lines HEAD_DIM(n) and VARIANT(n, n)",
            empty.display()
        )
    );
}
