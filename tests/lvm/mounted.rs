//! Volumes with a mounted filesystem, by the command line without a daemon: refused, and what is
//! said to do instead does (docs/operations/command-line.md).

use std::fs;

use crate::{
    bed::{Bed, Group, Lv, Mount, text},
    repository::{Repository, assert_ended, ringback, succeed},
    tools::{MIB, noise, run},
};

/// Synced to the filesystem before anything is backed up.
fn content() -> Vec<u8> {
    noise("content", 4 * MIB)
}

fn fill(mount: &Mount) {
    let file = mount.0.join("file");
    fs::write(&file, content()).expect("writes");
    run("sync", &[text(&file)]);
}

fn assert_in_use(origin: &Lv, mount: &Mount, repository: &Repository) {
    let device = origin.path.canonicalize().expect("is there");
    let uses = format!(
        "{} is in use: it is mounted at {}. ",
        device.display(),
        mount.0.display()
    );
    let refused = ringback(&["backup", origin.text(), &repository.url("no")]);
    let instead = "A backup of what changes meanwhile may be torn: back up a snapshot of it \
                   (lvcreate --snapshot; ringback does not yet take one by itself), or take it as \
                   it is with --live";
    assert_ended(&refused, 7, &format!("{uses}{instead}"));

    let live = repository.url("live");
    let told = succeed(&["backup", origin.text(), &live, "--live"]);
    let warned = "not certain to be one moment's state";
    assert!(told.contains(warned), "{told}");
    let refused = ringback(&["restore", &live, origin.text(), "--overwrite"]);
    let instead = "Free it first; nothing is restored over what is in use";
    assert_ended(&refused, 7, &format!("{uses}{instead}"));
    assert_eq!(repository.names(), ["live"]);
}

/// Backs a snapshot up as a backup of its origin; what was told.
fn back_up(snapshot: &Lv, origin: &Lv, url: &str) -> String {
    let names = ["--handle", &origin.name, "--identity", &origin.name];
    succeed(&[&["backup", snapshot.text(), url], &names[..]].concat())
}

/// Asserts that the file is in what comes back, and that the filesystem is clean.
fn assert_comes_back(bed: &Bed, group: &Group, url: &str) {
    let again = group.thick("again", 64);
    succeed(&["restore", url, again.text(), "--overwrite"]);
    let mount = bed.mount(&again.path);
    let found = fs::read(mount.0.join("file")).expect("reads");
    assert!(found == content());
    drop(mount);
    run("e2fsck", &["-fn", again.text()]);
}

fn snapshots_will_do(bed: &Bed, group: &Group, origin: &Lv, take: impl Fn() -> Lv) {
    let mount = bed.mount_new("ext4", &origin.path);
    fill(&mount);
    let repository = Repository::new(bed, group);
    assert_in_use(origin, &mount, &repository);
    for (name, finds) in [("monday", "new"), ("tuesday", "unchanged")] {
        // Each time it is another device, and goes again.
        let told = back_up(&take(), origin, &repository.url(name));
        assert!(told.contains(finds), "{told}");
    }
    assert_comes_back(bed, group, &repository.url("tuesday"));
}

#[test]
fn a_mounted_thick_volume_is_refused_and_a_snapshot_of_it_will_do() {
    let bed = Bed::new();
    let group = bed.group();
    let origin = group.thick("origin", 64);
    let take = || group.cow_snapshot("moment", 16, &origin);
    snapshots_will_do(&bed, &group, &origin, take);
}

#[test]
fn a_mounted_thin_volume_is_refused_and_a_snapshot_of_it_will_do() {
    let bed = Bed::new();
    let group = bed.group();
    let pool = group.pool("pool", 128);
    let origin = group.thin("origin", 64, &pool);
    let take = || group.thin_snapshot("moment", &origin);
    snapshots_will_do(&bed, &group, &origin, take);
}
