//! Everything that is refused or fails: its sentence, its exit code, and a folder as it was.

use std::{fs, fs::File};

use super::Bed;
use crate::{command_line::assert_failed, harness::MIB};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_ends_with_2_before_anything_is_asked() {
    let bed = Bed::with_disk().await;
    fs::create_dir(bed.path("folder")).expect("makes a folder");
    let requests = bed.store.requests();
    for (arguments, says) in [
        ("backup ./disk.img", "required arguments"),
        (
            "backup ./disk.img backups/vms/monday",
            "is no place for backups; it should be s3://",
        ),
        (
            "backup ./disk.img s3://backups/vms/",
            "ends with a slash and so names no backup",
        ),
        ("backup ./disk.img s3://backups", "no backup name"),
        (
            "backup ./disk.img s3://backups/log/monday",
            "keeps for itself",
        ),
        (
            "backup s3://backups/vms/monday ./disk.img",
            "takes what to back up first, then s3://",
        ),
        (
            "backup ./folder s3://backups/vms/monday",
            "neither a block device nor a regular file",
        ),
        (
            "backup ./disk.img s3://backups/vms/monday --memory 8",
            "32..=65536",
        ),
        (
            "backup vg/data s3://backups/vms/monday --live",
            "--live is for the path of a device",
        ),
        (
            "backup data s3://backups/vms/monday --profile p",
            "--profile is for the path of",
        ),
        (
            "restore ./disk.img s3://backups/vms/monday",
            "or file:///... first, then the target",
        ),
        (
            "restore s3://backups/vms ./folder",
            "neither a block device nor a regular file",
        ),
        (
            "restore s3://backups/vms/monday ./a --tag x",
            "--tag is for a volume of the daemon",
        ),
        (
            "restore s3://backups/vms/monday ./a --no-wait",
            "--no-wait is for a volume",
        ),
        (
            "restore s3://backups/vms/monday a --overwrite",
            "--overwrite is for the path of",
        ),
        ("list backups/vms", "is no place for backups"),
        ("verify s3://backups/vms --percent 0", "0 is not in 1..=100"),
        (
            "verify s3://backups/vms --percent 5 --data",
            "cannot be used with",
        ),
    ] {
        bed.assert_fails(arguments, 2, says);
    }
    let long = "x".repeat(300);
    let arguments = format!("backup ./disk.img s3://backups/vms/monday --identity {long}");
    bed.assert_fails(
        &arguments,
        2,
        "--identity has 300 bytes; at most 200 are kept",
    );
    assert_eq!(bed.store.requests(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_ends_with_3() {
    let bed = Bed::with_disk().await;
    bed.lines("backup ./disk.img s3://backups/vms/monday");
    for (arguments, says) in [
        (
            "backup ./absent s3://backups/vms/tuesday",
            "cannot find ./absent: No such file",
        ),
        (
            "backup ./disk.img s3://no-such-bucket/vms/monday",
            "there is no bucket",
        ),
        (
            "restore s3://backups/vms/tuesday ./a",
            "there is no backup \"tuesday\"",
        ),
        (
            "restore s3://backups/other/monday ./a",
            "there is no repository in s3://backups/other",
        ),
        (
            "restore s3://backups/vms/monday ./absent/a",
            "cannot find ./absent: No such file",
        ),
        (
            "list s3://backups/other",
            "there is no repository in s3://backups/other",
        ),
        (
            "show s3://backups/vms/tuesday",
            "there is no backup \"tuesday\" in s3://backups/vms",
        ),
        (
            "verify s3://backups/vms/tuesday",
            "there is neither a repository at s3://backups/vms/tuesday nor a backup \"tuesday\"",
        ),
        (
            "verify s3://backups/other/monday",
            "there is neither a repository",
        ),
    ] {
        bed.assert_fails(arguments, 3, says);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_nobody_answers_for_ends_with_5_soon_and_a_file_is_no_volume() {
    let bed = Bed::with_disk().await;
    let nowhere = "--endpoint http://127.0.0.1:1";
    let output = bed.run(&format!(
        "backup ./disk.img s3://backups/vms/monday {nowhere}"
    ));
    assert_failed(&output, 5, "no success with http://127.0.0.1:1");
    let volume = bed.run("backup disk.img s3://backups/vms/monday");
    assert_failed(&volume, 5, "no daemon answers at");
    assert_failed(
        &volume,
        5,
        "There is a file \"disk.img\" here: written ./disk.img it is taken",
    );
    let volume = bed.run("restore s3://backups/vms/monday again.img");
    assert_failed(&volume, 5, "Written ./again.img it is a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_destroy_something_or_be_torn_ends_with_7() {
    let bed = Bed::with_disk().await;
    bed.lines("backup ./disk.img s3://backups/vms/monday");
    bed.assert_fails(
        "backup ./disk.img s3://backups/vms/monday",
        7,
        "there is already a backup \"monday\" in s3://backups/vms",
    );
    bed.assert_fails(
        "restore s3://backups/vms/monday ./a --size 63MiB",
        7,
        "the file that --size asks for has 66060288 bytes, the backup 67108864; it must be as \
         large. Nothing was written",
    );

    let own = bed.disk("busy.img", 8 * MIB);
    let writer = File::options().append(true).open(&own).expect("opens");
    let by_us = format!("(process {}) has it open for writing", std::process::id());
    let says = format!("{own} is in use: ");
    bed.assert_fails("backup ./busy.img s3://backups/vms/busy", 7, &says);
    bed.assert_fails("backup ./busy.img s3://backups/vms/busy", 7, &by_us);
    bed.assert_fails("backup ./busy.img s3://backups/vms/busy", 7, "with --live");
    for option in ["", " --overwrite"] {
        let restore = format!("restore s3://backups/vms/monday ./busy.img{option}");
        bed.assert_fails(&restore, 7, "nothing is restored over what is in use");
    }
    let live = bed.run("backup ./busy.img s3://backups/vms/busy --live");
    assert!(live.status.success());
    let warned = String::from_utf8_lossy(&live.stderr);
    assert!(
        warned.contains("not certain to be one moment's state"),
        "{warned}"
    );
    let shown = bed.json("backup ./busy.img s3://backups/vms/again --live");
    assert!(
        shown["warnings"][0]
            .as_str()
            .is_some_and(|it| it.contains(&by_us))
    );
    drop(writer);
    bed.lines("backup ./busy.img s3://backups/vms/free");
}
