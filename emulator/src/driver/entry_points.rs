//! Finding entry points by name and version, and what else the API says about itself.

use super::api::{In, Out, Text, driver_calls, plain_name};
use super::error::{CuResult, Result, fail};
use super::exports;
use std::ffi::c_char;

/// Symbols whose plain name stands for several signatures: (plain name, first CUDA version, symbol),
/// the newest last. All others have one signature, under the highest `_v` there is.
const VERSIONS: &[(&str, i32, &str)] = &[
    ("cuCtxCreate", 3020, "cuCtxCreate_v2"),
    ("cuCtxCreate", 11040, "cuCtxCreate_v3"),
    ("cuCtxCreate", 12050, "cuCtxCreate_v4"),
    ("cuStreamGetCaptureInfo", 10010, "cuStreamGetCaptureInfo"),
    ("cuStreamGetCaptureInfo", 11030, "cuStreamGetCaptureInfo_v2"),
    ("cuStreamGetCaptureInfo", 12030, "cuStreamGetCaptureInfo_v3"),
    (
        "cuStreamUpdateCaptureDependencies",
        11030,
        "cuStreamUpdateCaptureDependencies",
    ),
    (
        "cuStreamUpdateCaptureDependencies",
        12030,
        "cuStreamUpdateCaptureDependencies_v2",
    ),
    ("cuGraphAddKernelNode", 10000, "cuGraphAddKernelNode"),
    ("cuGraphAddKernelNode", 12000, "cuGraphAddKernelNode_v2"),
    (
        "cuGraphKernelNodeGetParams",
        10000,
        "cuGraphKernelNodeGetParams",
    ),
    (
        "cuGraphKernelNodeGetParams",
        12000,
        "cuGraphKernelNodeGetParams_v2",
    ),
    (
        "cuGraphKernelNodeSetParams",
        10000,
        "cuGraphKernelNodeSetParams",
    ),
    (
        "cuGraphKernelNodeSetParams",
        12000,
        "cuGraphKernelNodeSetParams_v2",
    ),
    (
        "cuGraphExecKernelNodeSetParams",
        10010,
        "cuGraphExecKernelNodeSetParams",
    ),
    (
        "cuGraphExecKernelNodeSetParams",
        12000,
        "cuGraphExecKernelNodeSetParams_v2",
    ),
    ("cuGraphExecUpdate", 10020, "cuGraphExecUpdate"),
    ("cuGraphExecUpdate", 12000, "cuGraphExecUpdate_v2"),
    ("cuGraphInstantiate", 11000, "cuGraphInstantiate_v2"),
    ("cuGraphInstantiate", 12000, "cuGraphInstantiateWithFlags"),
    ("cuGraphGetEdges", 10000, "cuGraphGetEdges"),
    ("cuGraphGetEdges", 12030, "cuGraphGetEdges_v2"),
    (
        "cuGraphNodeGetDependencies",
        10000,
        "cuGraphNodeGetDependencies",
    ),
    (
        "cuGraphNodeGetDependencies",
        12030,
        "cuGraphNodeGetDependencies_v2",
    ),
    (
        "cuGraphNodeGetDependentNodes",
        10000,
        "cuGraphNodeGetDependentNodes",
    ),
    (
        "cuGraphNodeGetDependentNodes",
        12030,
        "cuGraphNodeGetDependentNodes_v2",
    ),
    ("cuGraphAddDependencies", 10000, "cuGraphAddDependencies"),
    ("cuGraphAddDependencies", 12030, "cuGraphAddDependencies_v2"),
    (
        "cuGraphRemoveDependencies",
        10000,
        "cuGraphRemoveDependencies",
    ),
    (
        "cuGraphRemoveDependencies",
        12030,
        "cuGraphRemoveDependencies_v2",
    ),
    ("cuGraphAddNode", 12020, "cuGraphAddNode"),
    ("cuGraphAddNode", 12030, "cuGraphAddNode_v2"),
    ("cuMemAdvise", 8000, "cuMemAdvise"),
    ("cuMemAdvise", 12020, "cuMemAdvise_v2"),
    ("cuMemPrefetchAsync", 8000, "cuMemPrefetchAsync"),
    ("cuMemPrefetchAsync", 12020, "cuMemPrefetchAsync_v2"),
    ("cuGetProcAddress", 11030, "cuGetProcAddress"),
    ("cuGetProcAddress", 12000, "cuGetProcAddress_v2"),
];

/// What a search found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Symbol(&'static str, *const ()),
    /// It is there, but not in the version asked for.
    TooOld,
    Nothing,
}

fn address(symbol: &str) -> Option<(&'static str, *const ())> {
    exports()
        .find(|e| e.name == symbol)
        .map(|e| (e.name, e.address))
}

/// The entry point of a name for a CUDA version; with `per_thread` the flavour whose stream 0 is the thread's own.
fn find(name: &str, version: i32, per_thread: bool) -> Found {
    let mut chosen = None;
    let mut listed = false;
    for (plain, since, symbol) in VERSIONS {
        if *plain == name {
            listed = true;
            if *since <= version {
                chosen = Some((*symbol).to_string());
            }
        }
    }
    if listed && chosen.is_none() {
        return Found::TooOld;
    }
    let symbol = chosen.or_else(|| {
        // The highest version there is, unless the name is a symbol as it stands and not a plain one.
        let numbered = |e: &super::api::Export| {
            let of = e
                .name
                .strip_suffix("_ptsz")
                .or_else(|| e.name.strip_suffix("_ptds"))
                .unwrap_or(e.name);
            (plain_name(of) == name).then(|| of.to_string())
        };
        let highest = exports()
            .filter_map(numbered)
            .max_by_key(|s| (s.len(), s.clone()));
        highest.or_else(|| address(name).map(|f| f.0.to_string()))
    });
    let Some(symbol) = symbol else {
        return Found::Nothing;
    };
    let twins = [format!("{symbol}_ptsz"), format!("{symbol}_ptds")];
    let twin = twins.iter().filter(|_| per_thread).find_map(|t| address(t));
    match twin.or_else(|| address(&symbol)) {
        Some((symbol, address)) => Found::Symbol(symbol, address),
        None => Found::Nothing,
    }
}

/// `CU_GET_PROC_ADDRESS_*`.
const LEGACY_STREAM: u64 = 1;
const PER_THREAD_STREAM: u64 = 2;

fn get_proc_address(
    name: Text,
    out: Out<*const ()>,
    version: i32,
    flags: u64,
    status: Option<Out<u32>>,
) -> Result<()> {
    out.check("pfn")?;
    if flags & !(LEGACY_STREAM | PER_THREAD_STREAM) != 0 {
        fail!(INVALID_VALUE, "flags {flags:#x}");
    }
    let name = name.get("symbol")?;
    let (address, verdict) = match find(&name, version, flags & PER_THREAD_STREAM != 0) {
        Found::Symbol(_, address) => (address, 0),
        Found::Nothing => (std::ptr::null(), 1),
        Found::TooOld => (std::ptr::null(), 2),
    };
    out.put(address)?;
    match status {
        // The caller looks at the status; without one, what is missing is an error.
        Some(status) if !status.is_null() => status.put(verdict),
        _ if verdict == 0 => Ok(()),
        // Without a sentence: clients ask for much that they can do without.
        _ => Err(CuResult::NOT_FOUND.into()),
    }
}

driver_calls! { EXPORTS:
    fn cuGetErrorName(code: u32, out: Out<*const c_char>) {
        match CuResult(code).name() {
            Some(name) => out.put(name.as_ptr()),
            None => {
                out.put(std::ptr::null())?;
                Err(CuResult::INVALID_VALUE.into())
            }
        }
    }

    fn cuGetErrorString(code: u32, out: Out<*const c_char>) {
        match CuResult(code).text() {
            Some(text) => out.put(text.as_ptr()),
            None => {
                out.put(std::ptr::null())?;
                Err(CuResult::INVALID_VALUE.into())
            }
        }
    }

    fn cuGetProcAddress_v2(name: Text, out: Out<*const ()>, version: i32, flags: u64, status: Out<u32>) {
        get_proc_address(name, out, version, flags, Some(status))
    }

    fn cuGetProcAddress(name: Text, out: Out<*const ()>, version: i32, flags: u64) {
        get_proc_address(name, out, version, flags, None)
    }

    fn cuGetExportTable(out: Out<*const ()>, id: In<[u8; 16]>) {
        out.put(std::ptr::null())?;
        let id = id.get("pExportTableId")?;
        fail!(NOT_FOUND, "the private table {id:02x?} (the CUDA runtime library wants it) is not emulated")
    }

    fn cuProfilerStart() {
        Ok(())
    }

    fn cuProfilerStop() {
        Ok(())
    }

    fn cuProfilerInitialize(_config: *const c_char, _output: *const c_char, _mode: u32) {
        Err(CuResult::PROFILER_DISABLED.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &str, version: i32, per_thread: bool) -> &'static str {
        match find(name, version, per_thread) {
            Found::Symbol(symbol, _) => symbol,
            other => panic!("{name} for {version}: {other:?}"),
        }
    }

    #[test]
    fn the_version_chooses_the_signature() {
        assert_eq!(symbol("cuMemAlloc", 3020, false), "cuMemAlloc_v2");
        assert_eq!(symbol("cuInit", 2000, false), "cuInit");
        assert_eq!(symbol("cuCtxCreate", 11000, false), "cuCtxCreate_v2");
        assert_eq!(symbol("cuCtxCreate", 13000, false), "cuCtxCreate_v4");
        assert_eq!(
            symbol("cuStreamGetCaptureInfo", 13000, true),
            "cuStreamGetCaptureInfo_v3_ptsz"
        );
        assert_eq!(symbol("cuLaunchKernel", 13000, true), "cuLaunchKernel_ptsz");
        assert_eq!(symbol("cuLaunchKernel", 13000, false), "cuLaunchKernel");
        assert_eq!(symbol("cuMemcpyHtoD", 13000, true), "cuMemcpyHtoD_v2_ptds");
        assert_eq!(find("cuCtxCreate", 2000, false), Found::TooOld);
        assert_eq!(find("cuNothing", 13000, false), Found::Nothing);
    }

    #[test]
    fn every_version_listed_is_exported() {
        for (_, _, symbol) in VERSIONS {
            assert!(address(symbol).is_some(), "{symbol}");
        }
    }
}
