//! GPU architectures and nvcc's flags for them.

use std::str::FromStr;

use super::BuildError;

/// The oldest compute capability served; its PTX lets the driver compile for
/// any newer GPU that has no machine code of its own.
const OLDEST: u32 = 80;

/// Marks, in a line of its own, a kernel whose source has a variant for Hopper and
/// newer (`__CUDA_ARCH__ >= 900`) and so wants PTX of compute_90 besides.
const HOPPER_MARK: &str = "// build: compute_90";

/// Compute capabilities to make machine code for, such as `90` or `90a`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archs(Vec<String>);

impl Default for Archs {
    /// One for each major: machine code also serves the later minors of its major.
    fn default() -> Self {
        Self(["80", "90", "100", "120"].map(String::from).to_vec())
    }
}

impl FromStr for Archs {
    type Err = BuildError;

    fn from_str(text: &str) -> Result<Self, BuildError> {
        let mut archs = Vec::new();
        for word in text.split(',').map(str::trim) {
            let digits = word.strip_suffix(['a', 'f']).unwrap_or(word);
            let valid = digits
                .parse::<u32>()
                .is_ok_and(|number| (OLDEST..1000).contains(&number));
            if !valid {
                return Err(BuildError::Arch(word.to_owned()));
            }
            if !archs.iter().any(|arch| arch == word) {
                archs.push(word.to_owned());
            }
        }
        Ok(Self(archs))
    }
}

impl Archs {
    /// nvcc's `-gencode` flags for a kernel of this source text.
    ///
    /// All machine code comes from PTX that the image carries: that of compute_80 as a rule, for Hopper and newer
    /// that of compute_90 where the source has a variant for them. So what was tested on the emulator, which executes
    /// that PTX, is what ptxas translated for every GPU; counts of machine instructions can be told from executed PTX
    /// instead of from PTX that merely came of the same source; and nvcc's front end, which takes longer than ptxas,
    /// runs once. What compute_90 and later could add without a variant (their headers' native bf16 arithmetic, for
    /// one) these kernels have no use for.
    pub fn flags(&self, source: &str) -> Vec<String> {
        let has_variant = source.lines().any(|line| line.trim() == HOPPER_MARK);
        let runs_variant = |arch: &str| {
            let number = arch.trim_end_matches(['a', 'f']).parse::<u32>();
            has_variant && number.is_ok_and(|number| number >= 90)
        };
        let mut flags = Vec::new();
        let mut add = |virtual_arch: &str, code: String| {
            flags.push("-gencode".to_owned());
            flags.push(format!("arch=compute_{virtual_arch},code={code}"));
        };
        for arch in &self.0 {
            let from = if runs_variant(arch) { "90" } else { "80" };
            add(from, format!("sm_{arch}"));
        }
        add("80", "compute_80".to_owned());
        if self.0.iter().any(|arch| runs_variant(arch)) {
            add("90", "compute_90".to_owned());
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(archs: &str, source: &str) -> Vec<String> {
        let archs: Archs = archs.parse().unwrap();
        archs
            .flags(source)
            .into_iter()
            .filter(|flag| flag != "-gencode")
            .collect()
    }

    #[test]
    fn every_list_ends_with_the_ptx_it_was_made_from() {
        let all = ["80", "90", "100", "120"].map(|a| format!("arch=compute_80,code=sm_{a}"));
        let mut expected = all.to_vec();
        expected.push("arch=compute_80,code=compute_80".to_owned());
        assert_eq!(codes("80,90,100,120", ""), expected);
        assert_eq!(Archs::default(), "80, 90, 100, 120,80".parse().unwrap());
        assert_eq!(
            codes("120", "").last().unwrap(),
            "arch=compute_80,code=compute_80"
        );
    }

    #[test]
    fn hopper_ptx_only_where_the_source_asks() {
        let marked = "// A kernel.\n// build: compute_90\n";
        let hopper = "arch=compute_90,code=compute_90".to_owned();
        assert!(codes("80,90", marked).contains(&hopper));
        assert!(codes("90a", marked).contains(&hopper));
        assert!(!codes("80", marked).contains(&hopper));
        assert!(!codes("80,90", "// says // build: compute_90 in passing").contains(&hopper));
        // Machine code then comes from it, for Hopper and newer.
        let made = |arch| codes("80,90a,120", marked).contains(&format!("arch={arch}"));
        assert!(made("compute_80,code=sm_80") && made("compute_90,code=sm_90a"));
        assert!(made("compute_90,code=sm_120"));
    }

    #[test]
    fn a_word_that_is_no_architecture_is_named() {
        for (list, wrong) in [
            ("80,sm_90", "sm_90"),
            ("75", "75"),
            ("", ""),
            ("80,", ""),
            ("8.0", "8.0"),
        ] {
            let text = list.parse::<Archs>().unwrap_err().to_string();
            assert!(text.contains(&format!("{wrong:?}")), "{list}: {text}");
        }
    }
}
