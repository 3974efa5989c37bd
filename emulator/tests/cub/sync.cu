// libcu++'s barriers, pipelines, latches, semaphores and atomics, and cooperative groups. Compiled for compute_80
// and for compute_90, where barriers and asynchronous copies become other instructions.

#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/latch>
#include <cuda/pipeline>
#include <cuda/semaphore>

namespace cg = cooperative_groups;
using u32 = unsigned int;
using Barrier = cuda::barrier<cuda::thread_scope_block>;

// Shared memory for an object that the kernel itself begins.
template <typename T>
struct Room {
  alignas(T) unsigned char bytes[sizeof(T)];
  __device__ T& operator*() { return *reinterpret_cast<T*>(bytes); }
};

// ---- cuda::barrier

// Half of the block fills two buffers in turn, the other half adds them up.
extern "C" __global__ void producer_consumer(const u32* in, u32* out, int rounds) {
  __shared__ u32 buffer[2][64];
  __shared__ Room<Barrier> rooms[4];
  Barrier *ready = &*rooms[0], *filled = &*rooms[2];
  const int half = blockDim.x / 2;
  if (threadIdx.x < 4) init(&*rooms[threadIdx.x], blockDim.x);
  __syncthreads();
  if (threadIdx.x < half) {
    for (int round = 0; round < rounds; ++round) {
      ready[round % 2].arrive_and_wait();
      buffer[round % 2][threadIdx.x] = in[round * half + threadIdx.x] * 3;
      (void)filled[round % 2].arrive();
    }
  } else {
    const int me = threadIdx.x - half;
    u32 sum = 0;
    (void)ready[0].arrive();
    (void)ready[1].arrive();
    for (int round = 0; round < rounds; ++round) {
      filled[round % 2].arrive_and_wait();
      sum += buffer[round % 2][(me + round) % half];
      (void)ready[round % 2].arrive();
    }
    out[me] = sum;
  }
}

// Each phase, one thread more leaves for good.
extern "C" __global__ void dropping_out(u32* out) {
  __shared__ Room<Barrier> room;
  Barrier& barrier = *room;
  __shared__ u32 count;
  if (threadIdx.x == 0) {
    init(&barrier, blockDim.x);
    count = 0;
  }
  __syncthreads();
  for (u32 phase = 0; phase < 4; ++phase) {
    if (threadIdx.x == phase) {
      barrier.arrive_and_drop();
      return;
    }
    atomicAdd(&count, 1);
    barrier.arrive_and_wait();
    if (threadIdx.x == blockDim.x - 1) out[phase] = count;
    barrier.arrive_and_wait();
  }
}

// A barrier across blocks, in global memory.
extern "C" __global__ void grid_barrier(cuda::barrier<cuda::thread_scope_device>* barrier, u32* partial, u32* out) {
  cuda::atomic_ref<u32, cuda::thread_scope_device> begun(partial[gridDim.x]);
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0) {
      init(barrier, gridDim.x);
      begun.store(1, cuda::memory_order_release);
    }
    while (begun.load(cuda::memory_order_acquire) == 0) {
    }
    partial[blockIdx.x] = blockIdx.x * 7 + 1;
    barrier->arrive_and_wait();
    u32 sum = 0;
    for (u32 k = 0; k < gridDim.x; ++k) sum += partial[k];
    out[blockIdx.x] = sum;
  }
}

// ---- asynchronous copies

// A block's tiles through shared memory, the whole block one group, completed by a barrier.
extern "C" __global__ void copy_with_barrier(const u32* in, u32* out, int tiles) {
  __shared__ Room<Barrier> room;
  Barrier& barrier = *room;
  alignas(16) __shared__ u32 tile[256];
  const auto block = cg::this_thread_block();
  if (block.thread_rank() == 0) init(&barrier, block.size());
  block.sync();
  for (int k = 0; k < tiles; ++k) {
    cuda::memcpy_async(block, tile, in + k * 256, cuda::aligned_size_t<16>(sizeof(tile)), barrier);
    barrier.arrive_and_wait();
    for (int at = threadIdx.x; at < 256; at += blockDim.x) out[k * 256 + at] = tile[255 - at] + 1;
    block.sync();
  }
}

// Likewise through a pipeline of stages that the block shares.
template <int kStages>
__device__ void pipelined(const u32* in, u32* out, int tiles) {
  using Shared = cuda::pipeline_shared_state<cuda::thread_scope_block, kStages>;
  __shared__ Room<Shared> shared;
  alignas(16) __shared__ u32 tile[kStages][128];
  const auto block = cg::this_thread_block();
  auto pipeline = cuda::make_pipeline(block, &*shared);
  const auto bytes = cuda::aligned_size_t<16>(sizeof(tile[0]));
  for (int k = 0, fetched = 0; k < tiles; ++k) {
    for (; fetched < tiles && fetched < k + kStages; ++fetched) {
      pipeline.producer_acquire();
      cuda::memcpy_async(block, tile[fetched % kStages], in + fetched * 128, bytes, pipeline);
      pipeline.producer_commit();
    }
    pipeline.consumer_wait();
    for (int at = threadIdx.x; at < 128; at += blockDim.x) out[k * 128 + at] = tile[k % kStages][(at * 5) % 128] ^ k;
    pipeline.consumer_release();
  }
}
extern "C" __global__ void pipeline_2(const u32* in, u32* out, int tiles) { pipelined<2>(in, out, tiles); }
extern "C" __global__ void pipeline_3(const u32* in, u32* out, int tiles) { pipelined<3>(in, out, tiles); }

// Every thread its own pipeline: elements of four bytes.
extern "C" __global__ void pipeline_of_thread(const u32* in, u32* out, int rounds) {
  __shared__ u32 slot[2][64];
  auto pipeline = cuda::make_pipeline();
  const int me = threadIdx.x;
  for (int k = 0, fetched = 0; k < rounds; ++k) {
    for (; fetched < rounds && fetched < k + 2; ++fetched) {
      pipeline.producer_acquire();
      cuda::memcpy_async(&slot[fetched % 2][me], in + fetched * 64 + me, sizeof(u32), pipeline);
      pipeline.producer_commit();
    }
    pipeline.consumer_wait();
    out[k * 64 + me] = slot[k % 2][me] * 2 + 1;
    pipeline.consumer_release();
  }
}

extern "C" __global__ void copy_of_group(const u32* in, u32* out, int n) {
  __shared__ alignas(16) u32 tile[200];
  const auto block = cg::this_thread_block();
  cg::memcpy_async(block, tile, in, sizeof(u32) * n);
  cg::memcpy_async(block, tile + 100, in + 100, sizeof(u32) * n);
  cg::wait_prior<1>(block);
  u32 sum = 0;
  for (int k = threadIdx.x; k < n; k += blockDim.x) sum += tile[n - 1 - k];
  cg::wait(block);
  for (int k = threadIdx.x; k < n; k += blockDim.x) sum += tile[100 + n - 1 - k] * 3;
  out[threadIdx.x] = sum;
}

// ---- latch, semaphore, atomics

extern "C" __global__ void latch_and_semaphore(u32* out) {
  using Latch = cuda::latch<cuda::thread_scope_block>;
  using Semaphore = cuda::counting_semaphore<cuda::thread_scope_block, 2>;
  __shared__ Room<Latch> latch_room;
  __shared__ Room<Semaphore> semaphore_room;
  Latch& latch = *latch_room;
  Semaphore& semaphore = *semaphore_room;
  __shared__ u32 inside, most, sum;
  if (threadIdx.x == 0) {
    new (&latch) Latch(blockDim.x);
    new (&semaphore) Semaphore(2);
    inside = most = sum = 0;
  }
  __syncthreads();
  semaphore.acquire();
  cuda::atomic_ref<u32, cuda::thread_scope_block> now(inside), peak(most);
  peak.fetch_max(now.fetch_add(1) + 1);
  now.fetch_sub(1);
  semaphore.release();
  atomicAdd(&sum, threadIdx.x);
  latch.arrive_and_wait();
  if (threadIdx.x == 5) {
    out[0] = sum;
    out[1] = most <= 2;
  }
}

// A lock, and data that only its holder touches; then every ordering of an exchange of messages.
extern "C" __global__ void lock_and_message(u32* lock, u32* data, u32* out) {
  cuda::atomic_ref<u32, cuda::thread_scope_device> held(lock[0]), flag(lock[1]);
  if (threadIdx.x == 0) {
    u32 free = 0;
    while (!held.compare_exchange_weak(free, 1, cuda::memory_order_acquire, cuda::memory_order_relaxed)) free = 0;
    data[0] = data[0] * 2 + 1;
    held.store(0, cuda::memory_order_release);
    if (blockIdx.x == 0) {
      data[1] = 42;
      cuda::atomic_thread_fence(cuda::memory_order_release, cuda::thread_scope_device);
      flag.store(1, cuda::memory_order_relaxed);
    } else {
      while (flag.load(cuda::memory_order_relaxed) == 0) {
      }
      cuda::atomic_thread_fence(cuda::memory_order_acquire, cuda::thread_scope_device);
      out[blockIdx.x] = data[1] + blockIdx.x;
    }
  }
}

// ---- cooperative groups

template <int kWidth>
__device__ void tiles(const u32* in, u32* out) {
  const auto block = cg::this_thread_block();
  const auto tile = cg::tiled_partition<kWidth>(block);
  const u32 value = in[block.thread_rank()];
  out[block.thread_rank()] = cg::reduce(tile, value, cg::plus<u32>());
  out[block.size() + block.thread_rank()] = cg::inclusive_scan(tile, value, cg::greater<u32>());
  out[2 * block.size() + block.thread_rank()] = cg::exclusive_scan(tile, value);
  out[3 * block.size() + block.thread_rank()] = tile.shfl_down(value, 1) + tile.meta_group_rank() * 1000;
}
extern "C" __global__ void tiles_8(const u32* in, u32* out) { tiles<8>(in, out); }
extern "C" __global__ void tiles_32(const u32* in, u32* out) { tiles<32>(in, out); }

// A tile of several warps, which meet through memory reserved for the system.
extern "C" __global__ void tiles_of_warps(const u32* in, u32* out) {
  __shared__ cg::block_tile_memory<256> memory;
  const auto block = cg::this_thread_block(memory);
  const auto tile = cg::tiled_partition<64>(block);
  const u32 value = in[block.thread_rank()];
  const u32 sum = cg::reduce(tile, value, cg::plus<u32>());
  tile.sync();
  out[block.thread_rank()] = sum + tile.meta_group_rank();
}

extern "C" __global__ void branches(const u32* in, u32* out) {
  const u32 value = in[threadIdx.x];
  u32 result;
  if (value % 3 == 0) {
    const auto here = cg::coalesced_threads();
    result = here.size() * 100 + here.thread_rank() + (here.any(value % 2) ? 10000 : 0);
  } else {
    const auto here = cg::coalesced_threads();
    const auto parts = cg::labeled_partition(here, value % 4);
    result = cg::reduce(parts, value, cg::bit_xor<u32>());
  }
  out[threadIdx.x] = result;
  const auto warp = cg::tiled_partition<32>(cg::this_thread_block());
  const auto side = cg::binary_partition(warp, value & 1);
  out[blockDim.x + threadIdx.x] = side.size() * 64 + side.shfl(value, 0) % 64;
}

extern "C" __global__ void whole_grid(const u32* in, u32* partial, u32* out) {
  const auto grid = cg::this_grid();
  const u32 me = grid.thread_rank();
  for (int round = 0; round < 3; ++round) {
    partial[me] = in[me] * (round + 1);
    grid.sync();
    u32 sum = 0;
    for (u32 k = 0; k < 4; ++k) sum += partial[(me + k * blockDim.x + 1) % grid.size()];
    out[me] = round == 0 ? sum : out[me] + sum;
    grid.sync();
  }
}
