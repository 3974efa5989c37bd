// CUB's sorts and histograms. A kernel's name says its shape: <what>_<type>_<threads>x<items>.

#include <cub/block/block_histogram.cuh>
#include <cub/block/block_load.cuh>
#include <cub/block/block_merge_sort.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_store.cuh>
#include <cub/warp/warp_merge_sort.cuh>

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;

// ---- radix sort of one block's tile

template <typename Key, int kThreads, int kItems, int kBits>
__device__ void radix(const Key* in, Key* out, int from, int to) {
  using Sort = cub::BlockRadixSort<Key, kThreads, kItems, cub::NullType, kBits>;
  __shared__ typename Sort::TempStorage shared;
  Key keys[kItems];
  const int tile = blockIdx.x * kThreads * kItems;
  cub::LoadDirectBlocked(threadIdx.x, in + tile, keys);
  Sort(shared).Sort(keys, from, to);
  cub::StoreDirectBlocked(threadIdx.x, out + tile, keys);
}

template <typename Key, typename Value, int kThreads, int kItems>
__device__ void radix_pairs(const Key* in, Key* out, Value* places) {
  using Sort = cub::BlockRadixSort<Key, kThreads, kItems, Value>;
  __shared__ typename Sort::TempStorage shared;
  Key keys[kItems];
  Value values[kItems];
  const int tile = blockIdx.x * kThreads * kItems;
  cub::LoadDirectBlocked(threadIdx.x, in + tile, keys);
  for (int k = 0; k < kItems; ++k) values[k] = static_cast<Value>(threadIdx.x * kItems + k);
  Sort(shared).SortDescendingBlockedToStriped(keys, values);
  cub::StoreDirectStriped<kThreads>(threadIdx.x, out + tile, keys);
  cub::StoreDirectStriped<kThreads>(threadIdx.x, places + tile, values);
}

#define RADIX(NAME, KEY, THREADS, ITEMS, BITS)                                              \
  extern "C" __global__ void __launch_bounds__(THREADS)                                     \
      NAME(const KEY* in, KEY* out, int from, int to) {                                     \
    radix<KEY, THREADS, ITEMS, BITS>(in, out, from, to);                                    \
  }
RADIX(radix_u32_128x4, u32, 128, 4, 4)
RADIX(radix_i32_64x7, i32, 64, 7, 5)
RADIX(radix_f32_256x2, float, 256, 2, 4)
RADIX(radix_u64_96x3, u64, 96, 3, 4)
RADIX(radix_u8_32x9, u8, 32, 9, 4)

extern "C" __global__ void __launch_bounds__(128) pairs_u32_128x5(const u32* in, u32* out, u16* places) {
  radix_pairs<u32, u16, 128, 5>(in, out, places);
}
extern "C" __global__ void __launch_bounds__(64) pairs_f64_64x3(const double* in, double* out, u32* places) {
  radix_pairs<double, u32, 64, 3>(in, out, places);
}

// ---- merge sort, stable, by the upper half of a number

struct ByUpperHalf {
  __device__ bool operator()(const u32& a, const u32& b) const { return (a >> 16) < (b >> 16); }
};

template <int kThreads, int kItems>
__device__ void merge(const u32* in, u32* out, int n) {
  using Sort = cub::BlockMergeSort<u32, kThreads, kItems>;
  __shared__ typename Sort::TempStorage shared;
  u32 keys[kItems];
  const int tile = blockIdx.x * kThreads * kItems, valid = min(n - tile, kThreads * kItems);
  cub::LoadDirectBlocked(threadIdx.x, in + tile, keys, valid, 0u);
  Sort(shared).StableSort(keys, ByUpperHalf(), valid, 0xffffffffu);
  cub::StoreDirectBlocked(threadIdx.x, out + tile, keys, valid);
}

extern "C" __global__ void __launch_bounds__(128) merge_u32_128x4(const u32* in, u32* out, int n) {
  merge<128, 4>(in, out, n);
}
extern "C" __global__ void __launch_bounds__(256) merge_u32_256x3(const u32* in, u32* out, int n) {
  merge<256, 3>(in, out, n);
}

template <int kItems, int kWidth>
__device__ void warp_merge(const u32* in, u32* out) {
  using Sort = cub::WarpMergeSort<u32, kItems, kWidth>;
  __shared__ typename Sort::TempStorage shared[64 / kWidth];
  u32 keys[kItems];
  cub::LoadDirectBlocked(threadIdx.x, in, keys);
  Sort(shared[threadIdx.x / kWidth]).StableSort(keys, ByUpperHalf());
  cub::StoreDirectBlocked(threadIdx.x, out, keys);
}

extern "C" __global__ void warp_merge_32x4(const u32* in, u32* out) { warp_merge<4, 32>(in, out); }
extern "C" __global__ void warp_merge_16x3(const u32* in, u32* out) { warp_merge<3, 16>(in, out); }

// ---- histograms of bytes, each block its own

template <int kThreads, int kItems, int kBins, cub::BlockHistogramAlgorithm kAlgorithm>
__device__ void histogram(const u8* in, u32* out) {
  using Histogram = cub::BlockHistogram<u8, kThreads, kItems, kBins, kAlgorithm>;
  __shared__ typename Histogram::TempStorage shared;
  __shared__ u32 bins[kBins];
  u8 items[kItems];
  const int tile = blockIdx.x * kThreads * kItems;
  cub::LoadDirectStriped<kThreads>(threadIdx.x, in + tile, items);
  for (u8& item : items) item %= kBins;
  Histogram(shared).Histogram(items, bins);
  __syncthreads();
  for (u8& item : items) item /= 2;
  Histogram(shared).Composite(items, bins);
  __syncthreads();
  for (int k = threadIdx.x; k < kBins; k += kThreads) out[blockIdx.x * kBins + k] = bins[k];
}

extern "C" __global__ void histogram_sort_128x4(const u8* in, u32* out) {
  histogram<128, 4, 256, cub::BLOCK_HISTO_SORT>(in, out);
}
extern "C" __global__ void histogram_atomic_96x5(const u8* in, u32* out) {
  histogram<96, 5, 64, cub::BLOCK_HISTO_ATOMIC>(in, out);
}
