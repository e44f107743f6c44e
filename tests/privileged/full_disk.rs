//! Disks that are full, or become so while a job runs.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::{Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    bed::{Daemon, Sink, User},
    support::{Folder, MIB},
};

const DISK_BYTES: u64 = 1536 * MIB;
const DATA_BYTES: u64 = 400 * MIB;
const DEADLINE: Duration = Duration::from_secs(60);

/// Writes data that is nowhere else.
fn fill(volume: &Path, bytes: u64) {
    let file = File::options().write(true).open(volume).expect("opens");
    let mut content = blake3::Hasher::new().update(b"full").finalize_xof();
    let mut block = vec![0; 1 << 20];
    for at in (0..bytes).step_by(block.len()) {
        content.fill(&mut block);
        file.write_all_at(&block, at).expect("writes");
    }
    file.sync_all().expect("syncs");
}

/// Takes all room that there is.
fn exhaust(filler: &Path) {
    let file = File::create(filler).expect("makes the filler");
    let block = vec![1; 1 << 16];
    let mut at = 0;
    while file.write_all_at(&block, at).is_ok() {
        at += block.len() as u64;
    }
    // An error shows here at the latest, and is wanted.
    let _ = file.sync_all();
}

#[track_caller]
fn assert_failed(output: &Output, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it did not fail: {said}");
    assert!(said.contains(says), "{said}");
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn entries(group: &Path, part: &str) -> Vec<String> {
    let listed = fs::read_dir(group.join(part)).expect("lists");
    let names = listed.map(|entry| entry.expect("an entry").file_name());
    names.map(|name| name.to_string_lossy().into()).collect()
}

#[test]
fn a_disk_that_becomes_full_ends_a_restore_and_nothing_is_left_of_it() {
    let disk = Folder::on_ext4(DISK_BYTES);
    let elsewhere = Folder::on_tmp();
    let sink = Sink::start();
    let origin = Daemon::start(&sink, &elsewhere.path, "{}", User::Root);
    origin.ringback(&["lv", "create", "data", "--size", "1GiB"]);
    fill(&origin.path_of("data"), DATA_BYTES);
    origin.ringback(&["backup", "data", "s3://backups/repo/one"]);

    let daemon = Daemon::start(&sink, &disk.path, "{}", User::Root);
    let restore = ["restore", "s3://backups/repo/one", "again"];
    let mut command = daemon.command(&restore);
    let restoring = command.stdout(Stdio::null()).stderr(Stdio::piped());
    let restoring = restoring.spawn().expect("starts");
    let pending = disk.path.join("pending/again/image");
    wait_until("data in the volume", || {
        fs::metadata(&pending).is_ok_and(|image| image.blocks() > 0)
    });
    let store = Pid::from_raw(sink.pid().cast_signed());
    kill(store, Signal::SIGSTOP).expect("the store stops");
    let filler = disk.path.join("filler");
    exhaust(&filler);
    kill(store, Signal::SIGCONT).expect("the store goes on");
    let output = restoring.wait_with_output().expect("ends");
    assert_failed(&output, "No space left on device");
    assert_eq!(entries(&disk.path, "volumes"), [""; 0]);
    assert_eq!(entries(&disk.path, "pending"), [""; 0]);
    wait_until("an empty trash", || entries(&disk.path, "trash").is_empty());

    let none = daemon
        .command(&["lv", "create", "more", "--size", "64MiB"])
        .output();
    assert_failed(&none.expect("runs"), "make room (ResourceExhausted)");
    fs::remove_file(&filler).expect("removes the filler");
    daemon.ringback(&restore);
    let (left, right) = (origin.path_of("data"), daemon.path_of("again"));
    let same = std::process::Command::new("cmp")
        .arg(left)
        .arg(right)
        .status();
    assert!(same.expect("cmp runs").success());
}

#[test]
fn a_volume_that_has_no_room_for_its_copy_is_not_backed_up_and_keeps_its_room() {
    let disk = Folder::on_ext4(DISK_BYTES);
    let sink = Sink::start();
    let daemon = Daemon::start(&sink, &disk.path, "{}", User::Root);
    daemon.ringback(&["lv", "create", "data", "--size", "1GiB"]);
    fill(&daemon.path_of("data"), 1024 * MIB);
    let backup = daemon
        .command(&["backup", "data", "s3://backups/repo/one"])
        .output();
    assert_failed(&backup.expect("runs"), "ask for less, or make room");
    assert_eq!(entries(&disk.path, "temporary"), [""; 0]);
    assert_eq!(entries(&disk.path, "volumes"), ["data"]);
}

/// Whether there is room for this file, of one byte.
fn has_room(file: &Path) -> bool {
    let made = File::create(file);
    let kept = made.and_then(|file| file.write_all_at(&[1], 0).and_then(|()| file.sync_all()));
    kept.is_ok()
}

#[test]
fn a_full_disk_costs_the_copies_of_index_segments_and_no_backup() {
    let disk = Folder::on_ext4(64 * MIB);
    let elsewhere = Folder::on_tmp();
    let sink = Sink::start();
    let settings = format!("{{cache-directory: {}}}", disk.path.join("cache").display());
    let daemon = Daemon::start(&sink, &elsewhere.path, &settings, User::Root);
    daemon.ringback(&["lv", "create", "data", "--size", "64MiB"]);
    let warnings = || {
        let warning = "going on without the cache of index segments";
        daemon.log().matches(warning).count()
    };
    fill(&daemon.path_of("data"), 4 * MIB);
    daemon.ringback(&["backup", "data", "s3://backups/repo/one"]);
    assert_eq!(warnings(), 0, "{}", daemon.log());
    exhaust(&disk.path.join("filler"));
    // What a filesystem holds back while it is written to is there again afterwards.
    let mut crumbs = (0..).map(|n| disk.path.join(format!("crumb-{n}")));
    assert!(crumbs.any(|crumb| !has_room(&crumb)));
    fill(&daemon.path_of("data"), 8 * MIB);
    daemon.ringback(&["backup", "data", "s3://backups/repo/two"]);
    assert_eq!(warnings(), 1, "{}", daemon.log());
    daemon.ringback(&["backup", "data", "s3://backups/repo/three"]);
}
