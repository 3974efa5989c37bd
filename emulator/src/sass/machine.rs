//! The machine code that lies beside a module's PTX, read when somebody first counts by it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::{Code, Executed, SassError};
use crate::image::cubin::{self, Kernel};
use crate::image::{Image, Kind, Reach};

/// The machine code of a module, for one architecture or several.
#[derive(Debug, Default)]
pub struct MachineCode {
    /// Bytes as the file has them: most programs never ask, so nothing is decompressed or decoded before.
    images: Vec<Image<'static>>,
    /// Parallel to `images`.
    read: OnceLock<Vec<Result<Part, SassError>>>,
}

/// One cubin, read.
#[derive(Debug)]
struct Part {
    code: Code,
    kernels: BTreeMap<String, Kernel>,
}

impl MachineCode {
    /// The machine code among a module's images.
    pub fn of(images: &[Image<'_>]) -> MachineCode {
        MachineCode {
            images: images
                .iter()
                .filter(|image| image.kind == Kind::Elf)
                .map(|image| image.clone().into_owned())
                .collect(),
            read: OnceLock::new(),
        }
    }

    fn parts(&self) -> &[Result<Part, SassError>] {
        self.read
            .get_or_init(|| self.images.iter().map(Part::read).collect())
    }

    /// What a launch of `kernel` issued of each architecture's machine code, by architecture (`sm_80`, `sm_90`, …):
    /// what [`Weights::to_json`](super::Weights::to_json) gives, with `registers` and `stack_bytes` a thread as ptxas
    /// allotted them; or `unavailable` and the reason. Machine code of another PTX than the one executed is such a
    /// reason.
    pub fn weigh(&self, kernel: &str, executed: &Executed) -> Value {
        if self.images.is_empty() {
            return json!({ "unavailable": "the module holds no machine code" });
        }
        let mut all = Map::new();
        for (image, part) in self.images.iter().zip(self.parts()) {
            let weighed = part.as_ref().map_err(Clone::clone);
            let weighed = weighed.and_then(|part| part.weigh(kernel, executed));
            let json = weighed.unwrap_or_else(|why| json!({ "unavailable": why.to_string() }));
            all.entry(name(image)).or_insert(json);
        }
        all.into()
    }
}

impl Part {
    fn read(image: &Image<'_>) -> Result<Part, SassError> {
        let bytes = image.contents()?;
        let kernels = cubin::kernels(&bytes)?.into_iter();
        Ok(Part {
            code: Code::read(&bytes)?,
            kernels: kernels.map(|k| (k.name.clone(), k)).collect(),
        })
    }

    fn weigh(&self, kernel: &str, executed: &Executed) -> Result<Value, SassError> {
        let mut json = self.code.weigh(executed)?.to_json();
        if let Some(kernel) = self.kernels.get(kernel) {
            json["registers"] = kernel.registers.into();
            json["stack_bytes"] = kernel.stack_bytes.into();
        }
        Ok(json)
    }
}

/// The architecture as ptxas calls it.
fn name(image: &Image<'_>) -> String {
    let suffix = match image.reach {
        Reach::Base => "",
        Reach::Family => "f",
        Reach::Exact => "a",
    };
    format!("sm_{}{suffix}", image.arch)
}
