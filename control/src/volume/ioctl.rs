//! The kernel calls behind loop devices, reflinks and discards: the one place with `unsafe` in this module.
//!
//! Each function checks nothing and decides nothing; it makes one ioctl(2) call sound. Sources:
//! `linux/loop.h`, `linux/fs.h`, `linux/fiemap.h`, and the kernel's `filesystems/fiemap.rst`.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
};

use nix::libc;

/// The loop device refuses writes.
pub(super) const LO_FLAGS_READ_ONLY: u32 = 1;
/// The loop device goes away with its last opener.
pub(super) const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// The loop device passes the page cache of its image by.
pub(super) const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LoopInfo {
    /// The filesystem of the image, as in `st_dev`.
    pub(crate) device: u64,
    /// The image's inode.
    pub(crate) inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_bytes: u32,
    /// `LO_FLAGS_*`.
    pub(super) flags: u32,
    /// For people who look at it; the kernel does not use it.
    pub(super) file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl LoopInfo {
    pub(super) const EMPTY: LoopInfo = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_bytes: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    image: u32,
    block_bytes: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// `struct fiemap` with room for a batch of extents.
#[repr(C)]
struct ExtentMap {
    head: ExtentMapHead,
    extents: [MappedExtent; EXTENTS_PER_CALL as usize],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ExtentMapHead {
    start: u64,
    length: u64,
    flags: u32,
    mapped_count: u32,
    extent_count: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MappedExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_too: [u32; 3],
}

/// 64 of 56 bytes each: the call's buffer stays under a page.
const EXTENTS_PER_CALL: u32 = 64;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
const FIEMAP_EXTENT_SHARED: u32 = 0x2000;

// The kernel copies by these sizes; a wrong layout here would let it write past our memory.
const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);
const _: () = assert!(size_of::<ExtentMapHead>() == 32);
const _: () = assert!(size_of::<MappedExtent>() == 56);

/// As nix's macros make them; what they do is said at their callers below.
mod raw {
    use super::*;

    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, LoopConfig);
    nix::ioctl_none_bad!(loop_clr_fd, 0x4C01);
    nix::ioctl_write_ptr_bad!(loop_set_status64, 0x4C04, LoopInfo);
    nix::ioctl_read_bad!(loop_get_status64, 0x4C05, LoopInfo);
    nix::ioctl_none_bad!(loop_set_capacity, 0x4C07);
    nix::ioctl_none_bad!(blkflsbuf, nix::request_code_none!(0x12, 97));
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_write_int_bad!(
        ficlone,
        nix::request_code_write!(0x94, 9, size_of::<libc::c_int>())
    );
    nix::ioctl_readwrite_bad!(
        fs_ioc_fiemap,
        nix::request_code_readwrite!(b'f', 11, size_of::<ExtentMapHead>()),
        ExtentMap
    );
}

/// The number of a loop device that nothing is attached to, made if need be. Another process may
/// take it before we do.
pub(super) fn loop_free_number(control: &File) -> io::Result<u32> {
    // SAFETY: the call takes no argument; the descriptor is open for as long as `control` is
    // borrowed.
    let number = unsafe { raw::loop_ctl_get_free(control.as_raw_fd()) }?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Attaches `image` to the unattached loop device `device`; the kernel picks the block size.
pub(super) fn loop_attach(device: &File, image: &File, info: LoopInfo) -> io::Result<()> {
    let config = LoopConfig {
        image: number_of(image.as_raw_fd())?,
        block_bytes: 0,
        info,
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one `struct loop_config` from the pointer; `config` is one (its
    // size is asserted above), it is initialised, and it outlives the call. The kernel takes its
    // own reference to the image's file.
    unsafe { raw::loop_configure(device.as_raw_fd(), &config) }?;
    Ok(())
}

/// Detaches the loop device, as soon as nobody has it open.
pub(super) fn loop_detach(device: &File) -> io::Result<()> {
    // SAFETY: the call takes no argument; the descriptor is open.
    unsafe { raw::loop_clr_fd(device.as_raw_fd()) }?;
    Ok(())
}

/// What is attached to a loop device; ENXIO when nothing is.
pub(crate) fn loop_info(device: &File) -> io::Result<LoopInfo> {
    let mut info = LoopInfo::EMPTY;
    // SAFETY: the kernel writes one `struct loop_info64` to the pointer; `info` has its layout and
    // size, and any bytes are a valid value of its integer fields.
    unsafe { raw::loop_get_status64(device.as_raw_fd(), &mut info) }?;
    Ok(info)
}

/// Changes a loop device's flags and name to those of `info`.
pub(super) fn loop_set_info(device: &File, info: &LoopInfo) -> io::Result<()> {
    // SAFETY: the kernel reads one `struct loop_info64` from the pointer; `info` is one.
    unsafe { raw::loop_set_status64(device.as_raw_fd(), info) }?;
    Ok(())
}

/// Makes a loop device as large as its image has become.
pub(super) fn loop_follow_size(device: &File) -> io::Result<()> {
    // SAFETY: the call takes no argument; the descriptor is open.
    unsafe { raw::loop_set_capacity(device.as_raw_fd()) }?;
    Ok(())
}

/// Writes out the block device and the filesystem mounted from it, in whichever mount namespace.
pub(super) fn flush_block_device(device: &File) -> io::Result<()> {
    // SAFETY: the call takes no argument; the descriptor is open.
    unsafe { raw::blkflsbuf(device.as_raw_fd()) }?;
    Ok(())
}

/// Says that nobody needs these bytes of a block device; what it does then is its own affair.
pub(crate) fn discard(device: &File, start: u64, bytes: u64) -> io::Result<()> {
    // SAFETY: the call reads two numbers, which live during the call.
    unsafe { raw::blkdiscard(device.as_raw_fd(), &[start, bytes]) }?;
    Ok(())
}

/// Makes `to` share all blocks of `from` and take its size, at one moment.
pub(super) fn reflink(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: the argument is a file descriptor by value; both stay open during the call.
    unsafe { raw::ficlone(to.as_raw_fd(), from.as_raw_fd()) }?;
    Ok(())
}

/// How many bytes of `file` lie in blocks that other files have too.
pub(super) fn shared_bytes(file: &File) -> io::Result<u64> {
    let mut shared_bytes: u64 = 0;
    let mut start = 0;
    loop {
        let batch = extents_from(file, start)?;
        let shared = batch
            .iter()
            .filter(|extent| extent.flags & FIEMAP_EXTENT_SHARED != 0);
        shared_bytes += shared.map(|extent| extent.length).sum::<u64>();
        match batch.last() {
            Some(last) if last.flags & FIEMAP_EXTENT_LAST == 0 => {
                start = last.logical + last.length;
            }
            _ => return Ok(shared_bytes),
        }
    }
}

/// The next extents from byte `start` on; none when there are no more.
fn extents_from(file: &File, start: u64) -> io::Result<Vec<MappedExtent>> {
    let nothing = MappedExtent {
        logical: 0,
        physical: 0,
        length: 0,
        reserved: [0; 2],
        flags: 0,
        reserved_too: [0; 3],
    };
    let mut map = ExtentMap {
        head: ExtentMapHead {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped_count: 0,
            extent_count: EXTENTS_PER_CALL,
            reserved: 0,
        },
        extents: [nothing; EXTENTS_PER_CALL as usize],
    };
    // SAFETY: the kernel reads and writes a `struct fiemap` followed by up to `extent_count`
    // extents; `map` is that, with room for just so many.
    unsafe { raw::fs_ioc_fiemap(file.as_raw_fd(), &mut map) }?;
    let mapped = usize::try_from(map.head.mapped_count).map_err(io::Error::other)?;
    Ok(map.extents.iter().take(mapped).copied().collect())
}

/// A descriptor as `struct loop_config` wants it.
fn number_of(descriptor: RawFd) -> io::Result<u32> {
    u32::try_from(descriptor).map_err(io::Error::other)
}
