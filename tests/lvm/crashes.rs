//! `kill -9` of the daemon, and of nothing else: LVM's commands go on.

use std::{fs, io::Write as _, path::Path, process::Command, time::Duration};

use nix::sys::signal::Signal;
use ringback_proto::lvmd::{CreateLvSnapshotRequest, RemoveLvRequest, StateType};
use tonic::{Code, Status};

use crate::{
    client::{assert_refused, asynchronous, backup, synchronous, with_source},
    harness::{MIB, ended_well, signal, wait_for},
    store::{Store, fill},
    tools::noise,
    valve::Valve,
    vg::{Bed, CLASSES, VG, assert_holds, content, device, device_numbers, run},
};

/// While this file is there, commands of LVM that have a word of it in their arguments wait before
/// they begin, and say so in the other file.
const HELD: &str = "/tmp/held";
const WAITING: &str = "/tmp/waiting";
/// While this file is there as well, those that wait end without having begun.
const GIVEN_UP: &str = "/tmp/given-up";
/// With this one they keep the group to themselves as they wait, as LVM does while it writes.
const LOCKED: &str = "/tmp/locked";

/// A daemon whose commands of LVM can be held up.
async fn bed() -> Bed {
    let script = format!(
        "#!/bin/bash\n\
         lock=/run/lock/lvm/V_{VG}\n\
         while word=$(cat {HELD} 2>/dev/null) && [[ \"$*\" == *$word* ]]; do\n\
         \x20   # LVM removes the file when it is done with it.\n\
         \x20   while [ -e {LOCKED} ] && ! [ /dev/fd/9 -ef $lock ]; do exec 9>>$lock; flock 9; done\n\
         \x20   echo \"$*\" >{WAITING}; [ ! -e {GIVEN_UP} ] || exit 1; sleep 0.05\ndone\n\
         exec lvm \"$@\" 9>&-\n"
    );
    let path = "/tmp/held-lvm";
    fs::write(path, script).expect("writes the script");
    let_go();
    Bed::with("", &format!("lvm-command-prefix: [/bin/bash, {path}]\n")).await
}

fn hold(word: &str) {
    let _ = fs::remove_file(WAITING);
    fs::write(HELD, word).expect("writes");
}

/// The same, while they keep the group to themselves.
fn hold_the_group(word: &str) {
    fs::write(LOCKED, "").expect("writes");
    hold(word);
}

async fn nobody_can_read() {
    is_held().await;
    // While it waits it listens to nothing else.
    let lvs = ["--signal=KILL", "1", "lvs", VG];
    let lvs = Command::new("timeout").args(lvs).output();
    assert!(!lvs.expect("it runs").status.success());
}

async fn is_held() {
    wait_for("a command that waits", async || {
        Path::new(WAITING).exists().then_some(())
    })
    .await;
}

/// Ends what is held, as if the host had gone down before it began.
async fn give_up() {
    fs::write(GIVEN_UP, "").expect("writes");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let_go();
}

/// What of a group's volumes a boot of the host makes active again.
fn boot() {
    run(&["vgchange", "--activate", "n", VG]);
    run(&["vgchange", "--activate", "y", VG]);
}

/// Names and attributes of what is ours.
fn own_rows() -> Vec<String> {
    let rows = run(&["lvs", "--noheadings", "-o", "lv_name,lv_attr", VG]);
    let own = rows.lines().filter(|row| row.contains(".ringback"));
    own.map(|row| row.trim().to_owned()).collect()
}

fn let_go() {
    let _ = fs::remove_file(GIVEN_UP);
    let _ = fs::remove_file(LOCKED);
    let _ = fs::remove_file(HELD);
    let _ = fs::remove_file(WAITING);
}

/// A volume of 64 MiB, backed up as `monday`.
async fn backed_up(bed: &mut Bed, class: &str) -> Vec<u8> {
    bed.store = Store::start().await;
    bed.create(class, "data", 64 * MIB).await;
    fill(&format!("/dev/{VG}/data"), 0, 60 * MIB, class);
    run(&["sync"]);
    bed.client.back_up("data", &bed.store.s3("monday")).await;
    content("data")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_was_about_is_gone_after_its_next_start_and_can_be_asked_for_again() {
    let mut bed = bed().await;
    for class in CLASSES {
        let original = backed_up(&mut bed, class).await;
        let free = bed.free_bytes(class).await;
        let valve = Valve::to(&bed.store).await;
        let mut request = with_source(
            "again",
            1,
            &asynchronous(&valve.through(bed.store.s3("monday"))),
        );
        request.device_class = class.to_owned();
        bed.client
            .clone()
            .lv
            .create_lv(request)
            .await
            .expect("it answers");
        valve.is_shut().await;
        let second = Valve::shut_after(&bed.store, 100 << 10).await;
        fill(&format!("/dev/{VG}/data"), 0, 32 * MIB, "changed");
        let request = backup("tuesday", "data", &second.through(bed.store.s3("tuesday")));
        bed.client.poll(&request).await.expect("it starts");
        wait_for("both to be under way", async || {
            (own_rows().len() == 2).then_some(())
        })
        .await;
        bed.daemon.kill();
        boot();
        for row in own_rows() {
            // An old-style snapshot is active with its volume, which udev prefers.
            let is_left_alone = !row.contains(" s") && row.as_bytes()[row.len() - 6] == b'-';
            assert!(
                is_left_alone || class == "thick" && row.contains(" s"),
                "{row}"
            );
        }
        bed.restart().await;
        assert_eq!(bed.names(class).await, ["data"]);
        bed.assert_left(&["data"]);
        assert_eq!(bed.free_bytes(class).await, free);
        second.open();
        let state = bed.client.end_of(&request).await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
        let mut request = with_source("again", 1, &synchronous(&bed.store.s3("monday")));
        request.device_class = class.to_owned();
        bed.client
            .clone()
            .lv
            .create_lv(request)
            .await
            .expect("it is restored");
        assert_holds("again", &original);
        bed.assert_left(&["again", "data"]);
        for name in ["again", "data"] {
            bed.remove(class, name).await.expect("it is removed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_rename_and_the_last_tag_a_volume_is_there_and_whole() {
    let mut bed = bed().await;
    for class in CLASSES {
        let original = backed_up(&mut bed, class).await;
        hold("--deltag");
        let mut request = with_source("again", 1, &asynchronous(&bed.store.s3("monday")));
        request.device_class = class.to_owned();
        bed.client
            .clone()
            .lv
            .create_lv(request)
            .await
            .expect("it answers");
        is_held().await;
        assert!(device("again").exists(), "it has its name");
        // A change that takes long may have callers told what there was before it.
        let told = bed.names(class).await;
        assert!(told == ["again", "data"] || told == ["data"], "{told:?}");
        bed.daemon.kill();
        give_up().await;
        boot();
        assert!(!device("again").exists(), "active without its last step");
        bed.restart().await;
        assert_eq!(bed.names(class).await, ["again", "data"]);
        assert_holds("again", &original);
        bed.assert_left(&["again", "data"]);
        for name in ["again", "data"] {
            bed.remove(class, name).await.expect("it is removed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_rename_nothing_is_left() {
    let mut bed = bed().await;
    for class in CLASSES {
        backed_up(&mut bed, class).await;
        hold("lvrename");
        let mut request = with_source("again", 1, &asynchronous(&bed.store.s3("monday")));
        request.device_class = class.to_owned();
        bed.client
            .clone()
            .lv
            .create_lv(request)
            .await
            .expect("it answers");
        is_held().await;
        bed.daemon.kill();
        give_up().await;
        bed.restart().await;
        assert_eq!(bed.names(class).await, ["data"]);
        bed.assert_left(&["data"]);
        bed.remove(class, "data").await.expect("it is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_outlives_its_daemon_is_waited_for_and_what_it_made_is_swept() {
    let mut bed = bed().await;
    for class in CLASSES {
        backed_up(&mut bed, class).await;
        hold("ringback-restore");
        let mut request = with_source("again", 1, &asynchronous(&bed.store.s3("monday")));
        request.device_class = class.to_owned();
        let mut lv = bed.client.clone().lv;
        let call = tokio::spawn(async move { lv.create_lv(request).await });
        is_held().await;
        bed.daemon.kill();
        let later = tokio::spawn(async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let_go();
        });
        bed.restart().await;
        assert_eq!(bed.names(class).await, ["data"]);
        bed.assert_left(&["data"]);
        later.await.expect("let go");
        assert!(call.await.expect("no panic").is_err());
        bed.remove(class, "data").await.expect("it is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_command_takes_long_others_are_answered_and_a_caller_that_goes_away_stops_none() {
    let bed = bed().await;
    bed.create("thick", "data", 8 * MIB).await;
    hold("new-volume");
    let mut lv = bed.daemon.client().await.lv;
    let request = crate::client::sized_bytes("new-volume", 8 * MIB);
    let call = tokio::spawn(async move { lv.create_lv(request).await });
    is_held().await;
    for _ in 0..10 {
        assert_eq!(bed.names("thick").await, ["data"]);
        bed.free_bytes("thin").await;
    }
    call.abort();
    assert!(call.await.expect_err("is gone").is_cancelled());
    let_go();
    wait_for("the volume all the same", async || {
        (bed.names("thick").await == ["data", "new-volume"]).then_some(())
    })
    .await;
    bed.assert_left(&["data", "new-volume"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_command_keeps_the_group_others_are_told_what_there_was_before_it() {
    let bed = bed().await;
    for class in CLASSES {
        let data = format!("{class}-data");
        let old = format!("{class}-old");
        bed.create(class, &data, 8 * MIB).await;
        bed.create(class, &old, 8 * MIB).await;
        let free = bed.free_bytes(class).await;
        let mut lv = bed.daemon.client().await.lv;
        let request = RemoveLvRequest {
            name: old.clone(),
            device_class: class.to_owned(),
        };
        hold_the_group(&old);
        let call = tokio::spawn(async move { lv.remove_lv(request).await });
        nobody_can_read().await;
        let told = async {
            assert_eq!(bed.names(class).await, [&*data, &*old]);
            assert_eq!(bed.free_bytes(class).await, free);
            let request = backup("monday", &data, &bed.store.s3(class));
            let state = bed.client.poll(&request).await.expect("it is taken");
            assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
        };
        let told = tokio::time::timeout(Duration::from_secs(30), told).await;
        told.expect("without waiting for the command");
        let_go();
        call.await.expect("ends").expect("it is removed");
        assert_eq!(bed.names(class).await, [data]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_being_made_is_not_told_to_be_absent() {
    let bed = bed().await;
    hold_the_group("new");
    let mut lv = bed.daemon.client().await.lv;
    let request = crate::client::sized_bytes("new", 8 * MIB);
    let call = tokio::spawn(async move { lv.create_lv(request).await });
    nobody_can_read().await;
    // A node that was started anew asks for it before it makes it again.
    let names = bed.names("thick");
    let request = backup("monday", "new", &bed.store.s3("monday"));
    let backed_up = bed.client.poll(&request);
    tokio::select! {
        names = names => panic!("{names:?}"),
        state = backed_up => panic!("{state:?}"),
        () = tokio::time::sleep(Duration::from_secs(5)) => let_go(),
    }
    call.await.expect("ends").expect("it is made");
    assert_eq!(bed.names("thick").await, ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_removed_fails_no_backup_and_goes_with_the_next_change() {
    let bed = bed().await;
    for class in CLASSES {
        bed.create(class, "data", 64 * MIB).await;
        hold("lvremove --yes -- vm/.ringback-b");
        fs::write(GIVEN_UP, "").expect("writes");
        let state = bed
            .client
            .end_of(&backup(class, "data", &bed.store.s3(class)))
            .await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
        assert!(
            state.msg.contains("; its snapshot is still there, and"),
            "{}",
            state.msg
        );
        if class == "thick" {
            let grown = bed.resize(class, "data", 80 * MIB).await;
            assert_refused(grown, Code::FailedPrecondition, "being backed up");
        }
        let_go();
        let grown = bed.resize(class, "data", 80 * MIB).await;
        assert_eq!(grown.expect("it grows"), 80 << 20);
        bed.assert_left(&["data"]);
        bed.remove(class, "data").await.expect("it is removed");
    }
}

/// Grows `data` to this size and asks for something while LVM has yet to begin; what became of both.
async fn while_it_grows<T>(
    bed: &Bed,
    class: &str,
    bytes: u64,
    asked: impl Future<Output = T>,
) -> (Result<u64, Status>, T) {
    hold("lvextend");
    tokio::join!(bed.resize(class, "data", bytes), async {
        is_held().await;
        let later = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let_go();
        };
        tokio::join!(asked, later).0
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_grew_meanwhile_is_large_enough_for_who_asked_for_less() {
    let bed = bed().await;
    bed.create("thick", "data", 8 * MIB).await;
    let less = bed.resize("thick", "data", 16 * MIB);
    let (more, less) = while_it_grows(&bed, "thick", 32 * MIB, less).await;
    assert_eq!(more.expect("it grows"), 32 << 20);
    assert_eq!(less.expect("it has that"), 32 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_as_large_as_its_source_has_become_meanwhile() {
    let bed = bed().await;
    bed.create("thin", "data", 8 * MIB).await;
    let snapshot = bed.snapshot("thin", "copy", "data");
    let (grown, snapshot) = while_it_grows(&bed, "thin", 16 * MIB, snapshot).await;
    assert_eq!(grown.expect("it grows"), 16 << 20);
    assert_eq!(snapshot.expect("it is made").size_bytes, 16 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_a_filesystem_is_on_the_disk_before_lvm_is_asked_for_a_snapshot() {
    const WRITTEN: u64 = 24 * MIB;
    // The kernel writes nothing out by itself, however slow the machine is.
    let writes_itself = "/proc/sys/vm/dirty_writeback_centisecs";
    let centiseconds = fs::read(writes_itself).expect("can be read");
    fs::write(writes_itself, "0").expect("can be set");
    let bed = bed().await;
    for class in CLASSES {
        bed.create(class, "data", 64 * MIB).await;
        run(&["mkfs.ext4", "-q", "/dev/vm/data"]);
        run(&["mount", "/dev/vm/data", "/mnt"]);
        run(&["sync"]);
        let (major, minor) = device_numbers("data");
        let statistics = format!("/sys/dev/block/{major}:{minor}/stat");
        let written_bytes = || {
            let text = fs::read_to_string(&statistics).expect("can be read");
            let sectors = text.split_whitespace().nth(6).expect("sectors written");
            sectors.parse::<u64>().expect("a number") * 512
        };
        let write_and_hold = |word| {
            let (noise, before) = (noise(word, WRITTEN), written_bytes());
            // In place: what a truncated file is filled with, ext4 writes out at once.
            let file = fs::File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open("/mnt/file");
            file.expect("opens").write_all(&noise).expect("writes");
            assert!(written_bytes() - before < WRITTEN / 2, "it is in memory");
            hold(word);
            before
        };
        let before = write_and_hold("ringback-backup");
        let request = backup("monday", "data", &bed.store.s3(class));
        bed.client.poll(&request).await.expect("it starts");
        is_held().await;
        assert!(written_bytes() - before >= WRITTEN);
        let_go();
        let state = bed.client.end_of(&request).await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
        if class == "thin" {
            let before = write_and_hold("ringback-snapshot");
            let mut lv = bed.daemon.client().await.lv;
            let request = CreateLvSnapshotRequest {
                name: "copy".to_owned(),
                device_class: class.to_owned(),
                source_volume: "data".to_owned(),
                access_type: "ro".to_owned(),
                ..CreateLvSnapshotRequest::default()
            };
            let mut call = tokio::spawn(async move { lv.create_lv_snapshot(request).await });
            tokio::select! {
                ended = &mut call => panic!("it is held: {ended:?}"),
                () = is_held() => {}
            }
            assert!(written_bytes() - before >= WRITTEN);
            let_go();
            call.await.expect("ends").expect("it is made");
            let removed = bed.remove(class, "copy").await;
            removed.expect("it is removed");
        }
        run(&["umount", "/mnt"]);
        bed.remove(class, "data").await.expect("it is removed");
    }
    fs::write(writes_itself, centiseconds).expect("can be set");
    bed.assert_left(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_in_time_though_a_command_does_not() {
    let mut bed = bed().await;
    bed.create("thick", "data", 64 * MIB).await;
    fill("/dev/vm/data", 0, 60 * MIB, "data");
    let valve = Valve::shut_after(&bed.store, 100 << 10).await;
    let request = backup("monday", "data", &valve.through(bed.store.s3("monday")));
    bed.client.poll(&request).await.expect("it starts");
    valve.is_shut().await;
    hold("lvremove");
    // The unit and the pod of docs/operations give it 90 s, this test 85.
    signal(bed.daemon.id(), Signal::SIGTERM);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(ended_well(bed.daemon.end().await));
    assert_eq!(own_rows().len(), 1);
    let_go();
    bed.restart().await;
    bed.assert_left(&["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_start_that_waits_for_lvm() {
    let mut bed = bed().await;
    bed.create("thick", "data", 8 * MIB).await;
    bed.daemon.kill();
    hold("lvs");
    bed.daemon.start_again(|_| {});
    is_held().await;
    assert!(bed.daemon.answers());
    assert!(ended_well(bed.daemon.terminate().await));
    assert!(!bed.daemon.answers());
    let_go();
    bed.restart().await;
    bed.assert_left(&["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_group_is_refused() {
    let bed = bed().await;
    let config = bed.daemon.path("second.yaml");
    let text = format!(
        "socket-name: {}\ndevice-classes:\n- {{ name: a, volume-group: {VG}, default: true }}\n",
        bed.daemon.path("second.sock").display()
    );
    fs::write(&config, text).expect("writes");
    let output = crate::harness::run(
        crate::harness::ringback()
            .arg("serve")
            .arg("--config")
            .arg(&config),
    );
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("volume group vm is already served by another ringback"),
        "{said}"
    );
    bed.create("thick", "data", 8 * MIB).await;
    let odd = bed.try_create("thick", "data", 8 * MIB).await;
    assert_refused(odd, Code::AlreadyExists, "data");
}
