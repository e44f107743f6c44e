//! Other programs, and bytes on devices.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Output},
};

/// Bytes in a mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// What a program printed, which must succeed.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// How a program ended, however it did.
#[track_caller]
pub(crate) fn output(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program} does not run: {error}"))
}

/// So many bytes that neither repeat nor compress.
pub(crate) fn noise(seed: &str, bytes: u64) -> Vec<u8> {
    let mut noise = vec![0; usize::try_from(bytes).expect("small")];
    let mut hasher = blake3::Hasher::new();
    hasher.update(seed.as_bytes());
    hasher.finalize_xof().fill(&mut noise);
    noise
}

/// Writes, and waits until the disk has it.
#[track_caller]
pub(crate) fn write_at(device: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(device).expect("opens");
    file.write_all_at(bytes, offset).expect("writes");
    file.sync_all().expect("syncs");
}

#[track_caller]
pub(crate) fn read_at(device: &Path, offset: u64, bytes: u64) -> Vec<u8> {
    let mut read = vec![0; usize::try_from(bytes).expect("small")];
    let file = File::open(device).expect("opens");
    file.read_exact_at(&mut read, offset).expect("reads");
    read
}

fn device_bytes(device: &Path) -> u64 {
    let mut device = File::open(device).expect("opens");
    device.seek(SeekFrom::End(0)).expect("seeks")
}

/// Asserts that a device begins with all that another holds, and goes on with zeros.
#[track_caller]
pub(crate) fn assert_same(device: &Path, expected: &Path) {
    let (bytes, expected_bytes) = (device_bytes(device), device_bytes(expected));
    assert!(bytes >= expected_bytes, "{bytes} {expected_bytes}");
    // A piece at a time: memory is slow in the guest, and there is little of it.
    for start in (0..bytes).step_by(1 << 20) {
        let piece = |path, end: u64| read_at(path, start, end.saturating_sub(start).min(MIB));
        let (found, mut wanted) = (piece(device, bytes), piece(expected, expected_bytes));
        wanted.resize(found.len(), 0);
        if found != wanted {
            let differs = found.iter().zip(&wanted).position(|(a, b)| a != b);
            let byte = start + differs.expect("they differ") as u64;
            panic!("{} differs at byte {byte}", device.display());
        }
    }
}
