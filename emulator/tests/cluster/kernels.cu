// Clusters and distributed shared memory through cooperative groups and cuda::ptx, and broken versions of them by
// number: -DMUTANT=k breaks one thing. MUTANT=0 is sound throughout.

#include <cooperative_groups.h>
#include <cuda/barrier>
#include <cuda/ptx>

#ifndef MUTANT
#define MUTANT 0
#endif
#define UNLESS(k, statement) do { if (MUTANT != (k)) { statement; } } while (0)
#define PICK(k, sound, broken) (MUTANT == (k) ? (broken) : (sound))

namespace cg = cooperative_groups;
namespace ptx = cuda::ptx;
using u32 = unsigned int;
using u64 = uint64_t;

// A histogram of 256 bins spread over the shared memory of four blocks.
extern "C" __global__ void __cluster_dims__(4, 1, 1) histogram(const unsigned char* in, u32* out, int n) {
  __shared__ u32 bins[64];
  const cg::cluster_group cluster = cg::this_cluster();
  for (int k = threadIdx.x; k < 64; k += blockDim.x) bins[k] = 0;
  UNLESS(1, cluster.sync());
  for (int k = cluster.thread_rank(); k < n; k += cluster.num_threads()) {
    const u32 value = in[k];
    u32* theirs = cluster.map_shared_rank(bins, value / 64);
    atomicAdd(theirs + value % PICK(2, 64, 65), 1);
  }
  UNLESS(3, cluster.sync());
  for (int k = threadIdx.x; k < 64; k += blockDim.x) atomicAdd(out + cluster.block_rank() * 64 + k, bins[k]);
}

// Each block hands its numbers to the next one round the cluster, `steps` times over.
extern "C" __global__ void ring(const u32* in, u32* out, int steps) {
  __shared__ u32 room[2][64];
  const cg::cluster_group cluster = cg::this_cluster();
  const u32 next = (cluster.block_rank() + 1) % cluster.num_blocks();
  room[0][threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
  cluster.sync();
  for (int k = 0; k < steps; ++k) {
    u32* there = cluster.map_shared_rank(&room[(k + 1) % 2][0], next);
    there[threadIdx.x] = room[k % 2][threadIdx.x] + 1;
    UNLESS(4, cluster.sync());
  }
  if (MUTANT == 4) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = room[steps % 2][threadIdx.x];
}

// Sums of all blocks' numbers, read from where they lie between an arrival and a wait; the blocks stay until all have
// been read. Blocks of the cluster lie along two axes.
extern "C" __global__ void __cluster_dims__(2, 2, 1) gather(const u32* in, u32* out) {
  __shared__ u32 mine[32];
  const cg::cluster_group cluster = cg::this_cluster();
  const u32 block = blockIdx.y * gridDim.x + blockIdx.x;
  mine[threadIdx.x] = in[block * 32 + threadIdx.x];
  auto token = cluster.barrier_arrive();
  u32 sum = cluster.block_rank() + cluster.block_index().x * 100 + cluster.block_index().y * 1000;
  cluster.barrier_wait(std::move(token));
  for (u32 rank = 0; rank < cluster.num_blocks(); ++rank) sum += cluster.map_shared_rank(mine, rank)[threadIdx.x];
  out[block * 32 + threadIdx.x] = sum + (cluster.query_shared_rank(mine) == cluster.block_rank() ? 0 : 5000);
  UNLESS(5, cluster.sync());
}

__device__ u32 address_of(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

__device__ void wait_for(u64* barrier, u32 parity) {
  while (!ptx::mbarrier_try_wait_parity(ptx::sem_acquire, ptx::scope_cluster, barrier, parity)) {
  }
}

// Block 1 tells block 0, through block 0's own barrier, that what it put there is complete.
extern "C" __global__ void __cluster_dims__(2, 1, 1) tell(const u32* in, u32* out) {
  __shared__ u32 room[64];
  __shared__ u64 barrier;
  const cg::cluster_group cluster = cg::this_cluster();
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&barrier, blockDim.x);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster.sync();
  if (cluster.block_rank() == 1) {
    cluster.map_shared_rank(room, 0)[threadIdx.x] = in[threadIdx.x] * 2;
    u64* theirs = cluster.map_shared_rank(&barrier, 0);
    if (MUTANT == 6)
      asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(address_of(theirs)) : "memory");
    else
      ptx::mbarrier_arrive(ptx::sem_release, ptx::scope_cluster, ptx::space_cluster, theirs);
  } else {
    wait_for(&barrier, 0);
    out[threadIdx.x] = room[63 - threadIdx.x];
  }
  cluster.sync();
}

// A row from global memory into every block of the cluster; from there reversed to the neighbour, and back to global
// memory, all by bulk copies.
extern "C" __global__ void __cluster_dims__(4, 1, 1) bulk(const u32* in, u32* out) {
  __shared__ alignas(128) u32 row[256];
  __shared__ alignas(128) u32 turned[256];
  __shared__ alignas(128) u32 theirs[256];
  __shared__ u64 barriers[2];
  const cg::cluster_group cluster = cg::this_cluster();
  const u32 rank = cluster.block_rank(), next = (rank + 1) % 4;
  const u32 bytes = sizeof(row);
  if (threadIdx.x == 0) {
    for (u64& barrier : barriers) {
      ptx::mbarrier_init(&barrier, 1);
      ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, &barrier, bytes);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster.sync();
  if (rank == 0 && threadIdx.x == 0)
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(address_of(row)), "l"(__cvta_generic_to_global(in)), "r"(bytes),
                 "r"(address_of(&barriers[0])), "h"(static_cast<uint16_t>(PICK(7, 0xf, 0x1f))) : "memory");
  UNLESS(8, wait_for(&barriers[0], 0));
  for (u32 k = threadIdx.x; k < 256; k += blockDim.x) turned[k] = row[255 - k] + rank;
  UNLESS(12, ptx::fence_proxy_async());
  __syncthreads();
  if (threadIdx.x == 0)
    ptx::cp_async_bulk(ptx::space_cluster, ptx::space_shared, cluster.map_shared_rank(theirs, next), turned, bytes,
                       cluster.map_shared_rank(&barriers[1], next));
  if (MUTANT == 9) turned[threadIdx.x] = 0;
  wait_for(&barriers[1], 0);
  if (threadIdx.x == 0) {
    ptx::cp_async_bulk(ptx::space_global, ptx::space_shared, out + blockIdx.x * 256, theirs, bytes);
    ptx::cp_async_bulk_commit_group();
    UNLESS(10, ptx::cp_async_bulk_wait_group_read(ptx::n32_t<PICK(11, 0, 1)>()));
    theirs[0] = 1;
  }
  cluster.sync();
}

// Every block sends its numbers to the next one round the cluster, by stores that the other's barrier counts: words,
// pairs and fours.
extern "C" __global__ void __cluster_dims__(4, 1, 1) push(const u32* in, u32* out) {
  __shared__ alignas(16) u32 room[7 * 64];
  __shared__ u64 barrier;
  const cg::cluster_group cluster = cg::this_cluster();
  const u32 next = (cluster.block_rank() + 1) % 4, me = threadIdx.x;
  if (me == 0) {
    const u32 bytes = PICK(13, sizeof(room), sizeof(room) - 256);
    ptx::mbarrier_init(&barrier, 1);
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cluster, ptx::space_shared, &barrier, bytes);
  }
  cluster.sync();
  u32* theirs = cluster.map_shared_rank(room, next);
  u64* count = cluster.map_shared_rank(&barrier, PICK(14, next, (next + 1) % 4));
  const u32 value = in[blockIdx.x * 64 + me];
  const u32 pair[2] = {value + 1, value + 2};
  const u32 four[4] = {value + 3, value + 4, value + 5, value + 6};
  ptx::st_async(theirs + me, value, count);
  ptx::st_async(theirs + 64 + 2 * me, pair, count);
  ptx::st_async(theirs + 3 * 64 + 4 * me, four, count);
  UNLESS(15, wait_for(&barrier, 0));
  for (u32 k = me; k < 7 * 64; k += 64) out[blockIdx.x * 7 * 64 + k] = room[k];
}

// What the blocks of a cluster have, summed up in the first one's shared memory, and the greatest of what all clusters
// have in global memory, by bulk reductions; and each block's own count there by a reduction of single words.
extern "C" __global__ void __cluster_dims__(4, 1, 1) pool(const u32* in, u32* out) {
  __shared__ alignas(128) u32 mine[64];
  __shared__ alignas(128) u32 total[64];
  __shared__ u32 least;
  __shared__ u64 barrier;
  const cg::cluster_group cluster = cg::this_cluster();
  const u32 rank = cluster.block_rank(), me = threadIdx.x, bytes = sizeof(mine);
  mine[me] = in[blockIdx.x * 64 + me];
  total[me] = me;
  if (me == 0) {
    least = 0xffffffff;
    ptx::mbarrier_init(&barrier, 1);
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cluster, ptx::space_shared, &barrier,
                                   4 * bytes + 3 * 64 * sizeof(u32));
  }
  UNLESS(16, ptx::fence_proxy_async(ptx::space_shared));
  if (MUTANT == 17)
    __syncthreads();
  else
    cluster.sync();
  u64* count = cluster.map_shared_rank(&barrier, 0);
  if (rank != 0) ptx::red_async(ptx::op_min, cluster.map_shared_rank(&least, 0), mine[me], count);
  if (me == 0) {
    ptx::cp_reduce_async_bulk(ptx::space_cluster, ptx::space_shared, ptx::op_add, cluster.map_shared_rank(total, 0), mine,
                              bytes, count);
    ptx::cp_reduce_async_bulk(ptx::space_global, ptx::space_shared, ptx::op_max, out + 128, mine, bytes);
    ptx::cp_async_bulk_commit_group();
    UNLESS(18, ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>()));
  }
  if (rank == 0) {
    UNLESS(19, wait_for(&barrier, 0));
    out[blockIdx.x / 4 * 64 + me] = total[me] + least;
  }
  cluster.sync();
  mine[me] = 0;
}
