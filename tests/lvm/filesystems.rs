//! Filesystems, mounted and written to while they are backed up.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    client::synchronous,
    harness::{MIB, wait_for},
    vg::{Bed, CLASSES, VG, run},
};

/// How to make one, to judge one, and what replays its journal is a mount.
struct Filesystem {
    make: &'static [&'static str],
    check: &'static [&'static str],
}

const EXT4: Filesystem = Filesystem {
    make: &["mkfs.ext4", "-q"],
    check: &["e2fsck", "-f", "-n"],
};

const XFS: Filesystem = Filesystem {
    make: &["mkfs.xfs", "-q"],
    check: &["xfs_repair", "-n"],
};

/// Makes and removes files and folders until it is told to end: what is read from under such a filesystem
/// bit by bit does not fit together.
fn come_and_go(ends: &AtomicBool) {
    for number in 0u32.. {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        let folder = |number: u32| format!("/mnt/{}", number % 16);
        fs::create_dir_all(folder(number)).expect("makes");
        fs::write(format!("{}/{number}", folder(number)), [7; 5000]).expect("writes");
        let _ = fs::remove_dir_all(folder(number + 8));
        thread::sleep(Duration::from_millis(20));
    }
}

fn on(command: &[&str], device: &str) -> String {
    let command: Vec<&str> = command.iter().copied().chain([device]).collect();
    run(&command)
}

async fn is_consistent_after_a_backup_under_writes(filesystem: &Filesystem) {
    let bed = Bed::with("snapshot-percent: 100", "").await;
    for class in CLASSES {
        let (original, restored) = (format!("/dev/{VG}/data"), format!("/dev/{VG}/again"));
        bed.create(class, "data", 320 * MIB).await;
        on(filesystem.make, &original);
        run(&["mount", &original, "/mnt"]);
        let synced = vec![42; 3 << 20];
        fs::write("/mnt/synced", &synced).expect("writes");
        run(&["sync", "/mnt/synced"]);
        let ends = Arc::<AtomicBool>::default();
        let changes = thread::spawn({
            let ends = Arc::clone(&ends);
            move || come_and_go(&ends)
        });
        let mut writer = Command::new("fio")
            .args([
                "--thread",
                "--name=w",
                "--directory=/mnt",
                "--rw=randwrite",
                "--bs=4k",
            ])
            .args(["--size=32m", "--fsync=16", "--time_based", "--runtime=120"])
            .args(["--output=/tmp/fio"])
            .spawn()
            .expect("fio starts");
        wait_for("the first writes", async || {
            fs::metadata("/mnt/w.0.0").is_ok().then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;

        let s3 = bed.store.s3(class);
        let request = crate::client::backup(class, &format!("{VG}/data"), &s3);
        let state = bed.client.end_of(&request).await;
        assert!(
            writer.try_wait().expect("can be asked").is_none(),
            "it writes"
        );
        writer.kill().expect("can be killed");
        writer.wait().expect("ends");
        ends.store(true, Ordering::Relaxed);
        changes.join().expect("it went on until now");
        let ended = state.state();
        assert_eq!(
            ended,
            ringback_proto::lvmd::StateType::Complete,
            "{}",
            state.msg
        );
        run(&["umount", "/mnt"]);
        bed.remove(class, "data").await.expect("it is removed");

        let mut request = crate::client::with_source("again", 1, &synchronous(&s3));
        request.device_class = class.to_owned();
        crate::client::ok(bed.client.clone().lv.create_lv(request).await);
        // The first mount replays the journal.
        run(&["mount", &restored, "/mnt"]);
        assert!(fs::read("/mnt/synced").expect("it is there") == synced);
        run(&["umount", "/mnt"]);
        on(filesystem.check, &restored);
        bed.remove(class, "again").await.expect("it is removed");
        bed.assert_left(&[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ext4_under_writes_comes_back_clean_with_what_was_synced() {
    is_consistent_after_a_backup_under_writes(&EXT4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xfs_under_writes_comes_back_clean_with_what_was_synced() {
    is_consistent_after_a_backup_under_writes(&XFS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_filesystem_is_frozen_for_the_moment_of_the_snapshot() {
    let bed = Bed::with("snapshot-percent: 100", "").await;
    let needs_recovery = |volume: &str| on(&["dumpe2fs", "-h"], volume).contains("needs_recovery");
    for (filesystem, class) in [(&EXT4, "thick"), (&EXT4, "thin"), (&XFS, "thin")] {
        let (original, restored) = (format!("/dev/{VG}/data"), format!("/dev/{VG}/again"));
        bed.create(class, "data", 320 * MIB).await;
        on(filesystem.make, &original);
        run(&["mount", &original, "/mnt"]);
        // Not synced: to freeze a filesystem is to write out all that it has.
        fs::write("/mnt/file", vec![42; 3 << 20]).expect("writes");
        let s3 = bed.store.s3(&format!("{}-{class}", filesystem.make[0]));
        bed.client.back_up("data", &s3).await;
        fs::write("/mnt/other", "it goes on").expect("writes");
        let is_ext4 = filesystem.make == EXT4.make;
        assert!(!is_ext4 || needs_recovery(&original), "it is mounted");
        run(&["umount", "/mnt"]);
        bed.remove(class, "data").await.expect("it is removed");

        let mut request = crate::client::with_source("again", 1, &synchronous(&s3));
        request.device_class = class.to_owned();
        crate::client::ok(bed.client.clone().lv.create_lv(request).await);
        // XFS leaves its log to be replayed, for files that were removed while they were open.
        if is_ext4 {
            assert!(!needs_recovery(&restored), "{class}: no journal to replay");
            on(filesystem.check, &restored);
        }
        run(&["mount", &restored, "/mnt"]);
        let found = fs::read("/mnt/file").expect("it is there");
        assert!(found == vec![42; 3 << 20]);
        run(&["umount", "/mnt"]);
        on(filesystem.check, &restored);
        bed.remove(class, "again").await.expect("it is removed");
    }
}
