//! The machine: what it is, and how busy it is with other things.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::statfs;
use procfs::{CpuInfo, Current, CurrentSI, KernelStats, LoadAverage, Meminfo};
use serde::{Deserialize, Serialize};

use crate::units::gib;

/// How long the machine is looked at before anything is measured.
const LOOK: Duration = Duration::from_secs(2);
/// Share of all cores that others may take before figures become doubtful.
pub const OTHERS_MAX: f64 = 0.10;

/// A machine in neutral words: no name, no address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that the kernel sees.
    pub cores: usize,
    /// What the first of them calls itself.
    pub cpu: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Type of the filesystem that the volume and the restored one lie on.
    pub filesystem: String,
    /// Load average of one minute when the run began.
    pub load: f32,
    /// Share of all cores that was busy before the run began.
    pub busy_share: f64,
}

impl Machine {
    /// Looks at this machine for two seconds; `folder` is where the volumes will be.
    pub fn look(folder: &Path) -> Self {
        let busy_share = Busy::now().map_or(0.0, |before| {
            thread::sleep(LOOK);
            before.others_since(0.0)
        });
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: cores(),
            cpu: cpu_name(),
            memory_bytes: Meminfo::current().map_or(0, |memory| memory.mem_total),
            kernel: release.trim().to_owned(),
            filesystem: filesystem(folder),
            load: LoadAverage::current().map_or(0.0, |load| load.one),
            busy_share,
        }
    }

    /// On one line.
    pub fn describe(&self) -> String {
        format!(
            "{} cores ({}), {:.0} GiB of memory, Linux {}, {}",
            self.cores,
            self.cpu,
            gib(self.memory_bytes),
            self.kernel,
            self.filesystem
        )
    }
}

/// Memory that could be taken now, in bytes.
pub fn available_memory_bytes() -> Option<u64> {
    Meminfo::current().ok()?.mem_available
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn cpu_name() -> String {
    let known = CpuInfo::current().ok();
    let name = known.and_then(|info| info.model_name(0).map(str::to_owned));
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn filesystem(folder: &Path) -> String {
    let Ok(about) = statfs::statfs(folder) else {
        return "unknown filesystem".to_owned();
    };
    match about.filesystem_type() {
        statfs::EXT4_SUPER_MAGIC => "ext4".to_owned(),
        statfs::XFS_SUPER_MAGIC => "xfs".to_owned(),
        statfs::BTRFS_SUPER_MAGIC => "btrfs".to_owned(),
        statfs::TMPFS_MAGIC => "tmpfs".to_owned(),
        statfs::OVERLAYFS_SUPER_MAGIC => "overlayfs".to_owned(),
        other => format!("filesystem {:#x}", other.0),
    }
}

/// CPU time that the whole machine had used at a moment.
///
/// User and system time; not interrupts, which nobody can be charged with, and not what a
/// hypervisor took.
pub struct Busy {
    at: Instant,
    seconds: f64,
}

impl Busy {
    /// `None` where the kernel does not tell.
    pub fn now() -> Option<Self> {
        let total = KernelStats::current().ok()?.total;
        let ticks = total.user + total.nice + total.system;
        Some(Self {
            at: Instant::now(),
            seconds: ticks as f64 / procfs::ticks_per_second() as f64,
        })
    }

    /// Share of all cores that was busy since, without the `known` seconds of CPU.
    pub fn others_since(&self, known: f64) -> f64 {
        let Some(now) = Self::now() else {
            return 0.0;
        };
        let elapsed = (now.at - self.at).as_secs_f64() * cores() as f64;
        let others = now.seconds - self.seconds - known;
        (others / elapsed).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_seen_and_what_is_known_is_left_out() {
        let before = Busy::now().expect("/proc/stat");
        let mut work = 0u64;
        while before.at.elapsed() < Duration::from_millis(300) {
            work = std::hint::black_box(work.wrapping_mul(3).wrapping_add(1));
        }
        // Ticks are 10 ms, and others may run too: at least half of one core was ours.
        assert!(before.others_since(0.0) >= 0.5 / cores() as f64);
        assert_eq!(before.others_since(1000.0), 0.0);
    }

    #[test]
    fn this_machine_has_cores_and_memory_and_a_description_without_its_name() {
        let machine = Machine::look(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory_bytes > 0);
        let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
        assert!(!machine.describe().contains(name.trim()), "{}", name.trim());
    }
}
