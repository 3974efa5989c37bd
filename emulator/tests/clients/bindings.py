"""Runs a kernel through NVIDIA's Python bindings, with the emulator in place of the driver."""

import sys

from cuda.bindings import driver as cu

PTX = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .entry fill(.param .u64 out, .param .u32 value)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [value];
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
}
\0"""


def check(result):
    code, *values = result
    if code != cu.CUresult.CUDA_SUCCESS:
        sys.exit(f"{code}")
    return values[0] if len(values) == 1 else values


check(cu.cuInit(0))
device = check(cu.cuDeviceGet(0))
print(check(cu.cuDeviceGetName(64, device)).split(b"\0")[0].decode())
context = check(cu.cuDevicePrimaryCtxRetain(device))
check(cu.cuCtxSetCurrent(context))
stream = check(cu.cuStreamCreate(0))
library = check(cu.cuLibraryLoadData(PTX, [], [], 0, [], [], 0))
kernel = check(cu.cuLibraryGetKernel(library, b"fill"))
memory = check(cu.cuMemAlloc(64 * 4))

import ctypes

arguments = ((memory, 42), (None, ctypes.c_uint32))
check(cu.cuLaunchKernel(check(cu.cuKernelGetFunction(kernel)), 1, 1, 1, 64, 1, 1, 0, stream, arguments, 0))
check(cu.cuStreamSynchronize(stream))
out = (ctypes.c_uint32 * 64)()
check(cu.cuMemcpyDtoH(ctypes.addressof(out), memory, 64 * 4))
assert list(out) == [42] * 64
print("fill ok")
check(cu.cuMemFree(memory))
check(cu.cuLibraryUnload(library))
check(cu.cuStreamDestroy(stream))
check(cu.cuDevicePrimaryCtxRelease(device))
