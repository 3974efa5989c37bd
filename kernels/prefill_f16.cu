// prefill over a cache of fp16. One element type a file, to be compiled side by side.
#include "prefill.cuh"

KV_PREFILL_TYPE(f16, __half)
