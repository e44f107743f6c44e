//! Backups and restores of logical volumes by the command line, without a daemon.

use ringback_endpoint::{Backing, Endpoint, Options};

use crate::{
    bed::{Bed, Group, Lv},
    repository::{Repository, assert_ended, ringback, succeed},
    tools::{MIB, assert_same, noise, read_at, run, write_at},
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

/// Asserts that this was done, and each time with a ring and past the page cache.
#[track_caller]
pub(crate) fn assert_ring(told: &str, what: &str) {
    let mut times = told.lines().filter(|line| line.contains(what)).peekable();
    assert!(times.peek().is_some(), "{told}");
    let is_so = |line: &str| line.contains("mode=Uring") && line.contains("direct=true");
    assert!(times.all(is_so), "{told}");
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

/// A volume that is full of `0xaa` where a backup will not write all of it back, and what a pool
/// holds that nobody has.
fn soil(group: &Group, pool: &Lv, target: &Lv, mib: u64) {
    let dirt = group.thin("dirt", mib, pool);
    write_at(&dirt.path, 0, &vec![0xee; as_len(mib * MIB)]);
    drop(dirt);
    for (offset, bytes) in [
        (0, 4 * MIB),
        (20 * MIB, 24 * MIB + 4096),
        (64 * MIB, 4 * MIB),
    ] {
        write_at(&target.path, offset, &vec![0xaa; as_len(bytes)]);
    }
}

fn as_len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("small")
}

/// A backup of 5 MiB of data in 64 MiB, and its source.
fn stored(group: &Group, repository: &Repository) -> Lv {
    let source = group.thick("source", 64);
    write_at(&source.path, 0, &vec![0; 64 << 20]);
    scatter(&source, 64);
    succeed(&["backup", source.text(), &repository.url("one")]);
    source
}

#[track_caller]
fn restore_over(target: &Lv, repository: &Repository, source: &Lv) {
    let url = repository.url("one");
    succeed(&["restore", &url, target.text(), "--overwrite"]);
    assert_same(&target.path, &source.path);
}

#[test]
fn a_thin_volume_that_held_something_else_stays_thin_and_shows_nothing_of_it() {
    let bed = Bed::new();
    let group = bed.group();
    let repository = Repository::new(&bed, &group);
    let source = stored(&group, &repository);
    // The last block is cut short by the end of a volume of 68 MiB, but for those of 64 KiB.
    for options in [
        "--chunksize 64k",
        "--chunksize 1152k",
        "--chunksize 1152k --zero n",
    ] {
        let pool = format!("--type thin-pool --size 64m {options} vg");
        let pool = group.make_lv("pool", &pool);
        let target = group.thin("target", 68, &pool);
        soil(&group, &pool, &target, 24);
        let snapshot = group.thin_snapshot("moment", &target);
        restore_over(&target, &repository, &source);
        let mapped_mib = target.mapped_bytes() / MIB;
        assert!(mapped_mib <= 16, "{options}: {mapped_mib} MiB");
        // What it shared with others is theirs as before.
        assert!(read_at(&snapshot.path, 20 * MIB, 24 * MIB) == vec![0xaa; 24 << 20]);
    }
}

#[test]
fn a_thin_volume_is_written_over_with_zeros_where_its_blocks_cannot_be_given_back() {
    let bed = Bed::new();
    let group = bed.group();
    let repository = Repository::new(&bed, &group);
    let source = stored(&group, &repository);
    let pool = group.make_lv("pool", "--type thin-pool --size 160m --discards ignore vg");
    let target = group.thin("target", 68, &pool);
    soil(&group, &pool, &target, 24);
    restore_over(&target, &repository, &source);
    assert_eq!(target.mapped_bytes(), 68 * MIB);
    drop((target, pool));

    // Below a volume without blocks another one shows.
    let pool = group.pool("pool", 160);
    let origin = group.thick("origin", 68);
    write_at(&origin.path, 0, &vec![0xaa; 68 << 20]);
    run(
        "lvchange",
        &["--permission", "r", "--activate", "n", &origin.name],
    );
    let names = format!("--thinpool {} {}", pool.name, origin.name);
    let target = group.make_lv(
        "target",
        &format!("--snapshot --setactivationskip n {names}"),
    );
    restore_over(&target, &repository, &source);
    assert_eq!(target.mapped_bytes(), 68 * MIB);
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
