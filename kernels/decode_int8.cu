// decode over a cache of int8. One a file, to be compiled side by side.
#include "decode.cuh"

#define VARIANT(head_dim, columns) KV_DECODE(int8, Int8, Int8, head_dim, columns)
KV_DECODE_VARIANTS(VARIANT)
