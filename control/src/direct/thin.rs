//! Thin volumes as targets: what they held is given back to their pool. To write zeros over it
//! would take as much of the pool as the volume is large.
//!
//! Only the device-mapper knows what is a thin volume, and `dmsetup` asks it. Where there is none,
//! or its answer is not understood, the volume is one like others, and zeros are written.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use ringback_datapath::{restore::Ground, stop::Stop};

use super::users;
use crate::volume;

const SECTOR_BYTES: u64 = 512;
/// Where dmsetup may be, for users whose PATH does not say.
const DMSETUP: [&str; 3] = ["dmsetup", "/usr/sbin/dmsetup", "/sbin/dmsetup"];
/// Discarded at once: between two of these a restore can be given up.
const STEP_BYTES: u64 = 16 << 30;

/// A thin volume that reads as zeros where it has no blocks.
pub(super) struct Thin {
    /// The device-mapper's name of it.
    name: String,
    pool: Pool,
}

#[derive(Debug, PartialEq, Eq)]
struct Pool {
    block_bytes: u64,
    zeroes_blocks: bool,
}

impl Thin {
    /// `None` for what is no such volume, as far as can be known.
    pub(super) fn of(device: &File) -> Option<Self> {
        let name = mapped_name(&users::device_numbers(&device.metadata().ok()?))?;
        let pool = pool_of(&dmsetup(&["table", &name])?)?;
        let pool = Pool::read(&dmsetup(&["table", &mapped_name(&pool)?])?)?;
        Some(Self { name, pool })
    }

    /// What it holds where it has no blocks.
    pub(super) fn ground(&self) -> Ground {
        match self.pool.zeroes_blocks {
            true => Ground::Zeros,
            false => Ground::StaleBlocks(self.pool.block_bytes),
        }
    }

    /// Gives back the blocks of the volume but for one that its end cuts short; how many bytes read
    /// as zeros then, from the beginning. None do when the pool keeps its blocks.
    pub(super) fn empty(&self, device: &File, bytes: u64, stop: &Stop) -> u64 {
        let whole_bytes = bytes - bytes % self.pool.block_bytes;
        let mut start = 0;
        while start < whole_bytes && !stop.is_asked() {
            let step = STEP_BYTES.min(whole_bytes - start);
            if let Err(error) = volume::discard(device, start, step) {
                let volume = &self.name;
                tracing::warn!(volume, "it takes its whole size of its pool: {error}");
                return 0;
            }
            start += step;
        }
        // The kernel may let a discard pass that meets a write to a snapshot with the same blocks.
        let status = dmsetup(&["status", &self.name]);
        match status.is_some_and(|status| self.has_none(&status, whole_bytes)) {
            true => whole_bytes,
            false => 0,
        }
    }

    /// Whether there are no blocks before `end`: `0 131072 thin 0 -`, or the number of sectors that
    /// have them and the last that does.
    fn has_none(&self, status: &str, end: u64) -> bool {
        let words: Vec<&str> = status.split_whitespace().collect();
        match words[..] {
            [_, _, "thin", "0", "-"] => true,
            [_, _, "thin", sectors, last] => {
                let bytes = |sectors: &str| sectors.parse::<u64>().ok()?.checked_mul(SECTOR_BYTES);
                bytes(sectors) == Some(self.pool.block_bytes) && bytes(last) >= Some(end)
            }
            _ => false,
        }
    }
}

/// The pool's numbers: `0 131072 thin 254:2 1`. Another word would be another volume, which is read
/// where this one has no blocks.
fn pool_of(table: &str) -> Option<String> {
    let words: Vec<&str> = table.split_whitespace().collect();
    match words[..] {
        [_, _, "thin", pool, _] => Some(pool.to_owned()),
        _ => None,
    }
}

impl Pool {
    /// `0 131072 thin-pool 254:0 254:1 128 0 1 skip_block_zeroing`: the sectors of a block, a low
    /// water mark, and options.
    fn read(table: &str) -> Option<Self> {
        let words: Vec<&str> = table.split_whitespace().collect();
        let [_, _, "thin-pool", _, _, sectors, _, options @ ..] = &words[..] else {
            return None;
        };
        let block_bytes = sectors.parse::<u64>().ok()?.checked_mul(SECTOR_BYTES)?;
        (block_bytes > 0).then(|| Self {
            block_bytes,
            zeroes_blocks: !options.contains(&"skip_block_zeroing"),
        })
    }
}

/// The device-mapper's name of a device of these numbers, if it is one of its own.
fn mapped_name(numbers: &str) -> Option<String> {
    let name = fs::read_to_string(format!("/sys/dev/block/{numbers}/dm/name")).ok()?;
    Some(name.trim_end().to_owned())
}

/// What it prints; `None` when it is not there or fails.
fn dmsetup(arguments: &[&str]) -> Option<String> {
    let output = DMSETUP.iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C");
        command.stdin(Stdio::null()).output().ok()
    })?;
    let is_well = output.status.success();
    is_well.then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_as_dmsetup_writes_them() {
        assert_eq!(
            pool_of("0 1024000 thin 254:2 1\n").as_deref(),
            Some("254:2")
        );
        assert_eq!(pool_of("0 1024000 thin 254:2 1 254:9\n"), None, "an origin");
        assert_eq!(pool_of("0 204800 linear 254:2 0\n"), None);
        assert_eq!(pool_of("0 8 linear 8:0 0\n8 8 linear 8:0 64\n"), None);
        let pool = |block_bytes, zeroes_blocks| Pool {
            block_bytes,
            zeroes_blocks,
        };
        let read = |options| Pool::read(&format!("0 204800 thin-pool 254:0 254:1 128 0 {options}"));
        assert_eq!(read("0 "), Some(pool(64 << 10, true)));
        assert_eq!(read("1 skip_block_zeroing "), Some(pool(64 << 10, false)));
        assert_eq!(
            read("2 no_discard_passdown error_if_no_space"),
            Some(pool(64 << 10, true))
        );
        assert_eq!(Pool::read("0 204800 linear 254:2 0\n"), None);
        assert_eq!(Pool::read("0 2048 thin-pool 254:0 254:1 0 0 0"), None);
    }

    #[test]
    fn a_volume_is_empty_when_its_status_says_so() {
        let thin = Thin {
            name: "vm-thin".to_owned(),
            pool: Pool {
                block_bytes: 64 << 10,
                zeroes_blocks: true,
            },
        };
        let is_empty = |status| thin.has_none(status, 100 << 20);
        assert!(is_empty("0 204800 thin 0 -\n"));
        assert!(!is_empty("0 204800 thin 128 127\n"));
        assert!(!is_empty("0 204808 thin 256 204927\n"), "another one, too");
        assert!(is_empty("0 204808 thin 128 204927\n"), "behind the end");
        assert!(!is_empty("0 204800 thin Fail\n"));
        assert!(!is_empty(""));
    }
}
