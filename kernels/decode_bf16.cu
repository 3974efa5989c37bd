// decode over a cache of bf16. One a file, to be compiled side by side.
#include "decode.cuh"

#define VARIANT(head_dim, columns) KV_DECODE(bf16, __nv_bfloat16, __nv_bfloat16, head_dim, columns)
KV_DECODE_VARIANTS(VARIANT)
