// prefill over a cache of bf16. One element type a file, to be compiled side by side.
#include "prefill.cuh"

KV_PREFILL_TYPE(bf16, __nv_bfloat16)
