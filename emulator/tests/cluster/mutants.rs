//! The broken versions of `kernels.cu`.

use ptx_emulator::check::Check;

/// Which kernel a mutant breaks, and the checks that may find it.
pub const MUTANTS: &[(u32, &str, &[Check])] = &[
    (1, "histogram", &[Check::SharedRace, Check::UninitMemory]),
    (2, "histogram", &[Check::Bounds]),
    (3, "histogram", &[Check::SharedRace]),
    (4, "ring", &[Check::SharedRace, Check::UninitMemory]),
    (5, "gather", &[Check::SharedRace, Check::UseAfterFree]),
    (6, "tell", &[Check::SharedRace, Check::UninitMemory]),
    (7, "bulk", &[Check::Bounds]),
    (8, "bulk", &[Check::AsyncCopy, Check::UninitMemory]),
    (9, "bulk", &[Check::AsyncCopy, Check::SharedRace]),
    (10, "bulk", &[Check::AsyncCopy]),
    (11, "bulk", &[Check::AsyncCopy]),
    (12, "bulk", &[Check::AsyncCopy]),
    (13, "push", &[Check::AsyncCopy]),
    (14, "push", &[Check::Bounds]),
    (
        15,
        "push",
        &[Check::AsyncCopy, Check::SharedRace, Check::UninitMemory],
    ),
    (16, "pool", &[Check::AsyncCopy]),
    (17, "pool", &[Check::SharedRace]),
    (18, "pool", &[Check::AsyncCopy]),
    (19, "pool", &[Check::AsyncCopy, Check::SharedRace]),
];
