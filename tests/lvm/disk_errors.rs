//! Disks below a volume group that do not do what they are asked.

use crate::{
    bed::{Bed, Group, Mapping},
    repository::{Repository, assert_ended, ringback, succeed},
    tools::{MIB, assert_same, noise, write_at},
};

/// Of the worn disk, and of the volume on it, in mebibytes.
const DISK_MIB: u64 = 128;
const VOLUME_MIB: u64 = 96;
/// Where LVM puts a group's first extent.
const EXTENTS_AT_MIB: u64 = 1;

#[test]
fn a_sector_that_cannot_be_read_ends_a_backup_with_device_and_place_and_commits_nothing() {
    let bed = Bed::new();
    let group = bed.group();
    let repository = Repository::new(&bed, &group);
    let worn = Mapping::of("worn", bed.disk(2), DISK_MIB);
    let worn_group = Group::make("old", &[&worn.path]);
    let volume = worn_group.thick("data", VOLUME_MIB);
    write_at(&volume.path, 0, &noise("data", VOLUME_MIB * MIB));

    worn.break_at(EXTENTS_AT_MIB + 70);
    let ended = ringback(&["backup", volume.text(), &repository.url("one")]);
    let device = volume.path.canonicalize().expect("is there");
    let says = format!(
        "{}: cannot read byte {} of the volume: Input/output error (os error 5); no backup was \
         made",
        device.display(),
        70 * MIB
    );
    assert_ended(&ended, 1, &says);
    assert_eq!(repository.names(), [""; 0]);

    worn.mend();
    succeed(&["backup", volume.text(), &repository.url("one")]);
    assert_eq!(repository.names(), ["one"]);
    let again = group.thick("again", VOLUME_MIB);
    succeed(&[
        "restore",
        &repository.url("one"),
        again.text(),
        "--overwrite",
    ]);
    assert_same(&again.path, &volume.path);
}

#[test]
fn a_sector_that_cannot_be_written_ends_a_restore_and_says_that_the_device_must_not_be_used() {
    let bed = Bed::new();
    let group = bed.group();
    let repository = Repository::new(&bed, &group);
    let source = group.thick("source", VOLUME_MIB);
    write_at(&source.path, 0, &noise("data", VOLUME_MIB * MIB));
    succeed(&["backup", source.text(), &repository.url("one")]);

    let worn = Mapping::of("worn", bed.disk(2), DISK_MIB);
    let worn_group = Group::make("old", &[&worn.path]);
    let target = worn_group.thick("target", VOLUME_MIB);
    worn.break_at(EXTENTS_AT_MIB + 70);
    let restore = [
        "restore",
        &repository.url("one"),
        target.text(),
        "--overwrite",
    ];
    let device = target.path.canonicalize().expect("is there");
    let says = format!(
        "{} now holds neither what it held nor the backup, and must not be used",
        device.display()
    );
    assert_ended(&ringback(&restore), 1, &says);

    worn.mend();
    succeed(&restore);
    assert_same(&target.path, &source.path);
}
