// prefill over a cache of fp16. One element type a file, to be compiled side by side.
#include "prefill.cuh"

#define HEAD_DIM(head_dim) KV_PREFILL(f16, __half, head_dim)
KV_HEAD_DIMS(HEAD_DIM)
