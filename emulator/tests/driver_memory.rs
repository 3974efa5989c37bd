//! Memory: kinds, copies of every shape, pools, and the mistakes that are caught.

mod common;

use common::{Gpu, gpu};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;

fn alloc(bytes: usize) -> u64 {
    let mut address = 0;
    // SAFETY: room for the address.
    unsafe { sys::cuMemAlloc_v2(&mut address, bytes) }
        .result()
        .unwrap();
    address
}

fn free(address: u64) -> CUresult {
    // SAFETY: the emulator checks the address.
    unsafe { sys::cuMemFree_v2(address) }
}

fn read(address: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    // SAFETY: room for the bytes.
    unsafe { sys::cuMemcpyDtoH_v2(out.as_mut_ptr().cast(), address, bytes) }
        .result()
        .unwrap();
    out
}

fn write(address: u64, bytes: &[u8]) -> CUresult {
    // SAFETY: the bytes are there.
    unsafe { sys::cuMemcpyHtoD_v2(address, bytes.as_ptr().cast(), bytes.len()) }
}

#[test]
fn copies_go_both_ways_and_within() {
    let gpu = gpu();
    let (a, b) = (alloc(256), alloc(256));
    let bytes: Vec<u8> = (0..=255).collect();
    write(a, &bytes).result().unwrap();
    // SAFETY: within both allocations.
    unsafe { sys::cuMemcpyDtoD_v2(b + 16, a, 240) }
        .result()
        .unwrap();
    assert_eq!(read(b + 16, 240), bytes[..240]);
    // SAFETY: as above, sides found by address.
    unsafe { sys::cuMemcpy(b, a + 16, 16) }.result().unwrap();
    assert_eq!(read(b, 16), bytes[16..32]);
    let mut host = [0u8; 8];
    // SAFETY: the host buffer has the bytes.
    unsafe { sys::cuMemcpy(host.as_mut_ptr() as u64, a, 8) }
        .result()
        .unwrap();
    assert_eq!(host, bytes[..8]);
    free(a).result().unwrap();
    free(b).result().unwrap();
    assert_eq!(gpu.reports(), "");
}

#[test]
fn what_lies_outside_is_refused() {
    let gpu = gpu();
    let a = alloc(100);
    assert_eq!(write(a + 1, &[0; 100]), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(write(a - 1, &[0; 2]), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(write(0, &[0; 2]), CUresult::CUDA_ERROR_INVALID_VALUE);
    // SAFETY: checked by the emulator.
    unsafe {
        assert_eq!(
            sys::cuMemsetD8_v2(a, 0, 101),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuMemsetD32_v2(a + 2, 0, 1),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuMemcpyDtoH_v2(std::ptr::null_mut(), a, 4),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuMemAlloc_v2(std::ptr::null_mut(), 4),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        let mut address = 0;
        assert_eq!(
            sys::cuMemAlloc_v2(&mut address, 0),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuMemAlloc_v2(&mut address, 81 << 30),
            CUresult::CUDA_ERROR_OUT_OF_MEMORY
        );
    }
    assert_eq!(free(a + 4), CUresult::CUDA_ERROR_INVALID_VALUE);
    free(a).result().unwrap();
    assert_eq!(free(a), CUresult::CUDA_ERROR_INVALID_VALUE, "freed twice");
    assert_eq!(
        write(a, &[0; 4]),
        CUresult::CUDA_ERROR_INVALID_VALUE,
        "written after it was freed"
    );
    drop(gpu);
}

#[test]
fn the_device_counts_its_memory() {
    let gpu = gpu();
    let (before, total) = gpu.context.mem_get_info().unwrap();
    assert_eq!(total, 80 << 30);
    let a = alloc(1 << 20);
    assert_eq!(gpu.context.mem_get_info().unwrap().0, before - (1 << 20));
    free(a).result().unwrap();
    assert_eq!(gpu.context.mem_get_info().unwrap().0, before);
}

#[test]
fn fills_of_every_width_and_shape() {
    let gpu = gpu();
    let a = alloc(64);
    // SAFETY: within the allocation.
    unsafe {
        sys::cuMemsetD8_v2(a, 0xaa, 64).result().unwrap();
        sys::cuMemsetD16_v2(a + 2, 0x1234, 3).result().unwrap();
        sys::cuMemsetD32_v2(a + 16, 0xdead_beef, 1)
            .result()
            .unwrap();
        sys::cuMemsetD2D8_v2(a + 32, 8, 0x77, 2, 3)
            .result()
            .unwrap();
    }
    let bytes = read(a, 64);
    let mut expected = vec![0xaa; 64];
    expected[2..8].copy_from_slice(&[0x34, 0x12, 0x34, 0x12, 0x34, 0x12]);
    expected[16..20].copy_from_slice(&[0xef, 0xbe, 0xad, 0xde]);
    for row in 0..3 {
        expected[32 + 8 * row..][..2].fill(0x77);
    }
    assert_eq!(bytes, expected);
    free(a).result().unwrap();
    drop(gpu);
}

#[test]
fn a_rectangle_is_copied() {
    let gpu = gpu();
    let mut pitch = 0;
    let mut a = 0;
    // SAFETY: room for both results.
    unsafe { sys::cuMemAllocPitch_v2(&mut a, &mut pitch, 10, 4, 4) }
        .result()
        .unwrap();
    assert_eq!(pitch, 512);
    let source: Vec<u8> = (0..40).collect();
    let host = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
    let copy = sys::CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: host,
        srcHost: source.as_ptr().cast(),
        srcDevice: 0,
        srcArray: std::ptr::null_mut(),
        srcPitch: 10,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: std::ptr::null_mut(),
        dstDevice: a,
        dstArray: std::ptr::null_mut(),
        dstPitch: pitch,
        WidthInBytes: 10,
        Height: 4,
    };
    // SAFETY: the source has 4 rows of 10 bytes.
    unsafe { sys::cuMemcpy2D_v2(&copy) }.result().unwrap();
    for row in 0..4 {
        assert_eq!(read(a + (row * pitch) as u64, 10), source[10 * row..][..10]);
    }
    let mut back = [0u8; 4];
    let mut copy2 = copy;
    copy2.srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED;
    copy2.srcDevice = a;
    copy2.srcPitch = pitch;
    copy2.srcXInBytes = 3;
    copy2.srcY = 2;
    copy2.dstMemoryType = host;
    copy2.dstHost = back.as_mut_ptr().cast();
    copy2.dstPitch = 2;
    copy2.WidthInBytes = 2;
    copy2.Height = 2;
    // SAFETY: the destination has 2 rows of 2 bytes.
    unsafe { sys::cuMemcpy2D_v2(&copy2) }.result().unwrap();
    assert_eq!(back, [23, 24, 33, 34]);
    free(a).result().unwrap();
    drop(gpu);
}

fn attribute<T: Copy>(
    which: sys::CUpointer_attribute,
    address: u64,
    mut value: T,
) -> Result<T, CUresult> {
    // SAFETY: the caller chose the attribute's type.
    match unsafe { sys::cuPointerGetAttribute((&raw mut value).cast(), which, address) } {
        CUresult::CUDA_SUCCESS => Ok(value),
        code => Err(code),
    }
}

#[test]
fn pointers_say_what_they_point_to() {
    use sys::CUpointer_attribute as A;
    let gpu = gpu();
    let a = alloc(100);
    assert_eq!(
        attribute(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, a + 50, 0u32),
        Ok(2)
    );
    assert_eq!(
        attribute(A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, a + 50, 0u64),
        Ok(a)
    );
    assert_eq!(
        attribute(A::CU_POINTER_ATTRIBUTE_RANGE_SIZE, a + 50, 0u64),
        Ok(100)
    );
    assert_eq!(
        attribute(A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, a, 9u32),
        Ok(0)
    );
    assert_eq!(
        attribute(A::CU_POINTER_ATTRIBUTE_IS_MANAGED, a, true),
        Ok(false)
    );
    assert_eq!(
        attribute(A::CU_POINTER_ATTRIBUTE_CONTEXT, a, 0u64),
        Ok(gpu.context.cu_ctx() as u64)
    );
    assert_eq!(
        attribute(A::CU_POINTER_ATTRIBUTE_HOST_POINTER, a, 0u64),
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
    let host = [0u8; 4];
    let host = host.as_ptr() as u64;
    assert_eq!(
        attribute(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, host, 0u32),
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
    let mut words = [7u32; 2];
    let mut which = [
        A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
    ];
    let mut outs: [*mut c_void; 2] = [(&raw mut words[0]).cast(), (&raw mut words[1]).cast()];
    // SAFETY: two attributes of four bytes each.
    unsafe { sys::cuPointerGetAttributes(2, which.as_mut_ptr(), outs.as_mut_ptr(), host) }
        .result()
        .unwrap();
    assert_eq!(words, [0, -2i32 as u32]);
    let (mut base, mut size) = (0, 0);
    // SAFETY: room for both results.
    unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut size, a + 99) }
        .result()
        .unwrap();
    assert_eq!((base, size), (a, 100));
    free(a).result().unwrap();
}

#[test]
fn pinned_registered_and_managed_memory() {
    use sys::CUpointer_attribute as A;
    let gpu = gpu();
    let mut pinned = std::ptr::null_mut();
    // SAFETY: room for the pointer.
    unsafe { sys::cuMemHostAlloc(&mut pinned, 64, 0) }
        .result()
        .unwrap();
    assert_eq!(
        attribute(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pinned as u64, 0u32),
        Ok(1)
    );
    let mut seen = 0;
    // SAFETY: room for the address.
    unsafe { sys::cuMemHostGetDevicePointer_v2(&mut seen, pinned, 0) }
        .result()
        .unwrap();
    assert_eq!(seen, pinned as u64);
    assert_eq!(
        free(pinned as u64),
        CUresult::CUDA_ERROR_INVALID_VALUE,
        "pinned memory has its own free"
    );
    // SAFETY: allocated above.
    unsafe { sys::cuMemFreeHost(pinned) }.result().unwrap();

    let mut own = vec![3u8; 4096];
    let pointer: *mut c_void = own.as_mut_ptr().cast();
    // SAFETY: the memory outlives its registration.
    unsafe {
        assert_eq!(
            sys::cuMemHostUnregister(pointer),
            CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED
        );
        sys::cuMemHostRegister_v2(pointer, 4096, 0)
            .result()
            .unwrap();
        let again = sys::cuMemHostRegister_v2(pointer.byte_add(100), 10, 0);
        assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        sys::cuMemHostUnregister(pointer).result().unwrap();
    }

    let mut managed = 0;
    // SAFETY: room for the address.
    unsafe { sys::cuMemAllocManaged(&mut managed, 64, 1) }
        .result()
        .unwrap();
    assert_eq!(
        attribute(A::CU_POINTER_ATTRIBUTE_IS_MANAGED, managed, false),
        Ok(true)
    );
    // SAFETY: managed memory is the host's to write while no work uses it.
    unsafe { (managed as *mut u32).write(77) };
    assert_eq!(read(managed, 4), 77u32.to_le_bytes());
    free(managed).result().unwrap();
    assert_eq!(gpu.reports(), "");
}

fn alloc_async(gpu: &Gpu, bytes: usize, stream: sys::CUstream) -> u64 {
    let mut address = 0;
    // SAFETY: room for the address.
    unsafe { sys::cuMemAllocAsync(&mut address, bytes, stream) }
        .result()
        .unwrap();
    let _ = gpu;
    address
}

#[test]
fn stream_ordered_memory_lives_between_its_allocation_and_its_free() {
    let gpu = gpu();
    let stream = gpu.context.new_stream().unwrap();
    let a = alloc_async(&gpu, 64, stream.cu_stream());
    // SAFETY: within the allocation, in its stream.
    unsafe {
        sys::cuMemsetD8Async(a, 5, 64, stream.cu_stream())
            .result()
            .unwrap();
        let mut out = [0u8; 64];
        sys::cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), a, 64, stream.cu_stream())
            .result()
            .unwrap();
        assert_eq!(out, [5; 64]);
        sys::cuMemFreeAsync(a, stream.cu_stream()).result().unwrap();
        assert_eq!(
            sys::cuMemFreeAsync(a, stream.cu_stream()),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
    stream.synchronize().unwrap();
    assert_eq!(gpu.reports(), "");
}

#[test]
fn a_use_in_another_stream_before_the_allocation_is_caught() {
    let gpu = gpu();
    let (a, b) = (
        gpu.context.new_stream().unwrap(),
        gpu.context.new_stream().unwrap(),
    );
    let memory = alloc_async(&gpu, 64, a.cu_stream());
    // SAFETY: a mistake on purpose: nothing orders stream b after the allocation in stream a.
    unsafe { sys::cuMemsetD8Async(memory, 5, 64, b.cu_stream()) }
        .result()
        .unwrap();
    assert_eq!(
        b.synchronize().unwrap_err().0,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
    );
    assert!(
        gpu.reports()
            .contains("before its allocation in stream order")
    );
}

#[test]
fn a_use_in_another_stream_after_the_free_is_caught() {
    let gpu = gpu();
    let (a, b) = (
        gpu.context.new_stream().unwrap(),
        gpu.context.new_stream().unwrap(),
    );
    let memory = alloc_async(&gpu, 64, a.cu_stream());
    let allocated = a.record_event(None).unwrap();
    b.wait(&allocated).unwrap();
    // SAFETY: a mistake on purpose: nothing orders the free in stream a after the use in stream b.
    unsafe {
        sys::cuMemFreeAsync(memory, a.cu_stream()).result().unwrap();
        sys::cuMemsetD8Async(memory, 5, 64, b.cu_stream())
            .result()
            .unwrap();
    }
    assert_eq!(
        b.synchronize().unwrap_err().0,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
    );
    assert!(gpu.reports().contains("freed"));
}

fn pool_of_1000_bytes() -> sys::CUmemPoolProps {
    let mut properties = std::mem::MaybeUninit::<sys::CUmemPoolProps>::zeroed();
    let p = properties.as_mut_ptr();
    // SAFETY: every field that has no meaning as zero is written.
    unsafe {
        (&raw mut (*p).allocType).write(sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED);
        (&raw mut (*p).handleTypes).write(sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE);
        (&raw mut (*p).location.type_).write(sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE);
        (&raw mut (*p).maxSize).write(1000);
        properties.assume_init()
    }
}

#[test]
fn pools_keep_accounts() {
    use sys::CUmemPool_attribute as A;
    let gpu = gpu();
    let stream = gpu.context.new_stream().unwrap();
    let properties = pool_of_1000_bytes();
    let mut pool = std::ptr::null_mut();
    // SAFETY: room for every result.
    unsafe {
        sys::cuMemPoolCreate(&mut pool, &properties)
            .result()
            .unwrap();
        let (mut a, mut b) = (0, 0);
        sys::cuMemAllocFromPoolAsync(&mut a, 600, pool, stream.cu_stream())
            .result()
            .unwrap();
        let full = sys::cuMemAllocFromPoolAsync(&mut b, 600, pool, stream.cu_stream());
        assert_eq!(full, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let mut used = 0u64;
        sys::cuMemPoolGetAttribute(
            pool,
            A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
            (&raw mut used).cast(),
        )
        .result()
        .unwrap();
        assert_eq!(used, 600);
        sys::cuMemFreeAsync(a, stream.cu_stream()).result().unwrap();
        stream.synchronize().unwrap();
        sys::cuMemPoolGetAttribute(
            pool,
            A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
            (&raw mut used).cast(),
        )
        .result()
        .unwrap();
        assert_eq!(used, 0);
        sys::cuMemPoolDestroy(pool).result().unwrap();
        assert_eq!(
            sys::cuMemPoolTrimTo(pool, 0),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
    }
}

#[test]
fn what_was_never_freed_is_reported_with_its_context() {
    let gpu = gpu();
    let a = alloc(1234);
    drop(gpu.context);
    let reports = gpu.emulator.take_reports().unwrap();
    assert!(
        reports.starts_with("error[leak]: 1234 bytes of device memory"),
        "{reports}"
    );
    assert!(reports.contains(&format!("{a:#x}")));
}
