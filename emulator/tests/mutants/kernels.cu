// Sound kernels, and broken versions of them by number: -DMUTANT=k breaks one thing. The comment `!k` stands
// on each line where the emulator may report that break. MUTANT=0 is sound throughout.
#include <cuda_fp16.h>
#include <stdint.h>

#ifndef MUTANT
#define MUTANT 0
#endif
#define UNLESS(k, statement) do { if (MUTANT != (k)) { statement; } } while (0)
#define PICK(k, sound, broken) (MUTANT == (k) ? (broken) : (sound))

// A [rows, cols] matrix transposed through a padded tile.
extern "C" __global__ void transpose(const float *in, float *out, int rows, int cols) {
    __shared__ float tile[32][33];
    const int x = blockIdx.x * 32 + threadIdx.x;
    for (int j = threadIdx.y; j < 32; j += 8) {
        const int y = blockIdx.y * 32 + j;
        if (PICK(4, x < cols && y < rows, true))
            tile[PICK(5, j, j + 8)][threadIdx.x] = in[y * cols + x];  // !1 !4 !5
    }
    UNLESS(1, __syncthreads());
    const int tx = blockIdx.y * 32 + threadIdx.x;
    for (int j = threadIdx.y; j < 32; j += 8) {
        const int ty = blockIdx.x * 32 + j;
        if (tx < rows && ty < cols)
            out[ty * rows + tx + PICK(2, 0, 1)] = tile[threadIdx.x][j + PICK(3, 0, 1)];  // !1 !2 !3 !5
    }
}

static __device__ __forceinline__ float warp_sum(float v) {
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_down_sync(PICK(7, 0xffffffffu, 0xffffu), v, d);  // !7 !8 !11
    return v;
}

// Sum of a block's 256 values.
extern "C" __global__ void block_sum(const float *in, float *out, int n) {
    __shared__ float partial[8];
    const int i = blockIdx.x * 256 + threadIdx.x;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float v = i < n ? in[i] : 0.f;
    if (MUTANT == 11)
        asm volatile("{ .reg .pred p; .reg .f32 t; setp.lt.s32 p, %1, 20; @p mov.f32 t, %2; add.f32 %0, t, %2; }"
                     : "=f"(v) : "r"(lane), "f"(v));
    if (MUTANT == 8) {
        if (lane < 24) v = warp_sum(v);
    } else {
        v = warp_sum(v);  // !11
    }
    if (lane == 0 && PICK(9, true, warp < 4))
        partial[warp] = v;  // !6
    if (MUTANT == 10) {
        if (threadIdx.x < 64) __syncthreads();  // !10
    } else {
        UNLESS(6, __syncthreads());
    }
    if (warp == 0) {
        float s = lane < 8 ? partial[lane] : 0.f;  // !6 !9 !10
        s = warp_sum(s);
        if (lane == 0) out[blockIdx.x] = s;
    }
}

constexpr int kStages = 3, kRow = 64, kTile = 8;  // a tile is 8 rows of 64 floats, 16 chunks of 16 bytes a row

static __device__ __forceinline__ void copy16(float *to, const float *from) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");  // !14 !15 !17 !18
}
static __device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> static __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

static __device__ __forceinline__ int swizzle(int row, int chunk) {
    return row * kRow + (chunk ^ PICK(15, row, row * 8)) * 4;
}

// Row sums of `tiles` tiles by one warp, through a ring of copies in flight.
extern "C" __global__ void pipeline(const float *in, float *out, int tiles) {
    __shared__ __align__(16) float ring[kStages][kTile * kRow];
    const int lane = threadIdx.x;
    auto fetch = [&](int tile) {
        if (PICK(17, tile < tiles, true)) {
            for (int c = lane; c < kTile * 16; c += 32)
                copy16(&ring[tile % kStages][swizzle(c / 16, c % 16)], in + PICK(18, 0, 1) + (tile * kTile + c / 16) * kRow + c % 16 * 4);
        }
        UNLESS(16, commit());
    };
    for (int s = 0; s < kStages - 1; s++) fetch(s);
    for (int t = 0; t < tiles; t++) {
        wait<PICK(12, kStages - 2, kStages - 1)>();
        UNLESS(13, __syncwarp());
        const int row = lane / 4, part = lane % 4;
        float sum = 0.f;
        for (int c = part * 4; c < part * 4 + 4; c++) {
            const float4 v = *(const float4 *)&ring[(t + PICK(19, 0, 1)) % kStages][swizzle(row, c)];  // !12 !13 !15 !16 !19
            sum += v.x + v.y + v.z + v.w;
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (part == 0) out[t * kTile + row] = sum;
        fetch(t + PICK(14, kStages - 1, kStages));
    }
}

__device__ unsigned arrived;

// Sum over blocks, finished by the last to arrive.
extern "C" __global__ void grid_sum(const float *in, float *partial, float *out) {
    __shared__ bool last;
    const int i = blockIdx.x * 64 + threadIdx.x;
    partial[i] = in[i] * 2.f;
    if (MUTANT != 20) __threadfence();
    UNLESS(22, __syncthreads());
    if (threadIdx.x == 0) {
        if (MUTANT == 24) {
            arrived = arrived + 1;  // !24
            last = arrived == gridDim.x;
        } else {
            last = atomicInc(&arrived, gridDim.x - 1) == gridDim.x - 1;  // !23
        }
        if (MUTANT != 21) __threadfence();
    }
    UNLESS(23, __syncthreads());
    if (last) {  // !23
        float sum = 0.f;
        for (unsigned b = threadIdx.x; b < gridDim.x * 64; b += 64)
            sum += ((volatile float *)partial)[b];  // !20 !21 !22
        atomicAdd(out, sum);
    }
}

// Histogram of bytes in 64 bins.
extern "C" __global__ void histogram(const uint8_t *in, unsigned *bins, int n) {
    __shared__ unsigned local[64];
    if (threadIdx.x < PICK(26, 64, 32)) local[threadIdx.x] = 0;
    UNLESS(27, __syncthreads());
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        const int bin = PICK(29, in[i] & 63, in[i]);
        if (MUTANT == 25) local[bin] = local[bin] + 1;  // !25
        else atomicAdd(&local[bin], 1u);                // !26 !27 !29
    }
    __syncthreads();
    if (threadIdx.x < 64) {
        if (MUTANT == 28) bins[threadIdx.x] += local[threadIdx.x];  // !28
        else atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
    }
}

static __device__ __forceinline__ void load_matrix(uint32_t *f, const __half *p) {
    const uint32_t a = (uint32_t)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]) : "r"(a) : "memory");  // !30 !32 !33
}

// C[16, 8] = A[16, k] B[k, 8] by one warp of two; the other only helps to fetch A. B is given column by column.
extern "C" __global__ void product(const __half *a, const __half *b, float *c, int k) {
    __shared__ __align__(16) __half tile[16 * 64];
    const int lane = threadIdx.x & 31;
    for (int i = threadIdx.x; i < 16 * k / 8; i += 64)
        ((uint4 *)tile)[i] = ((const uint4 *)a)[i];
    UNLESS(33, __syncthreads());
    if (threadIdx.x >= 32) return;
    float acc[4] = {0.f, 0.f, 0.f, 0.f};
    for (int s = 0; s < k + PICK(32, 0, 16); s += 16) {
        uint32_t f[4];
        load_matrix(f, tile + (lane & 15) * k + s + (lane >> 4) * 8 + PICK(30, 0, 4));
        const uint32_t *column = (const uint32_t *)(b + (lane >> 2) * k + PICK(32, s, s % k));
        const uint32_t b0 = column[lane & 3], b1 = column[(lane & 3) + 4];
        if (PICK(31, true, lane < 31))
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                         : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                         : "r"(f[0]), "r"(f[1]), "r"(f[2]), "r"(f[3]), "r"(b0), "r"(b1));  // !31
    }
    for (int j = 0; j < 4; j++) c[((lane >> 2) + j / 2 * 8) * 8 + (lane & 3) * 2 + j % 2] = acc[j];
}

// Inclusive scan of 128 values, doubling the distance.
extern "C" __global__ void scan(const int *in, int *out) {
    __shared__ int values[128];
    const int t = threadIdx.x;
    values[t] = in[t];
    __syncthreads();
    for (int d = 1; d < 128; d *= 2) {
        const int v = t >= d ? values[t - d] : 0;  // !34 !35
        UNLESS(34, __syncthreads());
        values[t] += v;                            // !34 !35
        UNLESS(35, __syncthreads());
    }
    asm volatile("bar.sync 1, %0;" ::"r"(PICK(36, 128, 160)) : "memory");  // !36
    volatile int digits[8];  // by dynamic index: in local memory
    int rest = values[t];
    for (int k = 0; k < PICK(38, 8, 6); k++) {
        digits[k] = rest & 15;
        rest >>= 4;
    }
    const int at = in[t] & 7;
    out[t] = values[t] + (digits[PICK(37, at, at + 4)] >> 4);  // !37 !38
}
