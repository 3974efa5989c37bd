// Arithmetic and conversions of cuda_fp16.h, cuda_bf16.h and cuda_fp8.h, a number a thread. Compiled for compute_80,
// where fp8 is done in integers, and for compute_90, where it has instructions.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;

// out[k * n + i]: operation k on a[i] and b[i]. The same list is in the test beside its meaning.
template <typename T>
__device__ void arithmetic(const T* a, const T* b, const T* c, u16* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const T x = a[i], y = b[i], z = c[i];
  int k = 0;
  auto put = [&](T v) { out[k++ * n + i] = *reinterpret_cast<const u16*>(&v); };
  auto flag = [&](bool v) { out[k++ * n + i] = v; };
  put(__hadd(x, y));
  put(__hsub(x, y));
  put(__hmul(x, y));
  put(__hfma(x, y, z));
  put(__hmin(x, y));
  put(__hmax(x, y));
  put(__habs(x));
  put(__hneg(x));
  put(__hfma_relu(x, y, z));
  put(__hmax_nan(x, y));
  flag(__hlt(x, y));
  flag(__hge(x, y));
  flag(__heq(x, y));
  flag(__hneu(x, y));
  flag(__hisnan(x));
  put(__hdiv(x, y));
  put(hsqrt(x));
  put(hfloor(x));
  put(hceil(x));
  put(hrint(x));
  put(htrunc(x));
}

extern "C" __global__ void f16_arithmetic(const half* a, const half* b, const half* c, u16* out, int n) {
  arithmetic(a, b, c, out, n);
}
extern "C" __global__ void bf16_arithmetic(const __nv_bfloat16* a, const __nv_bfloat16* b, const __nv_bfloat16* c,
                                           u16* out, int n) {
  arithmetic(a, b, c, out, n);
}

// A float to 16 bits with each rounding, and 16 bits to integers.
extern "C" __global__ void f16_conversions(const float* in, u32* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float x = in[i];
  int k = 0;
  auto put = [&](u32 v) { out[k++ * n + i] = v; };
  put(__half_as_ushort(__float2half_rn(x)));
  put(__half_as_ushort(__float2half_rz(x)));
  put(__half_as_ushort(__float2half_rd(x)));
  put(__half_as_ushort(__float2half_ru(x)));
  put(__bfloat16_as_ushort(__float2bfloat16_rn(x)));
  put(__bfloat16_as_ushort(__float2bfloat16_rz(x)));
  const half h = __float2half_rn(x);
  put(__half2int_rn(h));
  put(__half2int_rz(h));
  put(__half2uint_rd(h));
  put(__half2short_ru(h));
  put(__float_as_uint(__half2float(h)));
}

// Packed pairs: what two scalars give, both at once.
extern "C" __global__ void f16_pairs(const half2* a, const half2* b, const half2* c, half2* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = __hfma2(a[i], b[i], c[i]);
  out[n + i] = __hadd2(a[i], b[i]);
  out[2 * n + i] = __hmul2(a[i], b[i]);
  out[3 * n + i] = __lows2half2(a[i], b[i]);
  out[4 * n + i] = __highs2half2(a[i], b[i]);
  out[5 * n + i] = __lowhigh2highlow(a[i]);
}

// fp8 in both kinds, from floats (saturating and not) and back.
extern "C" __global__ void fp8_from_float(const float* in, u8* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = __nv_cvt_float_to_fp8(in[i], __NV_SATFINITE, __NV_E4M3);
  out[n + i] = __nv_cvt_float_to_fp8(in[i], __NV_SATFINITE, __NV_E5M2);
  out[2 * n + i] = __nv_cvt_float_to_fp8(in[i], __NV_NOSAT, __NV_E4M3);
  out[3 * n + i] = __nv_cvt_float_to_fp8(in[i], __NV_NOSAT, __NV_E5M2);
  out[4 * n + i] = __nv_fp8_e4m3(in[i]).__x;
  out[5 * n + i] = __nv_fp8_e5m2(in[i]).__x;
}

extern "C" __global__ void fp8_to_float(float* out) {
  const u32 i = threadIdx.x;
  __nv_fp8_e4m3 a;
  __nv_fp8_e5m2 b;
  a.__x = i;
  b.__x = i;
  out[i] = static_cast<float>(a);
  out[256 + i] = static_cast<float>(b);
  __nv_fp8x2_e4m3 pair;
  pair.__x = static_cast<u16>(i | (255 - i) << 8);
  const float2 both = static_cast<float2>(pair);
  out[512 + i] = both.x;
  out[768 + i] = both.y;
}
