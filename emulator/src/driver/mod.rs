//! The CUDA driver API, exported under its own names.
//!
//! Every function of `cuda.h` is there: what the emulator supports behaves as
//! documented, the rest returns `CUDA_ERROR_NOT_SUPPORTED` and names itself on
//! stderr. Handles are checked, never followed; arguments are checked before
//! anything is done; errors of kernels stick to their context.
//!
//! [`state`] holds everything under one lock, [`schedule`] decides what runs
//! when, [`work`] runs it; the other files are one part of the API each.

#![allow(non_snake_case)] // the API's own names

mod abi;
pub(crate) mod api;
mod capture;
mod context;
mod control;
mod copy;
mod device;
mod entry_points;
pub(crate) mod error;
mod event;
mod function;
mod graph;
mod graph_exec;
mod graph_nodes;
mod handle;
mod launch;
mod library;
mod link;
mod loader;
mod managed;
mod memory;
mod module;
mod occupancy;
mod pointer;
mod pool;
mod report;
mod schedule;
mod settings;
mod state;
mod stream;
mod transfer;
mod unsupported;
mod work;

/// Every exported driver call.
pub(crate) fn exports() -> impl Iterator<Item = &'static api::Export> {
    [
        capture::EXPORTS,
        context::EXPORTS,
        control::EXPORTS,
        device::EXPORTS,
        entry_points::EXPORTS,
        event::EXPORTS,
        function::EXPORTS,
        graph::EXPORTS,
        graph_exec::EXPORTS,
        graph_nodes::EXPORTS,
        launch::EXPORTS,
        library::EXPORTS,
        link::EXPORTS,
        managed::EXPORTS,
        memory::EXPORTS,
        module::EXPORTS,
        occupancy::EXPORTS,
        pointer::EXPORTS,
        pool::EXPORTS,
        stream::EXPORTS,
        transfer::EXPORTS,
        unsupported::EXPORTS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    /// The counts in the README are those of the tables.
    #[test]
    fn the_readme_counts_the_calls() {
        let all = super::exports().count();
        let work = all - super::unsupported::EXPORTS.len();
        let control = super::control::EXPORTS.len();
        let said = format!(
            "{} names with their versions, of which {} work",
            all - control,
            work - control
        );
        let readme = include_str!("../../README.md").replace('\n', " ");
        assert!(readme.contains(&said), "the README should say: {said}");
    }
}
