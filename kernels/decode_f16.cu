// decode over a cache of fp16. One element type a file, to be compiled side by side.
#include "decode.cuh"

KV_DECODE_TYPE(f16, __half)
