//! Memory pools and stream-ordered allocation.
//!
//! An address is handed out at the call, but the memory behind it exists only
//! from the allocation's place in its stream to the free's: touched outside, it
//! is reported. Addresses are never handed out again, so a pool keeps accounts
//! and nothing else.

use super::abi::{AccessDescription, Location, Ordinal, PoolProperties, location_type};
use super::api::{In, Out, driver_calls};
use super::context::Context;
use super::error::{Result, fail};
use super::handle::{Handle, Kind};
use super::memory::MemoryKind;
use super::state::{State, lock};
use super::stream::Stream;
use super::work::Work;
use std::collections::BTreeMap;

/// A memory pool.
#[derive(Debug)]
pub(crate) struct Pool {
    device: u32,
    /// The context that made it; none for a device's own pool.
    pub(crate) context: Option<Handle<Context>>,
    max_size: u64,
    used: u64,
    used_high: u64,
    /// Reuse switches and the release threshold, by attribute.
    settings: BTreeMap<u32, u64>,
    /// Access of other devices, by ordinal.
    access: BTreeMap<i32, i32>,
}

impl Kind for Pool {
    const TAG: u8 = 5;
    const WHAT: &'static str = "memory pool";
    const MISSING: super::error::CuResult = super::error::CuResult::INVALID_VALUE;
}

impl Pool {
    /// A device's own pool.
    pub(crate) fn default_of(device: u32) -> Pool {
        Pool {
            device,
            context: None,
            max_size: 0,
            used: 0,
            used_high: 0,
            // Reuse by events, opportunistic, by internal dependencies: on; release threshold 0.
            settings: BTreeMap::from([(1, 1), (2, 1), (3, 1), (4, 0)]),
            access: BTreeMap::new(),
        }
    }
}

/// `CUmemPool_attribute`: what is not in [`Pool::settings`].
const RESERVED_CURRENT: u32 = 5;
const RESERVED_HIGH: u32 = 6;
const USED_CURRENT: u32 = 7;
const USED_HIGH: u32 = 8;

/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`.
const READ_WRITE: i32 = 3;

impl State {
    /// Memory of a pool's left it.
    pub(crate) fn left_pool(&mut self, pool: Handle<Pool>, bytes: u64) {
        if let Ok(pool) = self.pools.get_mut(pool) {
            pool.used = pool.used.saturating_sub(bytes);
        }
    }

    fn allocate_in_order(
        &mut self,
        pool: Handle<Pool>,
        bytes: usize,
        stream: Handle<Stream>,
    ) -> Result<u64> {
        let of = self.pools.get(pool)?;
        let device = of.device as usize;
        if of.max_size != 0 && of.used + bytes as u64 > of.max_size {
            fail!(
                OUT_OF_MEMORY,
                "{bytes} bytes asked for, {} of the pool's {} are used",
                of.used,
                of.max_size
            );
        }
        let context = self.streams.get(stream)?.context;
        if self.capturing(stream)?.is_some() {
            return self.capture_allocation(stream, context, device, bytes);
        }
        let address = self.allocate(context, device, bytes, MemoryKind::Pooled(pool), true)?;
        if let Err(e) = self.put(stream, Work::Appear(address)) {
            self.free_now(address);
            return Err(e);
        }
        let pool = self.pools.get_mut(pool)?;
        pool.used += bytes as u64;
        pool.used_high = pool.used_high.max(pool.used);
        Ok(address)
    }

    fn capture_allocation(
        &mut self,
        stream: Handle<Stream>,
        context: Handle<Context>,
        device: usize,
        bytes: usize,
    ) -> Result<u64> {
        let address = self.allocate_for_graph(context, device, bytes)?;
        self.capture_work(stream, Work::Appear(address))?;
        Ok(address)
    }

    /// Memory of a graph's allocation node: there while the graph runs, from that node on.
    pub(crate) fn allocate_for_graph(
        &mut self,
        context: Handle<Context>,
        device: usize,
        bytes: usize,
    ) -> Result<u64> {
        let address = self.allocate(context, device, bytes, MemoryKind::Graph, true)?;
        let (now, high) = &mut self.devices[device].graph_memory;
        *now += bytes as u64;
        *high = (*high).max(*now);
        Ok(address)
    }

    fn pool_at(&self, location: Location) -> Result<usize> {
        match location.kind {
            location_type::DEVICE => self.device(location.id),
            location_type::HOST => fail!(NOT_SUPPORTED, "host memory pools are not emulated"),
            kind => fail!(INVALID_VALUE, "location type {kind}: expected 1 (device)"),
        }
    }
}

fn allocate(
    out: Out<u64>,
    bytes: usize,
    pool: Option<Handle<Pool>>,
    stream: Handle<Stream>,
) -> Result<()> {
    out.check("dptr")?;
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    if bytes == 0 {
        return out.put(0);
    }
    let pool = match pool {
        Some(pool) => pool,
        None => {
            let context = state.streams.get(stream)?.context;
            let device = state.contexts.get(context)?.device;
            state.devices[device as usize].pool
        }
    };
    out.put(state.allocate_in_order(pool, bytes, stream)?)
}

fn set_pool(state: &mut State, device: usize, pool: Handle<Pool>) -> Result<()> {
    let of = state.pools.get(pool)?.device as usize;
    if of != device {
        fail!(INVALID_VALUE, "the pool is of device {of}, not {device}");
    }
    state.devices[device].pool = pool;
    Ok(())
}

driver_calls! { EXPORTS:
    fn cuMemAllocAsync(out: Out<u64>, bytes: usize, stream: Handle<Stream>) per_thread cuMemAllocAsync_ptsz {
        allocate(out, bytes, None, stream)
    }

    fn cuMemAllocFromPoolAsync(out: Out<u64>, bytes: usize, pool: Handle<Pool>, stream: Handle<Stream>) per_thread cuMemAllocFromPoolAsync_ptsz {
        allocate(out, bytes, Some(pool), stream)
    }

    fn cuMemFreeAsync(address: u64, stream: Handle<Stream>) per_thread cuMemFreeAsync_ptsz {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        if address == 0 {
            return Ok(());
        }
        let kind = state.freeable(address, |kind| {
            matches!(kind, MemoryKind::Device | MemoryKind::Pooled(_) | MemoryKind::Graph)
        })?.kind;
        let capturing = state.capturing(stream)?.is_some();
        match kind {
            MemoryKind::Graph => state.put(stream, Work::Vanish(address))?,
            _ if capturing => fail!(INVALID_VALUE, "memory not allocated in the captured graph cannot be freed in it"),
            _ => {
                let work = state.put(stream, Work::Free(address))?;
                if let Some(record) = state.memory.get_mut(&address) {
                    record.freeing = true;
                }
                work
            }
        };
        Ok(())
    }

    fn cuDeviceGetDefaultMemPool(out: Out<Handle<Pool>>, device: Ordinal) {
        let state = lock()?;
        let device = state.device(device)?;
        out.put(state.devices[device].default_pool)
    }

    fn cuDeviceGetMemPool(out: Out<Handle<Pool>>, device: Ordinal) {
        let state = lock()?;
        let device = state.device(device)?;
        out.put(state.devices[device].pool)
    }

    fn cuDeviceSetMemPool(device: Ordinal, pool: Handle<Pool>) {
        let mut state = lock()?;
        let device = state.device(device)?;
        set_pool(&mut state, device, pool)
    }

    fn cuMemGetDefaultMemPool(out: Out<Handle<Pool>>, location: In<Location>, _kind: u32) {
        let state = lock()?;
        let device = state.pool_at(location.get("location")?)?;
        out.put(state.devices[device].default_pool)
    }

    fn cuMemGetMemPool(out: Out<Handle<Pool>>, location: In<Location>, _kind: u32) {
        let state = lock()?;
        let device = state.pool_at(location.get("location")?)?;
        out.put(state.devices[device].pool)
    }

    fn cuMemSetMemPool(location: In<Location>, _kind: u32, pool: Handle<Pool>) {
        let mut state = lock()?;
        let device = state.pool_at(location.get("location")?)?;
        set_pool(&mut state, device, pool)
    }

    fn cuMemPoolCreate(out: Out<Handle<Pool>>, properties: In<PoolProperties>) {
        out.check("pool")?;
        let properties = properties.get("poolProps")?;
        let mut state = lock()?;
        let device = state.pool_at(properties.location)?;
        if properties.allocation_type != 1 {
            fail!(INVALID_VALUE, "allocation type {}: expected 1 (pinned)", properties.allocation_type);
        }
        if properties.handle_types != 0 {
            fail!(NOT_SUPPORTED, "pools shared between processes are not emulated");
        }
        let context = state.devices[device].primary.handle;
        let pool = Pool { context, max_size: properties.max_size as u64, ..Pool::default_of(device as u32) };
        let pool = state.pools.insert(pool);
        out.put(pool)
    }

    fn cuMemPoolDestroy(pool: Handle<Pool>) {
        let mut state = lock()?;
        let of = state.pools.get(pool)?.device as usize;
        if state.devices[of].default_pool == pool {
            fail!(INVALID_VALUE, "a device's default pool cannot be destroyed");
        }
        if state.devices[of].pool == pool {
            state.devices[of].pool = state.devices[of].default_pool;
        }
        // Memory from it lives on until it is freed.
        state.pools.remove(pool)?;
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: Handle<Pool>, _keep: usize) {
        // A pool of the emulator's keeps nothing that is not used.
        lock()?.pools.get(pool).map(|_| ())
    }

    fn cuMemPoolSetAttribute(pool: Handle<Pool>, attribute: u32, value: In<u32>) {
        let mut state = lock()?;
        let pool = state.pools.get_mut(pool)?;
        let low = value.get("value")?;
        match attribute {
            1..=3 => {
                pool.settings.insert(attribute, u64::from(low));
                Ok(())
            }
            4..=8 => {
                let words = value.all(2, "value")?;
                let wide = u64::from(words[0]) | u64::from(words[1]) << 32;
                match attribute {
                    4 => {
                        pool.settings.insert(attribute, wide);
                    }
                    RESERVED_HIGH | USED_HIGH if wide == 0 => pool.used_high = pool.used,
                    _ => fail!(INVALID_VALUE, "pool attribute {attribute} cannot be set to {wide}"),
                }
                Ok(())
            }
            _ => fail!(INVALID_VALUE, "pool attribute {attribute}"),
        }
    }

    fn cuMemPoolGetAttribute(pool: Handle<Pool>, attribute: u32, value: Out<u32>) {
        let state = lock()?;
        let pool = state.pools.get(pool)?;
        let wide = match attribute {
            1..=3 => return value.put(pool.settings.get(&attribute).copied().unwrap_or_default() as u32),
            4 => pool.settings.get(&attribute).copied().unwrap_or_default(),
            RESERVED_CURRENT | USED_CURRENT => pool.used,
            RESERVED_HIGH | USED_HIGH => pool.used_high,
            _ => fail!(INVALID_VALUE, "pool attribute {attribute}"),
        };
        value.put_all([wide as u32, (wide >> 32) as u32])
    }

    fn cuMemPoolSetAccess(pool: Handle<Pool>, descriptions: In<AccessDescription>, count: usize) {
        let descriptions = descriptions.all(count, "map")?;
        let mut state = lock()?;
        for d in &descriptions {
            state.pool_at(d.location)?;
        }
        let pool = state.pools.get_mut(pool)?;
        for d in descriptions {
            pool.access.insert(d.location.id, d.flags);
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(flags: Out<i32>, pool: Handle<Pool>, location: In<Location>) {
        let state = lock()?;
        let device = state.pool_at(location.get("location")?)? as i32;
        let pool = state.pools.get(pool)?;
        let own = if pool.device as i32 == device { READ_WRITE } else { 0 };
        flags.put(pool.access.get(&device).copied().unwrap_or(own))
    }

    fn cuDeviceGraphMemTrim(device: Ordinal) {
        lock()?.device(device).map(|_| ())
    }

    fn cuDeviceGetGraphMemAttribute(device: Ordinal, attribute: u32, value: Out<u64>) {
        let state = lock()?;
        let (now, high) = state.devices[state.device(device)?].graph_memory;
        match attribute {
            0 | 2 => value.put(now),
            1 | 3 => value.put(high),
            _ => fail!(INVALID_VALUE, "graph memory attribute {attribute}"),
        }
    }

    fn cuDeviceSetGraphMemAttribute(device: Ordinal, attribute: u32, value: In<u64>) {
        let mut state = lock()?;
        let device = state.device(device)?;
        match (attribute, value.get("value")?) {
            (1 | 3, 0) => {
                state.devices[device].graph_memory.1 = state.devices[device].graph_memory.0;
                Ok(())
            }
            (which, value) => fail!(INVALID_VALUE, "graph memory attribute {which} cannot be set to {value}"),
        }
    }
}
