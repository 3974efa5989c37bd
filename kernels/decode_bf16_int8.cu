// decode over a cache of bf16 and int8, one of them K and the other V. One a file, to be compiled side by side.
#include "decode.cuh"

#define HEAD_DIM(head_dim)                                      \
    KV_DECODE(bf16_int8, __nv_bfloat16, Int8, head_dim, 8) \
    KV_DECODE(int8_bf16, Int8, __nv_bfloat16, head_dim, 8)
KV_HEAD_DIMS(HEAD_DIM)
