//! The guest's disks, and what tests put on them.
//!
//! A test takes the disks with [`Bed::new`] and builds on them with values that take away again
//! what they made, in the order in which values are dropped: the newest first. Nothing may be left
//! then; if something is, it is what ringback left, and the test fails. What earlier tests wrote
//! lies on the disks still, as on disks of people: a new thick volume does not read as zeros.

use std::{
    env, fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use tempfile::TempDir;

use crate::tools::{MIB, output, run};

/// There is one set of disks.
static DISKS: Mutex<()> = Mutex::new(());
const SECTORS_IN_MIB: u64 = MIB / 512;

/// The guest's disks, none of them in use, and a folder for mount points.
pub(crate) struct Bed {
    disks: Vec<PathBuf>,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// A volume group.
pub(crate) struct Group {
    pub(crate) name: String,
}

/// A logical volume, whatever kind.
pub(crate) struct Lv {
    /// `GROUP/NAME`
    pub(crate) name: String,
    /// `/dev/GROUP/NAME`
    pub(crate) path: PathBuf,
}

/// Part of a disk, by way of device-mapper, which can make it fail.
pub(crate) struct Mapping {
    pub(crate) path: PathBuf,
    name: String,
    disk: PathBuf,
    sectors: u64,
}

/// A mounted filesystem.
pub(crate) struct Mount(pub(crate) PathBuf);

impl Bed {
    /// The disks, wiped.
    #[track_caller]
    pub(crate) fn new() -> Self {
        let alone = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
        let disks = env::var("RINGBACK_GUEST_DISKS").expect(
            "these tests wipe disks, and run where tests/vm/run gives them some to wipe: see \
             tests/vm/README.md",
        );
        let bed = Self {
            disks: disks.split_whitespace().map(PathBuf::from).collect(),
            folder: tempfile::tempdir().expect("a folder"),
            _alone: alone,
        };
        bed.wipe();
        let remains = remains();
        assert!(remains.is_empty(), "cannot be wiped: {remains:?}");
        bed
    }

    /// The volume group `vg` on the first two disks, which are of equal size.
    pub(crate) fn group(&self) -> Group {
        Group::make("vg", &[self.disk(0), self.disk(1)])
    }

    /// A disk; the first two are larger than the third.
    pub(crate) fn disk(&self, number: usize) -> &Path {
        &self.disks[number]
    }

    /// Makes a filesystem, `ext4` or `xfs`, and mounts it.
    pub(crate) fn mount_new(&self, filesystem: &str, device: &Path) -> Mount {
        run(&format!("mkfs.{filesystem}"), &["-q", text(device)]);
        self.mount(device)
    }

    /// Mounts a filesystem that is there.
    pub(crate) fn mount(&self, device: &Path) -> Mount {
        let name = device.file_name().expect("has a name");
        let point = self.folder(name);
        run("mount", &[text(device), text(&point)]);
        Mount(point)
    }

    /// A folder for a mount.
    pub(crate) fn folder(&self, name: impl AsRef<Path>) -> PathBuf {
        let point = self.folder.path().join(name);
        fs::create_dir_all(&point).expect("makes a folder");
        point
    }

    /// Takes everything away by force, whoever left it.
    fn wipe(&self) {
        let mounts = fs::read_to_string("/proc/mounts").expect("reads");
        for mount in mounts.lines().filter(|line| line.starts_with("/dev/")) {
            let point = mount.split(' ').nth(1).expect("has a place");
            output("umount", &["--lazy", point]);
        }
        output("losetup", &["--detach-all"]);
        for group in lines("vgs", &["--noheadings", "-o", "vg_name"]) {
            output("vgremove", &["--force", "--force", "--yes", &group]);
        }
        output("dmsetup", &["remove_all", "--force"]);
        for disk in &self.disks {
            run("wipefs", &["--all", "--quiet", text(disk)]);
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let remains = remains();
        if !remains.is_empty() && !thread::panicking() {
            panic!("the test is over, and there still are: {remains:?}");
        }
    }
}

/// Mapped devices, volumes, groups and loop devices that there are.
pub(crate) fn remains() -> Vec<String> {
    let mapped = lines("dmsetup", &["ls"]);
    let mut remains: Vec<String> = mapped
        .into_iter()
        .filter(|line| line != "No devices found")
        .collect();
    remains.extend(lines("lvs", &["-a", "--noheadings", "-o", "lv_full_name"]));
    remains.extend(lines("vgs", &["--noheadings", "-o", "vg_name"]));
    remains.extend(lines("losetup", &["-a"]));
    remains
}

/// The lines that a program printed, without blanks around them.
#[track_caller]
pub(crate) fn lines(program: &str, arguments: &[&str]) -> Vec<String> {
    let printed = run(program, arguments);
    printed.lines().map(|line| line.trim().to_owned()).collect()
}

impl Group {
    pub(crate) fn make(name: &str, disks: &[&Path]) -> Self {
        let mut arguments = vec!["--quiet", "--yes", name];
        arguments.extend(disks.iter().copied().map(text));
        run("vgcreate", &arguments);
        Self {
            name: name.to_owned(),
        }
    }

    /// Makes a volume with `lvcreate`, which gets these options, separated by blanks.
    #[track_caller]
    pub(crate) fn make_lv(&self, name: &str, options: &str) -> Lv {
        let mut arguments = vec!["-qq", "--yes", "--name", name];
        arguments.extend(options.split(' '));
        run("lvcreate", &arguments);
        Lv {
            name: format!("{}/{name}", self.name),
            path: Path::new("/dev").join(&self.name).join(name),
        }
    }

    pub(crate) fn thick(&self, name: &str, mib: u64) -> Lv {
        self.make_lv(name, &format!("--size {mib}m {}", self.name))
    }

    /// A pool for thin volumes.
    pub(crate) fn pool(&self, name: &str, mib: u64) -> Lv {
        self.make_lv(
            name,
            &format!("--type thin-pool --size {mib}m {}", self.name),
        )
    }

    pub(crate) fn thin(&self, name: &str, mib: u64, pool: &Lv) -> Lv {
        self.make_lv(
            name,
            &format!("--virtualsize {mib}m --thinpool {}", pool.name),
        )
    }

    /// A snapshot of a thin volume, active and writable.
    pub(crate) fn thin_snapshot(&self, name: &str, origin: &Lv) -> Lv {
        let options = format!("--snapshot --setactivationskip n {}", origin.name);
        self.make_lv(name, &options)
    }

    /// A snapshot of a thick volume that has room for so much to change.
    pub(crate) fn cow_snapshot(&self, name: &str, mib: u64, origin: &Lv) -> Lv {
        self.make_lv(name, &format!("--snapshot --size {mib}m {}", origin.name))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        output("vgremove", &["-qq", "--yes", &self.name]);
    }
}

impl Lv {
    /// What `lvs` tells of it under this name, without units.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> String {
        let options = [
            "--noheadings",
            "--nosuffix",
            "--units",
            "b",
            "-o",
            name,
            &self.name,
        ];
        run("lvs", &options).trim().to_owned()
    }

    /// Bytes that a thin volume takes of its pool.
    #[track_caller]
    pub(crate) fn mapped_bytes(&self) -> u64 {
        // SECTORS-MAPPED HIGHEST-MAPPED, behind start, length and `thin`.
        let status = run("dmsetup", &["status", text(&self.path)]);
        let sectors = status.split_whitespace().nth(3).expect("a thin volume");
        sectors.parse::<u64>().expect("a number") * 512
    }

    pub(crate) fn text(&self) -> &str {
        text(&self.path)
    }
}

impl Drop for Lv {
    fn drop(&mut self) {
        output("lvremove", &["-qq", "--yes", &self.name]);
    }
}

impl Mapping {
    /// As many mebibytes of a disk, behind the first: LVM, which looks there for what a disk is,
    /// takes a group on the mapping for one on the disk otherwise.
    #[track_caller]
    pub(crate) fn of(name: &str, disk: &Path, mib: u64) -> Self {
        let mapping = Self {
            name: name.to_owned(),
            path: Path::new("/dev/mapper").join(name),
            disk: disk.to_owned(),
            sectors: mib * SECTORS_IN_MIB,
        };
        let table = mapping.linear(0..mapping.sectors);
        run("dmsetup", &["create", name, "--table", &table]);
        mapping
    }

    /// One mebibyte gives errors from now on.
    #[track_caller]
    pub(crate) fn break_at(&self, mib: u64) {
        let hole = mib * SECTORS_IN_MIB..(mib + 1) * SECTORS_IN_MIB;
        self.change_to(&format!(
            "{}\n{} {SECTORS_IN_MIB} error\n{}",
            self.linear(0..hole.start),
            hole.start,
            self.linear(hole.end..self.sectors)
        ));
    }

    /// All of it gives errors from now on.
    #[track_caller]
    pub(crate) fn fail(&self) {
        let (sectors, disk) = (self.sectors, self.disk.display());
        // It is up for no time, and then down for an hour.
        self.change_to(&format!(
            "0 {sectors} flakey {disk} {SECTORS_IN_MIB} 0 3600"
        ));
    }

    /// It works as it did at first.
    #[track_caller]
    pub(crate) fn mend(&self) {
        self.change_to(&self.linear(0..self.sectors));
    }

    /// Becomes another device under the eyes of whoever uses it.
    #[track_caller]
    pub(crate) fn change_to(&self, table: &str) {
        run("dmsetup", &["load", &self.name, "--table", table]);
        run("dmsetup", &["suspend", &self.name]);
        run("dmsetup", &["resume", &self.name]);
    }

    /// A line of a table in which these sectors are the disk's.
    fn linear(&self, sectors: Range<u64>) -> String {
        let (start, count) = (sectors.start, sectors.end - sectors.start);
        let disk = self.disk.display();
        format!("{start} {count} linear {disk} {}", start + SECTORS_IN_MIB)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        output("dmsetup", &["remove", "--retry", &self.name]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        output("umount", &[text(&self.0)]);
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("these tests' paths are text")
}
