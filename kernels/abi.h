/* What the kernels and the Rust crate agree on: parameter structs and limits, in
 * plain C. Rust sees it through src/abi.rs, which `cargo xtask abi` writes. */
#ifndef KV_ABI_H
#define KV_ABI_H

#include <stdint.h>

#endif
