// CUB's reductions and scans, by warp and by block, with every algorithm it offers, and its single-pass scan
// over a grid (decoupled look-back). A kernel's name says its shape: <what>_<type>_<threads>x<items>_<algorithm>.

#include <cub/agent/single_pass_scan_operators.cuh>
#include <cub/block/block_load.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/block/block_store.cuh>
#include <cub/warp/warp_reduce.cuh>
#include <cub/warp/warp_scan.cuh>

using u32 = unsigned int;
using u64 = unsigned long long;
using u8 = unsigned char;

struct Maximum {
  template <typename T>
  __device__ T operator()(const T& a, const T& b) const {
    return a < b ? b : a;
  }
};

// A sum whose operands do not commute: affine maps x -> scale * x + shift, applied left to right.
struct Affine {
  u32 scale, shift;
};
struct Compose {
  __device__ Affine operator()(const Affine& f, const Affine& g) const {
    return {f.scale * g.scale, g.scale * f.shift + g.shift};
  }
};

// ---- by block

template <typename T, int kThreads, int kItems, cub::BlockReduceAlgorithm kAlgorithm>
__device__ void reduce(const T* in, T* out, int n) {
  using Load = cub::BlockLoad<T, kThreads, kItems, cub::BLOCK_LOAD_TRANSPOSE>;
  using Reduce = cub::BlockReduce<T, kThreads, kAlgorithm>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Reduce::TempStorage reduce;
  } shared;
  T items[kItems];
  const int tile = blockIdx.x * kThreads * kItems;
  Load(shared.load).Load(in + tile, items, n - tile, T(0));
  __syncthreads();
  const T sum = Reduce(shared.reduce).Sum(items);
  __syncthreads();
  const T most = Reduce(shared.reduce).Reduce(items, Maximum());
  if (threadIdx.x == 0) {
    out[2 * blockIdx.x] = sum;
    out[2 * blockIdx.x + 1] = most;
  }
}

#define REDUCE(NAME, T, THREADS, ITEMS, ALGORITHM)                                   \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME(const T* in, T* out, int n) { \
    reduce<T, THREADS, ITEMS, ALGORITHM>(in, out, n);                                \
  }
REDUCE(reduce_u32_128x1_raking, u32, 128, 1, cub::BLOCK_REDUCE_RAKING)
REDUCE(reduce_u64_96x4_raking, u64, 96, 4, cub::BLOCK_REDUCE_RAKING)
REDUCE(reduce_u32_256x3_commutative, u32, 256, 3, cub::BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY)
REDUCE(reduce_f32_256x5_warps, float, 256, 5, cub::BLOCK_REDUCE_WARP_REDUCTIONS)
REDUCE(reduce_f64_64x2_warps, double, 64, 2, cub::BLOCK_REDUCE_WARP_REDUCTIONS)
REDUCE(reduce_u8_40x7_warps, u8, 40, 7, cub::BLOCK_REDUCE_WARP_REDUCTIONS)

template <typename T, int kThreads, int kItems, cub::BlockScanAlgorithm kAlgorithm>
__device__ void scan(const T* in, T* out, T* total, int n) {
  using Load = cub::BlockLoad<T, kThreads, kItems, cub::BLOCK_LOAD_TRANSPOSE>;
  using Store = cub::BlockStore<T, kThreads, kItems, cub::BLOCK_STORE_WARP_TRANSPOSE>;
  using Scan = cub::BlockScan<T, kThreads, kAlgorithm>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Store::TempStorage store;
    typename Scan::TempStorage scan;
  } shared;
  T items[kItems], sums[kItems];
  const int tile = blockIdx.x * kThreads * kItems;
  Load(shared.load).Load(in + tile, items, n - tile, T(0));
  __syncthreads();
  T all;
  Scan(shared.scan).InclusiveSum(items, sums, all);
  __syncthreads();
  Store(shared.store).Store(out + tile, sums, n - tile);
  __syncthreads();
  Scan(shared.scan).ExclusiveScan(items, sums, T(3), Maximum());
  __syncthreads();
  Store(shared.store).Store(out + n + tile, sums, n - tile);
  if (threadIdx.x == 0) total[blockIdx.x] = all;
}

#define SCAN(NAME, T, THREADS, ITEMS, ALGORITHM)                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME(const T* in, T* out, T* total, int n) { \
    scan<T, THREADS, ITEMS, ALGORITHM>(in, out, total, n);                                         \
  }
SCAN(scan_u32_128x1_raking, u32, 128, 1, cub::BLOCK_SCAN_RAKING)
SCAN(scan_u64_64x5_memoize, u64, 64, 5, cub::BLOCK_SCAN_RAKING_MEMOIZE)
SCAN(scan_u32_256x4_warps, u32, 256, 4, cub::BLOCK_SCAN_WARP_SCANS)
SCAN(scan_f32_96x3_raking, float, 96, 3, cub::BLOCK_SCAN_RAKING)

// ---- by warp, whole and in parts, with flags

template <int kWidth>
__device__ void warps(const u32* in, u32* out) {
  using Reduce = cub::WarpReduce<u32, kWidth>;
  using Scan = cub::WarpScan<Affine, kWidth>;
  constexpr int kParts = 64 / kWidth;
  __shared__ typename Reduce::TempStorage reduce[kParts];
  __shared__ typename Scan::TempStorage scan[kParts];
  const int part = threadIdx.x / kWidth, lane = threadIdx.x % kWidth;
  const u32 value = in[threadIdx.x];
  u32 result = Reduce(reduce[part]).Sum(value);
  if (lane == 0) out[part] = result;
  __syncwarp();
  result = Reduce(reduce[part]).HeadSegmentedReduce(value, value % 5 == 0, Maximum());
  if (lane == 0 || value % 5 == 0) out[64 + threadIdx.x] = result;
  __syncwarp();
  const int valid = 1 + in[part * kWidth] % kWidth;
  result = Reduce(reduce[part]).Reduce(value, Maximum(), valid);
  if (lane == 0) out[128 + part] = result;
  Affine map{2 * value + 1, value >> 3}, through, all;
  Scan(scan[part]).InclusiveScan(map, through, Compose(), all);
  out[192 + threadIdx.x] = through.scale * 7 + through.shift;
  if (lane == 0) out[256 + part] = all.shift;
}

extern "C" __global__ void warps_32(const u32* in, u32* out) { warps<32>(in, out); }
extern "C" __global__ void warps_16(const u32* in, u32* out) { warps<16>(in, out); }
extern "C" __global__ void warps_8(const u32* in, u32* out) { warps<8>(in, out); }
extern "C" __global__ void warps_4(const u32* in, u32* out) { warps<4>(in, out); }

// ---- by grid in one pass: each block waits for the sums of those before it

template <typename T, int kThreads, int kItems>
__device__ void look_back(const T* in, T* out, void* states, u32* ticket, int n) {
  using State = cub::ScanTileState<T>;
  using Plus = ::cuda::std::plus<>;
  using Prefix = cub::TilePrefixCallbackOp<T, Plus, State>;
  using Load = cub::BlockLoad<T, kThreads, kItems, cub::BLOCK_LOAD_WARP_TRANSPOSE>;
  using Store = cub::BlockStore<T, kThreads, kItems, cub::BLOCK_STORE_WARP_TRANSPOSE>;
  using Scan = cub::BlockScan<T, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Store::TempStorage store;
    struct {
      typename Prefix::TempStorage prefix;
      typename Scan::TempStorage scan;
    } scan;
  } shared;
  __shared__ int drawn;
  // Blocks begin in any order: a tile goes to whoever asks first.
  if (threadIdx.x == 0) drawn = atomicAdd(ticket, 1);
  __syncthreads();
  const int tile = drawn, first = tile * kThreads * kItems;
  State state;
  state.Init(gridDim.x, states, 0);
  T items[kItems];
  Load(shared.load).Load(in + first, items, n - first, T(0));
  __syncthreads();
  if (tile == 0) {
    T all;
    Scan(shared.scan.scan).ExclusiveSum(items, items, all);
    if (threadIdx.x == 0) state.SetInclusive(0, all);
  } else {
    Prefix prefix(state, shared.scan.prefix, Plus(), tile);
    Scan(shared.scan.scan).ExclusiveSum(items, items, prefix);
  }
  __syncthreads();
  Store(shared.store).Store(out + first, items, n - first);
}

extern "C" __global__ void look_back_begin_u32(void* states, int tiles) {
  cub::ScanTileState<u32> state;
  state.Init(tiles, states, 0);
  state.InitializeStatus(tiles);
}
extern "C" __global__ void look_back_begin_u64(void* states, int tiles) {
  cub::ScanTileState<u64> state;
  state.Init(tiles, states, 0);
  state.InitializeStatus(tiles);
}
extern "C" __global__ void look_back_u32_64x3(const u32* in, u32* out, void* states, u32* ticket, int n) {
  look_back<u32, 64, 3>(in, out, states, ticket, n);
}
extern "C" __global__ void look_back_u64_128x2(const u64* in, u64* out, void* states, u32* ticket, int n) {
  look_back<u64, 128, 2>(in, out, states, ticket, n);
}
