//! On a GPU: times by CUDA events.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use kv_kernels::Kernels;
use kv_kernels::cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use kv_kernels::cudarc::driver::{CudaContext, CudaStream, DriverError};

use crate::workload::{Op, Workload, cases};

/// Batch and cached tokens.
const SIZES: [(usize, usize); 4] = [(1, 8191), (1, 131_071), (16, 4095), (128, 1023)];

/// Bytes that the copy reads, and writes again: far more than any L2 holds.
const COPY_BYTES: usize = 1 << 30;

pub fn run() -> Result<(), Box<dyn std::error::Error>> {
    let ctx = kv_kernels::open(0)?;
    // SAFETY: all work is on one stream.
    unsafe { ctx.disable_event_tracking() };
    let stream = ctx.new_stream()?;
    let kernels = Kernels::new(&ctx)?;
    let l2_bytes = ctx.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize;
    let copy_bandwidth = copy_bandwidth(&ctx, &stream)?;
    println!(
        "{}: a copy moves {:.0} GB/s, reads and writes together",
        ctx.name()?,
        copy_bandwidth / 1e9
    );

    let mut criterion = Criterion::default().configure_from_args();
    for op in Op::ALL {
        let mut group = criterion.benchmark_group(op.to_string());
        for case in cases(&SIZES) {
            // What is read again after all others is in the L2 no longer.
            let caches = (3 * l2_bytes).div_ceil(case.kv_bytes(op)).max(2);
            let mut workload = Workload::new(&kernels, &stream, case, caches)?;
            let bytes = case.fewest_bytes(op) as u64;
            let (launches, seconds) = (Cell::new(0), Cell::new(0.0));
            group.throughput(Throughput::Bytes(bytes));
            group.bench_function(case.to_string(), |bencher| {
                bencher.iter_custom(|iterations| {
                    let elapsed = timed(&ctx, &stream, || {
                        (0..iterations as usize)
                            .try_for_each(|turn| workload.launch(op, turn, &stream))
                            .expect("a launch");
                    })
                    .expect("events");
                    launches.set(launches.get() + iterations);
                    seconds.set(seconds.get() + elapsed.as_secs_f64());
                    elapsed
                });
            });
            if launches.get() > 0 {
                let bandwidth = (bytes * launches.get()) as f64 / seconds.get();
                println!(
                    "{op} {case}: {:.0} GB/s of the fewest bytes, {:.2} of a copy's",
                    bandwidth / 1e9,
                    bandwidth / copy_bandwidth
                );
            }
        }
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}

/// Time on the device between the beginning and the end of what is launched.
fn timed(
    ctx: &Arc<CudaContext>,
    stream: &CudaStream,
    launch: impl FnOnce(),
) -> Result<Duration, DriverError> {
    let event = || ctx.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    let (start, end) = (event()?, event()?);
    start.record(stream)?;
    launch();
    end.record(stream)?;
    end.synchronize()?;
    Ok(Duration::from_secs_f64(
        f64::from(start.elapsed_ms(&end)?) / 1e3,
    ))
}

/// Bytes a second that the device's own copy reads and writes.
fn copy_bandwidth(ctx: &Arc<CudaContext>, stream: &Arc<CudaStream>) -> Result<f64, DriverError> {
    const COPIES: usize = 20;
    let from = stream.alloc_zeros::<u8>(COPY_BYTES)?;
    let mut to = stream.alloc_zeros::<u8>(COPY_BYTES)?;
    stream.memcpy_dtod(&from, &mut to)?;
    let mut result = Ok(());
    let elapsed = timed(ctx, stream, || {
        result = (0..COPIES).try_for_each(|_| stream.memcpy_dtod(&from, &mut to));
    })?;
    result?;
    Ok((2 * COPIES * COPY_BYTES) as f64 / elapsed.as_secs_f64())
}
