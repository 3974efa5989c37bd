// decode over a cache of bf16. One element type a file, to be compiled side by side.
#include "decode.cuh"

KV_DECODE_TYPE(bf16, __nv_bfloat16)
