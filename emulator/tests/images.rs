//! Readers of device code: fat binaries of nvcc, damaged ones, and bare pointers.

use std::ffi::c_void;

use ptx_emulator::image::{
    Image, ImageError, Kind, MAX_IMAGE_BYTES, Reach, cubin, images, images_from_ptr, select,
    select_machine_code,
};
use ptx_emulator::ptx;

const ZSTD: &[u8] = include_bytes!("data/images.zstd.fatbin");
const LZ4: &[u8] = include_bytes!("data/images.lz4.fatbin");
const NONE: &[u8] = include_bytes!("data/images.none.fatbin");

#[test]
fn entries_of_a_fat_binary() {
    let all = images(ZSTD).unwrap();
    let heads: Vec<_> = all.iter().map(|i| (i.kind, i.arch, i.reach)).collect();
    let expected = [
        (Kind::Elf, 80, Reach::Base),
        (Kind::Ptx, 80, Reach::Base),
        (Kind::Elf, 90, Reach::Exact),
        (Kind::Ptx, 90, Reach::Exact),
    ];
    assert_eq!(heads, expected);
    assert!(all.iter().all(|i| i.name == "images.cu"));
    assert_eq!(all[1].options, "--generate-line-info");
    assert_eq!(all[0].options, "");
    for image in &all {
        match image.kind {
            Kind::Ptx => {
                let module = ptx::parse(&image.text().unwrap()).unwrap();
                assert_eq!(module.target, image.arch);
                assert!(
                    module
                        .functions
                        .iter()
                        .any(|f| f.name == "scale" && f.is_entry)
                );
            }
            _ => {
                let elf = image.contents().unwrap();
                let read = images(&elf).unwrap();
                assert_eq!((read[0].kind, read[0].arch), (Kind::Elf, image.arch));
            }
        }
    }
}

#[test]
fn every_compression_holds_the_same_text() {
    let text = |bytes| {
        let all = images(bytes).unwrap();
        select(&all, (8, 0)).unwrap().text().unwrap()
    };
    let zstd = text(ZSTD);
    assert!(zstd.contains(".entry scale"));
    assert_eq!(zstd, text(LZ4));
    assert_eq!(zstd, text(NONE));
}

#[test]
fn kernels_of_a_cubin() {
    let all = images(ZSTD).unwrap();
    let elf = select_machine_code(&all, (8, 6))
        .unwrap()
        .contents()
        .unwrap();
    let kernels = cubin::kernels(&elf).unwrap();
    let [other, scale] = &kernels[..] else {
        panic!("{kernels:?}")
    };
    assert_eq!(
        (other.name.as_str(), scale.name.as_str()),
        ("other", "scale")
    );
    // What `ptxas -v` says of the same file.
    assert_eq!(
        (scale.registers, scale.frame_bytes, scale.shared_bytes),
        (8, 0, 512)
    );
    assert_eq!((scale.param_bytes, other.param_bytes), (16, 8));
    assert_eq!(other.registers, 44);
    assert_eq!(other.stack_bytes, 160);
    assert_eq!(other.shared_bytes, 0);
    assert!(scale.code_bytes > 0 && scale.code_bytes % 16 == 0);
}

/// PTX of one line for an architecture.
fn text(target: &str) -> String {
    format!("// for {target}\n.version 8.0\n.target {target}\n.address_size 64\n")
}

#[test]
fn plain_text_is_an_image() {
    for (target, arch, reach) in [
        ("sm_80", 80, Reach::Base),
        ("sm_90a, debug", 90, Reach::Exact),
        ("sm_100f", 100, Reach::Family),
    ] {
        let text = text(target) + "\0garbage \u{ff}";
        let all = images(text.as_bytes()).unwrap();
        assert_eq!(
            (all[0].kind, all[0].arch, all[0].reach),
            (Kind::Ptx, arch, reach)
        );
        assert!(all[0].text().unwrap().ends_with(".address_size 64\n"));
    }
    let error = images(b".version 99.0").unwrap_err();
    assert!(matches!(error, ImageError::Ptx(_)), "{error}");
}

#[test]
fn the_newest_that_runs_is_selected() {
    let texts: Vec<String> = ["sm_75", "sm_80", "sm_90", "sm_90a", "sm_100f", "sm_103a"]
        .map(text)
        .into();
    let all: Vec<Image> = texts
        .iter()
        .map(|t| images(t.as_bytes()).unwrap().remove(0))
        .collect();
    let picked = |cc| select(&all, cc).map(|i| (i.arch, i.reach));
    assert_eq!(picked((7, 0)), None);
    assert_eq!(picked((7, 5)), Some((75, Reach::Base)));
    assert_eq!(picked((8, 9)), Some((80, Reach::Base)));
    assert_eq!(picked((9, 0)), Some((90, Reach::Exact)));
    assert_eq!(picked((10, 0)), Some((100, Reach::Family)));
    assert_eq!(picked((10, 1)), Some((100, Reach::Family)));
    assert_eq!(picked((10, 3)), Some((103, Reach::Exact)));
    assert_eq!(picked((12, 0)), Some((90, Reach::Base)));
    assert_eq!(select_machine_code(&all, (9, 0)), None);
    let built = images(ZSTD).unwrap();
    let code = |cc| select_machine_code(&built, cc).map(|i| i.arch);
    assert_eq!(
        (code((8, 0)), code((8, 9)), code((9, 0)), code((10, 0))),
        (Some(80), Some(80), Some(90), None)
    );
}

/// Overwrites bytes of the LZ4 file; its one entry starts at 16.
fn damaged(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = LZ4.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn damage_is_named() {
    let huge = (MAX_IMAGE_BYTES + 1).to_le_bytes();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            vec![],
            "not a fat binary, a cubin or PTX: it starts with []",
        ),
        (
            b"MZ\x90\0\x03".to_vec(),
            "not a fat binary, a cubin or PTX: it starts with [4d, 5a, 90, 00]",
        ),
        (
            LZ4[..10].to_vec(),
            "the header of the fat binary needs 16 bytes, the image has 10",
        ),
        (
            LZ4[..100].to_vec(),
            "the fat binary needs 6760 bytes, the image has 100",
        ),
        (
            damaged(4, &[7, 0]),
            "version of the fat binary is 0x7, allowed is 1",
        ),
        (
            damaged(6, &[8, 0]),
            "header size of the fat binary is 0x8, allowed is 16 or more",
        ),
        (
            damaged(8, &[0xff; 8]),
            "size of the fat binary is 0xffffffffffffffff, allowed is less than 2^63",
        ),
        (
            damaged(16 + 4, &[0; 4]),
            "header size of an entry is 0x0, allowed is 64 or more",
        ),
        (
            damaged(16 + 8, &[0xff; 8]),
            "the payload of an entry needs 18446744073709551615 bytes, the image has 6760",
        ),
        (
            damaged(16 + 0x10, &[0xff; 4]),
            "the compressed payload of an entry needs 4294967295 bytes, the image has 6632",
        ),
        (
            damaged(16 + 0x29, &[0xa0]),
            "flags of an entry is 0xa011, allowed is one way of compression",
        ),
        (
            damaged(16 + 0x20, &[0xff; 4]),
            "the name of an entry needs 4294967304 bytes, the image has 112",
        ),
        (
            damaged(16 + 0x38, &huge),
            "an image of 536870913 bytes exceeds the limit of 536870912",
        ),
        (
            damaged(16 + 0x38, &[1, 2, 3, 4]),
            "damaged LZ4 stream: 6631 bytes cannot hold 67305985",
        ),
        (
            damaged(16 + 0x38, &[0x80, 0x50]),
            "damaged LZ4 stream: it holds 17712 bytes, announced are 20608",
        ),
        (damaged(16 + 0x28 + 1, &[0x80]), "damaged zstd stream: "),
        (
            b"\x7fELF\x02\x01\x01\0".to_vec(),
            "damaged cubin: Invalid ELF header size or alignment",
        ),
    ];
    for (file, expected) in cases {
        let error = match images(&file) {
            Ok(all) => all[0]
                .contents()
                .err()
                .unwrap_or_else(|| panic!("no error: {expected}")),
            Err(error) => error,
        };
        assert!(
            error.to_string().starts_with(expected),
            "met `{error}`, expected `{expected}`"
        );
    }
}

#[test]
fn images_behind_a_pointer() {
    #[repr(C)]
    struct Wrapper {
        magic: u32,
        version: u32,
        data: *const u8,
        prelinked: *const u8,
    }
    let at = |bytes: &[u8]| {
        // SAFETY: the bytes live until the end of the test and are one of the formats.
        unsafe { images_from_ptr(bytes.as_ptr().cast::<c_void>()) }.map(|all: Vec<Image>| all.len())
    };
    assert_eq!(at(ZSTD), Ok(4));
    let mut longer = LZ4.to_vec();
    longer.extend([0xaa; 64]);
    assert_eq!(at(&longer), Ok(1));
    assert_eq!(at((text("sm_80") + "\0").as_bytes()), Ok(1));
    assert_eq!(
        at(b"\0"),
        Err(ImageError::UnknownFormat { magic: vec![0; 4] })
    );
    assert_eq!(
        at(b"MZ\x90\0"),
        Err(ImageError::UnknownFormat {
            magic: b"MZ\x90\0".to_vec()
        })
    );
    let mut wrapper = Wrapper {
        magic: 0x4662_43b1,
        version: 1,
        data: ZSTD.as_ptr(),
        prelinked: std::ptr::null(),
    };
    // SAFETY: the wrapper and what it leads to live until the end of the test.
    let all = unsafe { images_from_ptr((&raw const wrapper).cast()) }.unwrap();
    assert_eq!(all.len(), 4);
    let elf = all[0].contents().unwrap();
    let mut longer = elf.to_vec();
    longer.extend([0xaa; 64]);
    // SAFETY: as above.
    let cubin = unsafe { images_from_ptr(longer.as_ptr().cast()) }.unwrap();
    assert_eq!(cubin[0].contents().unwrap(), elf);
    wrapper.data = std::ptr::null();
    // SAFETY: as above.
    let error = unsafe { images_from_ptr((&raw const wrapper).cast()) }.unwrap_err();
    assert_eq!(error, ImageError::Null);
    // SAFETY: null is allowed.
    let error = unsafe { images_from_ptr(std::ptr::null()) }.unwrap_err();
    assert_eq!(error, ImageError::Null);
    let _ = (wrapper.version, wrapper.prelinked);
}
