// Products of mma.h, each shape and type with row- and column-major operands.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

using namespace nvcuda;

// c = a · b + c for one tile, operands in memory as A and B say.
template <int M, int N, int K, typename Element, typename Stored, typename Sum, typename A, typename B>
__device__ void product(const Stored* a, const Stored* b, Sum* c, Sum scale) {
  wmma::fragment<wmma::matrix_a, M, N, K, Element, A> fa;
  wmma::fragment<wmma::matrix_b, M, N, K, Element, B> fb;
  wmma::fragment<wmma::accumulator, M, N, K, Sum> fc;
  wmma::load_matrix_sync(fa, a, __is_same(A, wmma::row_major) ? K : M);
  wmma::load_matrix_sync(fb, b, __is_same(B, wmma::row_major) ? N : K);
  wmma::load_matrix_sync(fc, c, N, wmma::mem_row_major);
  wmma::mma_sync(fc, fa, fb, fc);
  for (int k = 0; k < fc.num_elements; ++k) fc.x[k] = fc.x[k] * scale;
  wmma::store_matrix_sync(c, fc, N, wmma::mem_row_major);
}

using Row = wmma::row_major;
using Col = wmma::col_major;

#define PRODUCT(NAME, M, N, K, ELEMENT, STORED, SUM, A, B)                         \
  extern "C" __global__ void NAME(const STORED* a, const STORED* b, SUM* c) {      \
    product<M, N, K, ELEMENT, STORED, SUM, A, B>(a, b, c, SUM(2));                 \
  }
PRODUCT(f16_16x16x16_rc, 16, 16, 16, half, half, float, Row, Col)
PRODUCT(f16_32x8x16_cr, 32, 8, 16, half, half, float, Col, Row)
PRODUCT(f16_8x32x16_rr, 8, 32, 16, half, half, float, Row, Row)
PRODUCT(bf16_16x16x16_cc, 16, 16, 16, __nv_bfloat16, __nv_bfloat16, float, Col, Col)
PRODUCT(tf32_16x16x8_rc, 16, 16, 8, wmma::precision::tf32, float, float, Row, Col)
PRODUCT(s8_16x16x16_rr, 16, 16, 16, signed char, signed char, int, Row, Row)
PRODUCT(u8_32x8x16_cc, 32, 8, 16, unsigned char, unsigned char, int, Col, Col)
PRODUCT(f64_8x8x4_rc, 8, 8, 4, double, double, double, Row, Col)
