//! What orders the accesses of the warps of a cluster's blocks (of one block, where there are no clusters).

use super::proxy::Proxies;
use crate::exec::access::bits;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Ticks of the warps of one cluster, block after block.
pub type Ticks = Arc<[u32]>;
/// What is known of other clusters, by their numbers in the grid: ticks of their warps.
pub type Remote = Arc<HashMap<u64, Ticks>>;

/// Releases on global addresses, by address: what each cluster released.
pub type GlobalPlaces = Mutex<HashMap<u64, HashMap<u64, Ticks>>>;

/// Barriers that a block has for `bar` and `barrier`.
const BARRIERS: usize = 16;

/// What orders the accesses of the warps that meet in barriers. Warps are numbered through the cluster, block after
/// block.
#[derive(Debug)]
pub struct Order {
    warps: usize,
    /// Warps of each block.
    block_warps: usize,
    tick: u32,
    /// Up to which tick everybody's accesses are ordered before what anybody does.
    settled: u32,
    /// `[observer][observed]`.
    ordered: Vec<u32>,
    /// For each observer, the least and the most of those of the other warps.
    others: Vec<(u32, u32)>,
    /// What each warp's last fence covers: `[warp][observed]`; zero before any.
    fenced: Vec<u32>,
    /// What each warp has read through atomics and a fence would make its own.
    observed: Vec<u32>,
    remote: Vec<Remote>,
    observed_remote: Vec<Remote>,
    /// Arrivals at each block's barriers, block after block.
    barriers: Vec<Gathering>,
    /// Arrivals at the cluster's barrier, and those of its last completed phase.
    cluster: Gathering,
    cluster_passed: Gathering,
    /// Releases on shared addresses, each with its block's place in the cluster above it.
    places: HashMap<u64, (Vec<u32>, Remote)>,
    /// Fences between ordinary accesses and those of bulk operations.
    pub(super) proxies: Proxies,
}

/// What arrivals at a barrier bring together.
#[derive(Debug, Clone)]
struct Gathering {
    ordered: Vec<u32>,
    fenced: Vec<u32>,
    remote: Remote,
}

impl Gathering {
    fn new(warps: usize) -> Gathering {
        Gathering {
            ordered: vec![0; warps],
            fenced: vec![0; warps],
            remote: Remote::default(),
        }
    }

    /// Nobody has arrived.
    fn clear(&mut self) {
        self.ordered.fill(0);
        self.fenced.fill(0);
        clear_remote(&mut self.remote);
    }
}

fn clear_remote(remote: &mut Remote) {
    if !remote.is_empty() {
        *remote = Remote::default();
    }
}

fn join(into: &mut [u32], from: &[u32]) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

fn join_remote(into: &mut Remote, from: &Remote) {
    if from.is_empty() || Arc::ptr_eq(into, from) {
        return;
    }
    if into.is_empty() {
        *into = from.clone();
        return;
    }
    let map = Arc::make_mut(into);
    for (cluster, ticks) in from.iter() {
        join_ticks(map, *cluster, ticks);
    }
}

fn join_ticks(map: &mut HashMap<u64, Ticks>, cluster: u64, ticks: &Ticks) {
    match map.get_mut(&cluster) {
        None => {
            map.insert(cluster, ticks.clone());
        }
        Some(mine) if mine.iter().zip(ticks.iter()).all(|(a, b)| a >= b) => {}
        Some(mine) => {
            *mine = mine
                .iter()
                .zip(ticks.iter())
                .map(|(a, b)| *a.max(b))
                .collect()
        }
    }
}

/// The least and the most of the ticks of all warps but `observer`.
fn known_but_of(observer: usize, ticks: &[u32]) -> (u32, u32) {
    let (mut least, mut most) = (MANY_TICKS, 0);
    for (warp, &tick) in ticks.iter().enumerate() {
        let own = warp == observer;
        least = least.min(if own { MANY_TICKS } else { tick });
        most = most.max(if own { 0 } else { tick });
    }
    (least, most)
}

/// More than a cluster takes.
const MANY_TICKS: u32 = 1 << 29;

impl Order {
    /// For `blocks` blocks of `block_warps` warps.
    pub fn new(blocks: usize, block_warps: usize) -> Order {
        let warps = blocks * block_warps;
        Order {
            warps,
            block_warps,
            tick: 1,
            settled: 0,
            ordered: vec![0; warps * warps],
            others: vec![Self::nothing_known(warps); warps],
            fenced: vec![0; warps * warps],
            observed: vec![0; warps * warps],
            remote: vec![Remote::default(); warps],
            observed_remote: vec![Remote::default(); warps],
            barriers: vec![Gathering::new(warps); BARRIERS * blocks],
            cluster: Gathering::new(warps),
            cluster_passed: Gathering::new(warps),
            places: HashMap::new(),
            proxies: Proxies::default(),
        }
    }

    /// New blocks.
    pub fn forget(&mut self) {
        self.tick = 1;
        self.settled = 0;
        for ticks in [&mut self.ordered, &mut self.fenced, &mut self.observed] {
            ticks.fill(0);
        }
        self.others.fill(Self::nothing_known(self.warps));
        let remotes = self.remote.iter_mut().chain(&mut self.observed_remote);
        remotes.for_each(clear_remote);
        self.barriers.iter_mut().for_each(Gathering::clear);
        self.cluster.clear();
        self.cluster_passed.clear();
        self.places.clear();
        self.proxies.clear();
    }

    /// Warps of the cluster.
    pub(super) fn warps(&self) -> usize {
        self.warps
    }

    /// What happens from now on comes after what has.
    pub(super) fn advance(&mut self) {
        self.tick += 1;
    }

    /// The present tick.
    #[inline(always)]
    pub fn tick(&self) -> u32 {
        self.tick
    }

    /// Up to which tick everybody's accesses are ordered before what anybody does.
    #[inline(always)]
    pub fn settled(&self) -> u32 {
        self.settled
    }

    fn row(&self, warp: usize) -> Range<usize> {
        warp * self.warps..(warp + 1) * self.warps
    }

    /// Up to which tick `observed`'s accesses are ordered before what `observer` does now.
    #[inline(always)]
    pub fn known(&self, observer: usize, observed: usize) -> u32 {
        self.ordered[observer * self.warps + observed]
    }

    /// Up to which tick the accesses of the warps other than `observer` are, at the least and at the most.
    #[inline(always)]
    pub fn known_of_others(&self, observer: usize) -> (u32, u32) {
        self.others[observer]
    }

    /// What [`Order::known_of_others`] says at first; of a warp without others that all they did is known.
    fn nothing_known(warps: usize) -> (u32, u32) {
        (if warps == 1 { MANY_TICKS } else { 0 }, 0)
    }

    /// More of others is known to `observer` than before.
    fn learned(&mut self, observer: usize) {
        self.others[observer] = known_but_of(observer, &self.ordered[self.row(observer)]);
    }

    /// Up to which tick the accesses of warp `warp` of another cluster are.
    pub fn known_of(&self, observer: usize, cluster: u64, warp: usize) -> u32 {
        match self.remote[observer].get(&cluster) {
            Some(ticks) => ticks.get(warp).copied().unwrap_or(0),
            None => 0,
        }
    }

    /// A warp arrives at a barrier of its block.
    pub fn arrive(&mut self, barrier: usize, warp: usize) {
        let slot = warp / self.block_warps * BARRIERS + barrier;
        let row = self.row(warp);
        let gathering = &mut self.barriers[slot];
        join(&mut gathering.ordered, &self.ordered[row.clone()]);
        gathering.ordered[warp] = self.tick;
        join(&mut gathering.fenced, &self.fenced[row]);
        join_remote(&mut gathering.remote, &self.remote[warp]);
        // What the warp does after arriving without waiting is not covered.
        self.tick += 1;
    }

    /// A barrier of block `block` completes. `warps` are those, by bit, that waited for it; those of `wholly` did so with
    /// all of their threads, so that what they did before now they did before they arrived.
    pub fn complete(&mut self, block: usize, barrier: usize, warps: u32, wholly: u32) {
        let slot = block * BARRIERS + barrier;
        let first = block * self.block_warps;
        for warp in bits(wholly) {
            self.barriers[slot].ordered[first + warp] = self.tick;
        }
        for warp in bits(warps) {
            let row = self.row(first + warp);
            let gathering = &self.barriers[slot];
            join(&mut self.ordered[row.clone()], &gathering.ordered);
            join(&mut self.fenced[row], &gathering.fenced);
            join_remote(&mut self.remote[first + warp], &gathering.remote);
            self.learned(first + warp);
        }
        self.barriers[slot].clear();
        if wholly.count_ones() as usize == self.warps {
            self.settled = self.tick;
        }
        self.tick += 1;
    }

    /// A warp arrives at the cluster's barrier; without a release only what its last fence covers is published.
    pub fn arrive_cluster(&mut self, warp: usize, release: bool) {
        let row = self.row(warp);
        let gathering = &mut self.cluster;
        if release {
            join(&mut gathering.ordered, &self.ordered[row.clone()]);
            gathering.ordered[warp] = self.tick;
            join_remote(&mut gathering.remote, &self.remote[warp]);
            self.tick += 1;
        } else {
            join(&mut gathering.ordered, &self.fenced[row.clone()]);
        }
        join(&mut gathering.fenced, &self.fenced[row]);
    }

    /// The cluster's barrier completes its phase. Nobody can arrive for the phase after next before all have waited
    /// for this one, so one completed phase is all there is to keep.
    pub fn complete_cluster(&mut self) {
        std::mem::swap(&mut self.cluster_passed, &mut self.cluster);
        self.cluster.clear();
        self.tick += 1;
    }

    /// A warp has waited for the last completed phase.
    pub fn pass_cluster(&mut self, warp: usize) {
        let row = self.row(warp);
        let gathering = &self.cluster_passed;
        join(&mut self.ordered[row.clone()], &gathering.ordered);
        join(&mut self.fenced[row], &gathering.fenced);
        join_remote(&mut self.remote[warp], &gathering.remote);
        self.learned(warp);
        self.tick += 1;
    }

    /// The lanes of a warp have met.
    pub fn syncwarp(&mut self, warp: usize) {
        self.ordered[warp * self.warps + warp] = self.tick;
        self.tick += 1;
    }

    /// A fence.
    pub fn fence(&mut self, warp: usize) {
        let row = self.row(warp);
        let observed = self.observed[row.clone()].to_vec();
        join(&mut self.ordered[row.clone()], &observed);
        self.learned(warp);
        let remote = self.observed_remote[warp].clone();
        join_remote(&mut self.remote[warp], &remote);
        let now: Vec<u32> = self.ordered[row.clone()].to_vec();
        self.fenced[row.clone()].copy_from_slice(&now);
        // The warp's own accesses up to here are covered whether or not its lanes have synchronised.
        self.fenced[row.start + warp] = self.tick;
        self.tick += 1;
    }

    /// What a release by `warp` publishes: everything before it (`now`), or before its last fence. `None` where that
    /// is nothing.
    pub fn release(&mut self, warp: usize, now: bool) -> Option<Release> {
        let row = self.row(warp);
        let mut ticks = if now {
            self.ordered[row].to_vec()
        } else {
            self.fenced[row].to_vec()
        };
        if now {
            ticks[warp] = self.tick;
            self.tick += 1;
        }
        let remote = self.remote[warp].clone();
        let nothing = ticks.iter().all(|&t| t == 0) && remote.is_empty();
        (!nothing).then_some(Release { ticks, remote })
    }

    /// Leaves a release at a shared address.
    pub fn publish(&mut self, place: u64, release: &Release) {
        let warps = self.warps;
        let there = self
            .places
            .entry(place)
            .or_insert_with(|| (vec![0; warps], Remote::default()));
        join(&mut there.0, &release.ticks);
        join_remote(&mut there.1, &release.remote);
    }

    /// Leaves a release of cluster `cluster` at a global address.
    pub fn publish_global(places: &GlobalPlaces, address: u64, cluster: u64, release: &Release) {
        let mut places = places.lock().unwrap_or_else(|e| e.into_inner());
        let place = places.entry(address).or_default();
        join_ticks(place, cluster, &Ticks::from(release.ticks.as_slice()));
        for (other, ticks) in release.remote.iter() {
            join_ticks(place, *other, ticks);
        }
    }

    /// `warp` reads what was released at a shared address; it counts now, or from the next fence on.
    pub fn observe(&mut self, warp: usize, place: u64, now: bool) {
        let Some((ticks, remote)) = self.places.get(&place) else {
            return;
        };
        let seen = Release {
            ticks: ticks.clone(),
            remote: remote.clone(),
        };
        self.see(warp, &seen, now);
    }

    /// `warp` of cluster `cluster` reads what was released at a global address.
    pub fn observe_global(
        &mut self,
        places: &GlobalPlaces,
        warp: usize,
        address: u64,
        cluster: u64,
        now: bool,
    ) {
        let seen = {
            let places = places.lock().unwrap_or_else(|e| e.into_inner());
            let Some(place) = places.get(&address) else {
                return;
            };
            let others = place
                .iter()
                .filter(|(c, _)| **c != cluster)
                .map(|(c, t)| (*c, t.clone()))
                .collect();
            Release {
                ticks: place.get(&cluster).map_or(Vec::new(), |t| t.to_vec()),
                remote: Arc::new(others),
            }
        };
        self.see(warp, &seen, now);
    }

    fn see(&mut self, warp: usize, seen: &Release, now: bool) {
        let row = self.row(warp);
        let (into, into_remote) = if now {
            (&mut self.ordered, &mut self.remote)
        } else {
            (&mut self.observed, &mut self.observed_remote)
        };
        join(&mut into[row], &seen.ticks);
        join_remote(&mut into_remote[warp], &seen.remote);
        if now {
            self.learned(warp);
        }
    }
}

/// What a release publishes.
#[derive(Debug, Clone)]
pub struct Release {
    ticks: Vec<u32>,
    remote: Remote,
}
