//! What ptxas said of the kernels, and that the names the host asks for are those there are.

use std::collections::BTreeSet;

use kv_kernels::Kernel;
use kv_kernels::embedded::RESOURCES;

#[test]
fn nothing_spills_and_blocks_find_room() {
    for resources in RESOURCES {
        assert_eq!(
            (resources.spill_store_bytes, resources.spill_load_bytes),
            (0, 0),
            "{resources:?}"
        );
        assert_eq!(resources.stack_bytes, 0, "{resources:?}");
        // Three blocks of 128 threads on the 64 Ki registers of an SM.
        assert!(resources.registers <= 168, "{resources:?}");
    }
}

#[test]
fn every_kernel_of_the_host_is_in_the_image_and_none_besides() {
    let built: BTreeSet<&str> = RESOURCES.iter().map(|resources| resources.kernel).collect();
    let known: BTreeSet<String> = Kernel::all().map(|kernel| kernel.to_string()).collect();
    assert_eq!(built, known.iter().map(String::as_str).collect());
}
