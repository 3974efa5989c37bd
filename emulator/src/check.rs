//! What the emulator checks, and what it says when a check fails.

use std::fmt;

macro_rules! checks {
    ($($(#[doc = $doc:literal])* $bit:literal $id:ident $name:literal),* $(,)?) => {
        /// One strictness check.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Check {
            $($(#[doc = $doc])* $id = 1 << $bit,)*
        }

        impl Check {
            /// Every check there is.
            pub const ALL: &[Check] = &[$(Check::$id),*];

            /// Name as written in `PTX_EMULATOR_CHECKS`.
            pub fn name(self) -> &'static str {
                match self { $(Check::$id => $name),* }
            }
        }
    };
}

checks! {
    /// An access outside any allocation, the block's shared memory or the thread's local memory.
    0 Bounds "bounds",
    /// An address that is not a multiple of the access size.
    1 Alignment "alignment",
    /// An access to memory that was freed.
    2 UseAfterFree "use-after-free",
    /// A read of global, shared or local memory that nothing has written.
    3 UninitMemory "uninit-memory",
    /// A read of a register that no path to it has written.
    4 UninitRegister "uninit-register",
    /// Two threads of a block touch shared memory, one writing, with nothing ordering them.
    5 SharedRace "shared-race",
    /// Two threads of a launch touch global memory, one writing, with nothing ordering them.
    6 GlobalRace "global-race",
    /// A barrier that not every thread reaches, or that a divergent warp reaches.
    7 Barrier "barrier",
    /// A warp collective without all the lanes its mask names.
    8 WarpSync "warp-sync",
    /// An asynchronous copy whose result is touched before a wait made it land.
    9 AsyncCopy "async-copy",
    /// Allocations alive when their context goes.
    10 Leak "leak",
}

/// A set of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks(u32);

impl Checks {
    /// Every check.
    pub const ALL: Checks = Checks((1 << 11) - 1);
    /// No check (bounds of host memory are still never crossed: an access that would is a fault).
    pub const NONE: Checks = Checks(0);

    /// Whether `check` is on.
    #[inline(always)]
    pub fn has(self, check: Check) -> bool {
        self.0 & check as u32 != 0
    }

    /// How many are on.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// This set and `check`.
    #[must_use]
    pub fn with(self, check: Check) -> Checks {
        Checks(self.0 | check as u32)
    }

    /// This set without `check`.
    #[must_use]
    pub fn without(self, check: Check) -> Checks {
        Checks(self.0 & !(check as u32))
    }

    /// Parses `all`, `none`, or names separated by commas; a leading `-` takes one away from all.
    ///
    /// # Errors
    /// The first name that is not a check.
    pub fn parse(text: &str) -> Result<Checks, String> {
        let mut set = Checks::NONE;
        for (i, word) in text
            .split(',')
            .map(str::trim)
            .filter(|w| !w.is_empty())
            .enumerate()
        {
            match word {
                "all" => set = Checks::ALL,
                "none" => set = Checks::NONE,
                _ => {
                    let (name, remove) = match word.strip_prefix('-') {
                        Some(name) => (name, true),
                        None => (word, false),
                    };
                    let check = Check::ALL
                        .iter()
                        .find(|c| c.name() == name)
                        .ok_or_else(|| name.to_string())?;
                    if remove {
                        if i == 0 {
                            set = Checks::ALL;
                        }
                        set = set.without(*check);
                    } else {
                        set = set.with(*check);
                    }
                }
            }
        }
        Ok(set)
    }
}

/// What went wrong in a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A check failed.
    Check(Check),
    /// `trap`, or `brkpt`.
    Trap,
    /// `__assertfail` was called.
    Assert,
    /// No warp can go on: a barrier or wait that nothing will complete.
    Deadlock,
    /// The launch ran past its instruction budget.
    Budget,
    /// The kernel did what the machine cannot do (call through a null pointer, stack too deep).
    Illegal,
}

/// A fault of a launch, with where it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// The sentence: what was done, where in memory, how far outside.
    pub message: String,
    /// Kernel name as in PTX.
    pub kernel: String,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index of the first lane concerned.
    pub thread: [u32; 3],
    /// Lanes concerned.
    pub lanes: u32,
    /// Line in the PTX text.
    pub ptx_line: u32,
    /// The instruction, opcode and operands as nearly as kept.
    pub instruction: String,
    /// CUDA source file and line, where `-lineinfo` gave them.
    pub source: Option<(String, u32)>,
    /// Where the function of that line was inlined, outwards.
    pub inlined: Vec<(String, u32)>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FaultKind::Check(check) => check.name(),
            FaultKind::Trap => "trap",
            FaultKind::Assert => "assertion",
            FaultKind::Deadlock => "deadlock",
            FaultKind::Budget => "instruction budget",
            FaultKind::Illegal => "illegal instruction",
        };
        writeln!(f, "error[{what}]: {}", self.message)?;
        if let Some((file, line)) = &self.source {
            writeln!(f, "  --> {file}:{line}")?;
        }
        for (file, line) in &self.inlined {
            writeln!(f, "      inlined at {file}:{line}")?;
        }
        let [bx, by, bz] = self.block;
        let [tx, ty, tz] = self.thread;
        writeln!(
            f,
            "   = kernel {}, block ({bx},{by},{bz}), thread ({tx},{ty},{tz}), lanes {:#010x}",
            self.kernel, self.lanes
        )?;
        write!(f, "   = PTX line {}: {}", self.ptx_line, self.instruction)
    }
}

impl std::error::Error for Fault {}
