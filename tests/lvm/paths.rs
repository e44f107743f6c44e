//! Backups and restores of logical volumes by the command line, without a daemon.

use ringback_endpoint::{Backing, Endpoint, Options};

use crate::{
    bed::{Bed, Group, Lv},
    repository::{Repository, assert_ended, ringback, succeed},
    tools::{MIB, assert_same, noise, write_at},
};

/// Data at the beginning, in the middle at an odd place, and in the last sector.
fn scatter(volume: &Lv, mib: u64) {
    for (offset, bytes, seed) in [
        (0, 3 * MIB, "head"),
        (20 * MIB + 512, 2 * MIB, "odd"),
        (mib * MIB - 512, 512, "end"),
    ] {
        write_at(&volume.path, offset, &noise(seed, bytes));
    }
}

/// Asserts that a ring and no page cache were used.
#[track_caller]
fn assert_ring(told: &str, what: &str) {
    let is_so = told.lines().any(|line| {
        line.contains(what) && line.contains("mode=Uring") && line.contains("direct=true")
    });
    assert!(is_so, "{told}");
}

fn round_trip(bed: &Bed, group: &Group, source: &Lv, target: &Lv) {
    let repository = Repository::new(bed, group);
    let url = repository.url("one");
    let told = succeed(&["backup", source.text(), &url]);
    assert_ring(&told, "reading the volume");
    let told = succeed(&["restore", &url, target.text(), "--overwrite"]);
    assert_ring(&told, "writing the volume");
    assert_same(&target.path, &source.path);
    succeed(&["verify", &url, "--data"]);
    // Of the volume the next backup finds what it had.
    let told = succeed(&["backup", source.text(), &repository.url("two")]);
    assert!(told.contains("unchanged"), "{told}");
}

#[test]
fn a_thick_volume_comes_back_in_a_larger_one_that_held_something_else() {
    let bed = Bed::new();
    let group = bed.group();
    let source = group.thick("source", 64);
    scatter(&source, 64);
    let target = group.thick("target", 68);
    write_at(&target.path, 0, &vec![0xaa; 68 << 20]);
    let repository = Repository::new(&bed, &group);
    let url = repository.url("one");
    succeed(&["backup", source.text(), &url]);
    let refused = ringback(&["restore", &url, target.text()]);
    assert_ended(&refused, 7, "holds data");
    succeed(&["restore", &url, target.text(), "--overwrite"]);
    assert_same(&target.path, &source.path);
}

#[test]
fn thick_volumes_come_back_with_rings_and_past_the_page_cache() {
    let bed = Bed::new();
    let group = bed.group();
    let [source, target] = ["source", "target"].map(|name| group.thick(name, 64));
    scatter(&source, 64);
    round_trip(&bed, &group, &source, &target);
}

#[test]
fn thin_volumes_come_back_with_rings_and_past_the_page_cache() {
    let bed = Bed::new();
    let group = bed.group();
    let pool = group.pool("pool", 192);
    let [source, target] = ["source", "target"].map(|name| group.thin(name, 64, &pool));
    scatter(&source, 64);
    round_trip(&bed, &group, &source, &target);
}

#[test]
fn a_thick_volume_comes_back_in_a_thin_one_and_a_thin_one_in_a_thick_one() {
    let bed = Bed::new();
    let group = bed.group();
    let pool = group.pool("pool", 128);
    let [thick, again] = ["thick", "thick-again"].map(|name| group.thick(name, 64));
    let thin = group.thin("thin", 64, &pool);
    scatter(&thick, 64);
    let repository = Repository::new(&bed, &group);
    succeed(&["backup", thick.text(), &repository.url("thick")]);
    succeed(&["restore", &repository.url("thick"), thin.text()]);
    assert_same(&thin.path, &thick.path);
    succeed(&["backup", thin.text(), &repository.url("thin")]);
    succeed(&[
        "restore",
        &repository.url("thin"),
        again.text(),
        "--overwrite",
    ]);
    assert_same(&again.path, &thick.path);
}

#[test]
fn a_disk_of_a_volume_group_is_neither_read_nor_written_over() {
    let bed = Bed::new();
    let group = bed.group();
    let data = group.thick("data", 512);
    let repository = Repository::new(&bed, &group);
    let disk = bed.disk(0).to_str().expect("text");
    let refused = ringback(&["backup", disk, &repository.url("disk")]);
    assert_ended(&refused, 7, "it is part of vg-data");
    succeed(&["backup", data.text(), &repository.url("one")]);
    let refused = ringback(&["restore", &repository.url("one"), disk, "--overwrite"]);
    assert_ended(&refused, 7, "it is part of vg-data");
    assert_eq!(repository.names(), ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thin_volume_goes_to_s3_and_comes_back() {
    let bed = Bed::new();
    let group = bed.group();
    let pool = group.pool("pool", 192);
    let [source, target] = ["source", "target"].map(|name| group.thin(name, 64, &pool));
    scatter(&source, 64);
    let folder = tempfile::tempdir().expect("a folder");
    let endpoint = Endpoint::start(Options {
        buckets: vec!["backups".to_owned()],
        backing: Backing::Folder(folder.path().to_owned()),
        ..Options::default()
    });
    let endpoint = endpoint.await.expect("the endpoint starts");
    for arguments in [
        ["backup", source.text(), "s3://backups/repo/one"],
        ["restore", "s3://backups/repo/one", target.text()],
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringback"));
        command
            .args(arguments)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL_S3", endpoint.url())
            .env("AWS_ACCESS_KEY_ID", endpoint.access_key_id())
            .env("AWS_SECRET_ACCESS_KEY", endpoint.secret_access_key());
        assert_ended(&command.output().expect("runs"), 0, "");
    }
    assert_same(&target.path, &source.path);
}
