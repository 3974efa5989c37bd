// decode over a cache of fp16 and int8, one of them K and the other V. One a file, to be compiled side by side.
#include "decode.cuh"

#define HEAD_DIM(head_dim)                              \
    KV_DECODE(f16_int8, __half, Int8, head_dim, 8) \
    KV_DECODE(int8_f16, Int8, __half, head_dim, 8)
KV_HEAD_DIMS(HEAD_DIM)
