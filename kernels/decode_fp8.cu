// decode over a cache of fp8. One a file, to be compiled side by side.
#include "decode.cuh"

#define VARIANT(head_dim, columns) KV_DECODE(fp8, Fp8E4M3, Fp8E4M3, head_dim, columns)
KV_DECODE_VARIANTS(VARIANT)
