// decode over a cache of fp16. One a file, to be compiled side by side.
#include "decode.cuh"

#define VARIANT(head_dim, columns) KV_DECODE(f16, __half, __half, head_dim, columns)
KV_DECODE_VARIANTS(VARIANT)
