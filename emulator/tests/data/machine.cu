// Kernels whose machine code can be counted by hand. Compiled by nvcc 13.0:
//   nvcc -fatbin -lineinfo -compress-mode=size, code for sm_80 and sm_90, PTX for compute_80

// A loop of `n` rounds with a barrier, one store to shared memory and five shuffles each;
// warp 0 alone stores the sum of every second round.
extern "C" __global__ void rounds(float *x, int n) {
  __shared__ float tile[128];
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < n; i++) {
    tile[threadIdx.x] = x[i * 128 + threadIdx.x];
    __syncthreads();
    float v = tile[127 - threadIdx.x];
#pragma unroll
    for (int lane = 16; lane; lane /= 2) v += __shfl_xor_sync(~0u, v, lane);
    sum += v;
    if (threadIdx.x < 32 && i % 2) x[i * 128 + threadIdx.x] = sum;
    __syncthreads();
  }
  x[n * 128 + threadIdx.x] = sum;
}

// A loop that the compiler unrolls, with what is left over behind it.
extern "C" __global__ void unrolled(float *x, int n) {
  float sum = 0;
  for (int i = 0; i < n; i++) sum = sum * x[i] + 1;
  x[n + threadIdx.x] = sum;
}

// A branch of the switch for each warp.
extern "C" __global__ void branches(int *x) {
  int v = x[threadIdx.x];
  switch (threadIdx.x / 32) {
    case 0: v = x[v & 31] * v; break;
    case 1: v = __popc(v) + x[1]; break;
    case 2: v ^= x[2] - v; break;
    case 3: v = v / 3 + x[v & 7]; break;
    case 4: v = v % 7 - x[v & 3]; break;
  }
  x[threadIdx.x] = v;
}

// Tiles of 16×16 copied asynchronously and multiplied, `n` of them, two stages; then the
// lanes' sums, by a function that is called.
__device__ __noinline__ float total(float v) {
  for (int lane = 16; lane; lane /= 2) v += __shfl_xor_sync(~0u, v, lane);
  return v;
}

extern "C" __global__ void tiles(const uint4 *x, float *out, int n) {
  __shared__ uint4 stage[2][32];
  unsigned lane = threadIdx.x;
  unsigned at[2] = {(unsigned)__cvta_generic_to_shared(&stage[0][lane]),
                    (unsigned)__cvta_generic_to_shared(&stage[1][lane])};
  float sum[4] = {0, 0, 0, 0};
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at[0]), "l"(x + lane));
  asm volatile("cp.async.commit_group;");
#pragma unroll 1
  for (int i = 0; i < n; i++) {
    if (i + 1 < n)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at[(i + 1) & 1]),
                   "l"(x + (i + 1) * 32 + lane));
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;");
    __syncwarp();
    unsigned a[4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(at[i & 1]));
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%4, %5}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]));
    __syncwarp();
  }
  float all = total(sum[0] + sum[1] + sum[2] + sum[3]);
  if (lane == 0) *out = all;
}
