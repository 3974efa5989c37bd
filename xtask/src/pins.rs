//! The one file of versions and hashes, `xtask/toolchain.txt`.
//!
//! Its sections are pip requirements under a comment `# [name]`. A comment
//! `# file PATH sha256:HEX` names a file that a section's wheels must bring.

use anyhow::{Context, Result, bail};

const FILE: &str = include_str!("../toolchain.txt");

/// One section: wheels that go into one folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Pins {
    /// The section's name, and its folder's in `.toolchain/`.
    pub name: String,
    /// Requirement lines for `pip install --require-hashes`.
    pub requirements: String,
    /// Files to check once installed.
    pub files: Vec<PinnedFile>,
}

/// A file known by its hash.
#[derive(Debug, PartialEq, Eq)]
pub struct PinnedFile {
    /// Path in the section's folder.
    pub path: String,
    /// SHA-256, in lower-case hexadecimal.
    pub sha256: String,
}

/// The section of `xtask/toolchain.txt` of this name.
pub fn section(name: &str) -> Result<Pins> {
    let sections = parse(FILE).context("xtask/toolchain.txt")?;
    sections
        .into_iter()
        .find(|section| section.name == name)
        .with_context(|| format!("xtask/toolchain.txt has no section {name}"))
}

fn parse(text: &str) -> Result<Vec<Pins>> {
    let mut sections: Vec<Pins> = Vec::new();
    for (number, line) in text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
    {
        let section = line
            .strip_prefix("# [")
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(name) = section {
            let name = name.to_owned();
            sections.push(Pins {
                name,
                requirements: String::new(),
                files: Vec::new(),
            });
        } else if let Some(file) = line.strip_prefix("# file ") {
            let last = sections
                .last_mut()
                .with_context(|| format!("line {number}: outside a section"))?;
            let (path, sha256) = file
                .split_once(" sha256:")
                .with_context(|| format!("line {number}: not `# file PATH sha256:HEX`"))?;
            last.files.push(PinnedFile {
                path: path.to_owned(),
                sha256: sha256.to_owned(),
            });
        } else if !line.is_empty() && !line.starts_with('#') {
            let last = sections
                .last_mut()
                .with_context(|| format!("line {number}: outside a section"))?;
            if !line.contains("==") || !line.contains(" --hash=sha256:") {
                bail!("line {number}: {line:?} pins no version by hash");
            }
            last.requirements.push_str(line);
            last.requirements.push('\n');
        }
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_pinned_in_full() {
        for (name, wheels, files) in [
            ("nvcc", 5, 0),
            ("tools", 3, 0),
            ("model", 1, 1),
            ("clients", 4, 0),
        ] {
            let section = section(name).unwrap();
            assert_eq!(section.requirements.lines().count(), wheels, "{name}");
            assert_eq!(section.files.len(), files, "{name}");
            let hashes = section
                .requirements
                .lines()
                .flat_map(|line| line.split(" --hash=sha256:").skip(1));
            for hash in hashes.chain(section.files.iter().map(|file| &*file.sha256)) {
                assert_eq!(hash.len(), 64, "{hash}");
                assert!(
                    hash.bytes()
                        .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
                );
            }
        }
        assert!(section("absent").is_err());
    }

    #[test]
    fn a_line_without_hash_or_section_is_refused() {
        for (text, wrong) in [
            ("# [a]\nx==1\n", "line 2"),
            ("# [a]\nx --hash=sha256:00\n", "line 2"),
            ("x==1 --hash=sha256:00\n", "line 1"),
            ("# [a]\n\n# file x\n", "line 3"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(wrong), "{text:?}: {error}");
        }
    }
}
