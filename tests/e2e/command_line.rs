//! The command line against a daemon: results to standard output, as text or JSON, errors to
//! standard error, and exit codes.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::{
    client::Client,
    harness::{Daemon, MIB, class, ringback, run, wait_for},
    store::{Store, assert_same_content, fill},
};

/// A daemon, and a store that commands find in their environment.
struct Bed {
    daemon: Daemon,
    client: Client,
    store: Store,
}

impl Bed {
    async fn new() -> Self {
        let daemon = Daemon::with(|folder| {
            class("fast", folder, 0, true) + &class("slow", folder, 1 << 30, false)
        });
        Self {
            client: daemon.client().await,
            store: Store::start().await,
            daemon,
        }
    }

    /// Runs `ringback` with these arguments, separated by spaces.
    fn run(&self, arguments: &str) -> Output {
        run(&mut self.command(arguments))
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = ringback();
        command
            .args(arguments.split(' '))
            .env("RINGBACK_SOCKET", self.daemon.socket())
            .env("AWS_ENDPOINT_URL_S3", self.store.endpoint.url())
            .env("AWS_ACCESS_KEY_ID", self.store.endpoint.access_key_id())
            .env(
                "AWS_SECRET_ACCESS_KEY",
                self.store.endpoint.secret_access_key(),
            );
        command
    }

    /// The lines of a command that must succeed and have nothing to complain of.
    #[track_caller]
    fn lines(&self, arguments: &str) -> Vec<String> {
        lines(arguments, self.run(arguments))
    }

    /// What a command prints with `--json`: one value on one line.
    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        json(arguments, self.run(&format!("{arguments} --json")))
    }

    #[track_caller]
    fn assert_fails(&self, arguments: &str, code: i32, says: &str) {
        assert_failed(&self.run(arguments), code, says);
        assert_failed_as_json(&self.run(&format!("{arguments} --json")), code, says);
    }
}

/// The lines of a command that must have succeeded and have nothing to complain of.
#[track_caller]
pub(crate) fn lines(arguments: &str, output: Output) -> Vec<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {stderr}");
    assert_eq!(stderr, "", "{arguments}");
    let stdout = String::from_utf8(output.stdout).expect("it prints text");
    stdout.lines().map(str::to_owned).collect()
}

/// What such a command printed with `--json`: one value on one line.
#[track_caller]
pub(crate) fn json(arguments: &str, output: Output) -> Value {
    let lines = lines(arguments, output);
    let [line] = &lines[..] else {
        panic!("{arguments}: not one line: {lines:?}");
    };
    serde_json::from_str(line).expect("it is JSON")
}

/// One object on one line, with the same sentence and code.
#[track_caller]
pub(crate) fn assert_failed_as_json(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let error: Value = serde_json::from_str(&stderr).expect("one JSON object");
    let message = error["message"].as_str().expect("a sentence");
    let says = says.trim_start_matches("ringback: ");
    assert!(message.contains(says), "{message}");
    assert_eq!(
        (output.status.code(), &error["exit_code"]),
        (Some(code), &code.into())
    );
    let name = match code {
        1 => "failed",
        2 => "usage",
        3 => "not_found",
        4 => "denied",
        5 => "unreachable",
        6 => "damaged",
        7 => "refused",
        other => panic!("{other} is no exit code of an error"),
    };
    assert_eq!(error["error"], name);
}

#[track_caller]
pub(crate) fn assert_failed(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_made_listed_grown_and_removed() {
    let bed = Bed::new().await;
    let made = bed.lines("lv create data --size 64MiB --tag a --tag b");
    assert_eq!(words(&made[0]), ["NAME", "SIZE", "DEVICE", "PATH", "TAGS"]);
    let image = bed
        .daemon
        .path("fast/volumes/data/image")
        .display()
        .to_string();
    assert_eq!(
        words(&made[1]),
        ["data", "64.0", "MiB", "0:0", &image, "a,b"]
    );
    assert_eq!(bed.lines("lv list"), made);
    assert_eq!(bed.lines("lv resize data --size 96MiB"), ["96.0 MiB"]);
    assert!(bed.lines("lv free")[0].ends_with("iB"));
    assert_eq!(bed.lines("lv free --class slow"), ["0 B"]);
    assert_eq!(
        bed.lines("lv list --class slow").len(),
        1,
        "the heading alone"
    );
    assert_eq!(bed.lines("lv remove data"), [""; 0]);
    assert_eq!(bed.client.list().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_shown_as_json() {
    let bed = Bed::new().await;
    let made = bed.json("lv create data --size 64MiB --tag a --class slow");
    let volume = &made[0];
    assert_eq!(
        (&volume["name"], &volume["size_bytes"]),
        (&"data".into(), &(64 * MIB).into())
    );
    assert_eq!(
        (&volume["dev_major"], &volume["dev_minor"]),
        (&0.into(), &0.into())
    );
    assert_eq!(volume["tags"], serde_json::json!(["a"]));
    let image = bed.daemon.path("slow/volumes/data/image");
    assert_eq!(volume["path"], image.display().to_string());
    assert_eq!(bed.json("lv list --class slow"), made);
    assert_eq!(bed.json("lv list"), serde_json::json!([]));
    let resized = bed.json("lv resize data --size 65MiB --class slow");
    assert_eq!(resized, serde_json::json!({ "size_bytes": 65 * MIB }));
    assert!(
        bed.json("lv free")["free_bytes"]
            .as_u64()
            .is_some_and(|free| free > 0)
    );
    assert_eq!(
        bed.json("lv free --class slow"),
        serde_json::json!({ "free_bytes": 0 })
    );
    assert_eq!(
        bed.json("lv remove data --class slow"),
        serde_json::json!({})
    );
    bed.json("lv create plain --size 1MiB");
    assert_eq!(bed.json("lv list")[0]["tags"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_backed_up_shown_and_restored() {
    let bed = Bed::new().await;
    let volume = bed.client.create("data", 64 * MIB).await;
    fill(&volume.path, MIB, 2 * MIB, "content");
    let backed_up = bed.lines("backup data s3://backups/team/monday");
    assert!(backed_up[0].starts_with("s3://backups/team/monday: 64.0 MiB backed up: 2.0 MiB new"));
    // Asked again, it is still so.
    bed.lines("backup fast/data s3://backups/team/tuesday --name nightly");
    bed.lines("backup fast/data s3://backups/team/tuesday --name nightly");

    let listed = bed.lines("list s3://backups/team");
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert_eq!(
        words(&listed[0]),
        ["NAME", "TAKEN", "VOLUME", "SIZE", "NEW", "SENT"]
    );
    let monday = words(&listed[1]);
    assert_eq!((monday[0], monday[3]), ("monday", "UTC"));
    assert_eq!(monday[4..9], ["data", "64.0", "MiB", "2.0", "MiB"]);
    let shown = bed.lines("show s3://backups/team/tuesday").join("\n");
    for line in [
        "        name  tuesday",
        "requested as  nightly",
        "      volume  fast/data",
    ] {
        assert!(shown.contains(line), "{shown}");
    }

    let restored = bed.lines("restore s3://backups/team/monday again");
    let image = bed
        .daemon
        .path("fast/volumes/again/image")
        .display()
        .to_string();
    assert_eq!(restored, [format!("again: 1.0 GiB at {image}")]);
    assert_same_content(&volume.path, &image);
    let begun = bed.lines("restore s3://backups/team/monday later --size 2GiB --no-wait");
    assert_eq!(begun, ["later is being restored"]);
    bed.assert_fails(
        "restore s3://backups/team/monday odd --size 64MiB",
        2,
        "whole GiB",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_shown_as_json() {
    let bed = Bed::new().await;
    let volume = bed.client.create("data", 64 * MIB).await;
    fill(&volume.path, MIB, 2 * MIB, "content");
    let backed_up = bed.json("backup data s3://backups/team/monday");
    assert_eq!(backed_up["name"], "monday");
    assert_eq!(backed_up["path"], "s3://backups/team/monday");
    assert!(
        backed_up["message"]
            .as_str()
            .is_some_and(|it| it.contains("2.0 MiB new"))
    );
    let shown = bed.json("show s3://backups/team/monday");
    assert_eq!(
        bed.json("list s3://backups/team"),
        serde_json::json!([shown])
    );
    for (field, value) in [
        ("size_bytes", 64 * MIB),
        ("new_bytes", 2 * MIB),
        ("slot", 1),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    assert_eq!(shown["commit_id"].as_str().map(str::len), Some(32));
    let restored = bed.json("restore s3://backups/team/monday again --tag a");
    assert_eq!(
        (&restored["name"], &restored["tags"][0]),
        (&"again".into(), &"a".into())
    );
    assert_eq!(bed.json("lv list")[0], restored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_goes_to_standard_error_and_ends_with_the_code_of_its_kind() {
    let bed = Bed::new().await;
    bed.client.create("data", MIB).await;
    for (arguments, code, says) in [
        (
            "lv create data --size 1MiB",
            7,
            "ringback: there is already a volume data; choose another name (AlreadyExists)",
        ),
        ("lv create a,b --size 1MiB", 2, "(InvalidArgument)"),
        (
            "lv remove absent",
            3,
            "there is no volume absent (NotFound)",
        ),
        (
            "lv resize absent --size 1MiB",
            3,
            "there is no volume absent (NotFound)",
        ),
        ("lv list --class none", 3, "\"none\" is not configured"),
        ("lv free --class none", 3, "\"none\" is not configured"),
        (
            "backup absent s3://backups/team/monday",
            3,
            "there is no such volume",
        ),
        // The protocol has no code for the end of a backup.
        (
            "backup data s3://no-such-bucket/team/monday",
            1,
            "there is no bucket \"no-such-bucket\"",
        ),
        ("backup data s3://backups", 2, "no backup name"),
        (
            "backup data file:///mnt/usb/team/monday",
            2,
            "not in file:///mnt/usb/team/monday; written ./data it is a file of this host",
        ),
        (
            "restore file:///mnt/usb/team/monday again",
            2,
            "not in file:///mnt/usb/team/monday; written ./again it is a file of this host",
        ),
        ("restore s3://backups/team/monday again", 3, "(NotFound)"),
        (
            "restore s3://backups/team/monday again --size 1GiB",
            3,
            "(NotFound)",
        ),
    ] {
        bed.assert_fails(arguments, code, says);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_printed_fails_and_a_reader_that_has_gone_is_no_failure() {
    let bed = Bed::new().await;
    bed.lines("lv create data --size 1MiB");
    let full = || {
        File::options()
            .write(true)
            .open("/dev/full")
            .expect("opens")
    };
    for (arguments, code) in [
        ("lv list", 1),
        ("lv list --json", 1),
        ("lv list --class x", 3),
    ] {
        let mut command = bed.command(arguments);
        let output = command.stdout(full()).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert_eq!(
            said.contains("No space left on device"),
            code == 1,
            "{said}"
        );
        // Nor does it panic where it cannot say so.
        let status = command.stderr(full()).status().expect("runs");
        assert_eq!(status.code(), Some(code), "{arguments}");
    }

    let mut command = bed.command("lv watch");
    let mut watch = command.stdout(Stdio::piped()).spawn().expect("starts");
    let mut stdout = BufReader::new(watch.stdout.take().expect("is piped"));
    stdout.read_line(&mut String::new()).expect("reads a line");
    drop(stdout);
    bed.lines("lv create other --size 1MiB");
    let status = wait_for("the end of a watch that nobody reads", async || {
        watch.try_wait().expect("can be waited for")
    })
    .await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_ends_with_2() {
    let bed = Bed::new().await;
    for arguments in [
        "lv create data",
        "lv create data --size 10GB",
        "lv create data --size 0",
        "lv explode data",
        "backup data",
        "serve --config x --dev y",
        "demo --data-mib 1",
    ] {
        assert_failed(&bed.run(arguments), 2, "");
    }
    assert_eq!(bed.client.list().await, []);
}

#[test]
fn without_a_daemon_every_command_that_needs_one_says_so_and_ends_with_5() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("absent.sock");
    for arguments in [
        "lv create data --size 1MiB",
        "lv list",
        "lv watch",
        "backup data s3://backups/team/monday",
        "restore s3://backups/team/monday again",
    ] {
        let mut command = ringback();
        command
            .arg("--socket")
            .arg(&socket)
            .args(arguments.split(' '));
        let output = run(&mut command);
        let says = format!("ringback: no daemon answers at {}", socket.display());
        assert_failed(&output, 5, &says);
        assert_failed(&output, 5, "start one with `ringback serve`");
    }
}
