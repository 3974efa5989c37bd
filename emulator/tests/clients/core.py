"""Runs a kernel through NVIDIA's cuda-core, with the emulator in place of the driver."""

import ctypes

from cuda.core import Device, LaunchConfig, LegacyPinnedMemoryResource, ObjectCode, launch

PTX = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 values, .param .f32 factor, .param .u32 count)
{
    .reg .pred %p;
    .reg .b32 %r<5>;
    .reg .f32 %f<3>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [values];
    ld.param.f32 %f1, [factor];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p, %r2, %r1;
    @%p ret;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd1, %rd1, %rd2;
    ld.global.f32 %f2, [%rd1];
    mul.f32 %f2, %f2, %f1;
    st.global.f32 [%rd1], %f2;
    ret;
}
"""

COUNT = 1000

device = Device()
device.set_current()
print(device.name, device.compute_capability)
stream = device.create_stream()
kernel = ObjectCode.from_ptx(PTX).get_kernel("scale")

pinned = LegacyPinnedMemoryResource().allocate(4 * COUNT)
host = (ctypes.c_float * COUNT).from_address(int(pinned.handle))
for k in range(COUNT):
    host[k] = k
values = device.memory_resource.allocate(4 * COUNT, stream=stream)
values.copy_from(pinned, stream=stream)
config = LaunchConfig(grid=(COUNT + 127) // 128, block=128)
launch(stream, config, kernel, int(values.handle), ctypes.c_float(2.5), ctypes.c_uint32(COUNT))
values.copy_to(pinned, stream=stream)
stream.sync()
assert list(host) == [2.5 * k for k in range(COUNT)]

begin, end = device.create_event(), device.create_event()
stream.record(begin)
launch(stream, config, kernel, int(values.handle), ctypes.c_float(0.5), ctypes.c_uint32(COUNT))
stream.record(end)
end.sync()
assert begin.is_done and end.is_done
values.copy_to(pinned, stream=stream)
stream.sync()
assert list(host) == [1.25 * k for k in range(COUNT)]
values.close(stream)
pinned.close(stream)
stream.sync()
stream.close()
print("scale ok")
