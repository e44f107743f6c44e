//! Repositories in folders of filesystems of their own: full, read-only, without links, not mounted.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::{Folder, MIB, run};

const RINGBACK: &str = env!("CARGO_BIN_EXE_ringback");

/// A folder for a repository on a filesystem of its own, and a disk's image elsewhere.
struct Bed {
    filesystem: Folder,
    disk: PathBuf,
}

impl Bed {
    fn on(filesystem: Folder) -> Self {
        fs::create_dir(&filesystem.path).expect("makes a folder");
        let disk = filesystem.temporary.path().join("disk.img");
        let file = File::create_new(&disk).expect("makes a file");
        file.write_all_at(&noise("first", 24), MIB).expect("writes");
        Self { filesystem, disk }
    }

    fn mount_point(&self) -> &Path {
        self.filesystem.path.parent().expect("it lies on the disk")
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}/{name}", self.filesystem.path.display())
    }

    fn ringback(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(RINGBACK);
        command
            .args(arguments)
            .current_dir(self.filesystem.temporary.path());
        command.output().expect("it runs")
    }

    fn back_up(&self, name: &str) -> Output {
        let disk = self.disk.display().to_string();
        self.ringback(&["backup", &disk, &self.url(name)])
    }

    /// Restores and compares.
    #[track_caller]
    fn assert_restores(&self, name: &str) {
        let again = self.filesystem.temporary.path().join(name);
        let target = again.display().to_string();
        assert_ended(
            &self.ringback(&["restore", &self.url(name), &target]),
            0,
            "",
        );
        run(Command::new("cmp").arg(&self.disk).arg(&again));
        fs::remove_file(again).expect("removes it");
    }

    fn drafts(&self) -> usize {
        let drafts = fs::read_dir(self.filesystem.path.join(".uploads"));
        drafts.map_or(0, Iterator::count)
    }
}

/// So many MiB that do not repeat.
fn noise(seed: &str, mib: usize) -> Vec<u8> {
    let mut bytes = vec![0; mib << 20];
    let mut hasher = blake3::Hasher::new();
    hasher.update(seed.as_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

#[track_caller]
fn assert_ended(output: &Output, code: i32, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(says), "{said}");
}

#[test]
fn a_repository_s_disk_that_is_full_ends_the_backup_and_keeps_what_it_had() {
    let bed = Bed::on(Folder::on_ext4(64 * MIB));
    assert_ended(&bed.back_up("one"), 0, "");
    let grown = || File::options().write(true).open(&bed.disk).expect("opens");
    let written = grown().write_all_at(&noise("more", 40), 32 * MIB);
    written.expect("writes");
    let full = bed.back_up("two");
    assert_ended(
        &full,
        1,
        "No space left on device (os error 28); make room there",
    );
    // Which call meets it first, that for a file or for its folder, is not given.
    let place = format!("{}/data/", bed.filesystem.path.display());
    assert_ended(&full, 1, &place);
    assert_eq!(bed.drafts(), 0);
    let listed = bed.ringback(&["list", &bed.url("")]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.contains("\none ") && !listed.contains("\ntwo "),
        "{listed}"
    );

    // What fits is there already, and the next run goes on with it.
    grown().set_len(40 * MIB).expect("cuts it");
    assert_ended(&bed.back_up("two"), 0, "");
    assert_ended(&bed.ringback(&["verify", "--data", &bed.url("")]), 0, "");
    bed.assert_restores("two");
}

#[test]
fn a_filesystem_mounted_read_only_can_be_restored_from_and_says_that_it_cannot_be_written() {
    let bed = Bed::on(Folder::on_ext4(128 * MIB));
    assert_ended(&bed.back_up("one"), 0, "");
    run(Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(bed.mount_point()));
    assert_ended(&bed.ringback(&["verify", "--data", &bed.url("")]), 0, "");
    bed.assert_restores("one");
    let says = "Read-only file system (os error 30); it is mounted read-only";
    assert_ended(&bed.back_up("two"), 4, says);
}

#[test]
fn below_the_mount_point_of_a_disk_that_is_not_mounted_nothing_is_made() {
    let bed = Bed::on(Folder::on_ext4(128 * MIB));
    assert_ended(&bed.back_up("one"), 0, "");
    run(Command::new("umount").arg(bed.mount_point()));
    for output in [bed.back_up("two"), bed.ringback(&["list", &bed.url("")])] {
        assert_ended(&output, 3, "mount the disk that it lies on, or make it");
    }
    let left = fs::read_dir(bed.mount_point()).expect("lists");
    assert_eq!(left.count(), 0);
}

/// FAT has neither links nor owners. Kernels of small virtual machines cannot mount it, so this
/// runs only when asked for; what such a filesystem answers is shown without root by
/// `tests/e2e/standalone/folder.rs`.
#[test]
#[ignore = "needs a kernel that mounts vfat"]
fn a_stick_with_fat_holds_a_repository() {
    let bed = Bed::on(Folder::on_fat(256 * MIB));
    for name in ["one", "two"] {
        assert_ended(&bed.back_up(name), 0, "");
    }
    assert_ended(&bed.back_up("two"), 7, "already a backup");
    assert_ended(&bed.ringback(&["verify", "--data", &bed.url("")]), 0, "");
    bed.assert_restores("one");
    assert_eq!(bed.drafts(), 0);
}
