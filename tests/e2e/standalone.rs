//! The command line without a daemon: files to S3 and back, and every reason why not.

mod folder;
mod interrupted;
mod keys;
mod refused;
mod repair;
mod signed;
mod stats;

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    command_line::{self, assert_failed, assert_failed_as_json},
    damage::flip,
    harness::{MIB, ringback, run},
    objects::object_bytes,
    store::{Store, allocated_bytes, assert_same_content, fill},
};

/// A folder for files, in which commands run, and a store that they find in their environment.
struct Bed {
    folder: TempDir,
    caches: TempDir,
    store: Store,
}

impl Bed {
    async fn new() -> Self {
        Self::with(Store::start().await)
    }

    fn with(store: Store) -> Self {
        let [folder, caches] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        Self {
            folder,
            caches,
            store,
        }
    }

    /// With a file `disk.img` of 64 MiB, of which 2 are data.
    async fn with_disk() -> Self {
        let bed = Self::new().await;
        bed.disk("disk.img", 64 * MIB);
        bed
    }

    fn disk(&self, name: &str, bytes: u64) -> String {
        let path = self.path(name);
        let file = File::create_new(&path).expect("makes a file");
        file.set_len(bytes).expect("makes it large");
        let path = path.display().to_string();
        fill(&path, MIB, 2 * MIB, name);
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `ringback` with these arguments, separated by spaces.
    fn command(&self, arguments: &str) -> Command {
        let mut command = ringback();
        command
            .args(arguments.split(' '))
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("XDG_CACHE_HOME", self.caches.path())
            .env("RINGBACK_SOCKET", self.path("no.sock"))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL_S3", self.store.endpoint.url())
            .env("AWS_ACCESS_KEY_ID", self.store.endpoint.access_key_id())
            .env(
                "AWS_SECRET_ACCESS_KEY",
                self.store.endpoint.secret_access_key(),
            );
        command
    }

    fn run(&self, arguments: &str) -> Output {
        run(&mut self.command(arguments))
    }

    /// The lines of a command that must succeed and have nothing to complain of.
    #[track_caller]
    fn lines(&self, arguments: &str) -> Vec<String> {
        command_line::lines(arguments, self.run(arguments))
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        command_line::json(arguments, self.run(&format!("{arguments} --json")))
    }

    /// Asserts that a command fails with this code and sentence, and leaves the folder as it was.
    #[track_caller]
    fn assert_fails(&self, arguments: &str, code: i32, says: &str) {
        let before = self.files();
        assert_failed(&self.run(arguments), code, says);
        assert_failed_as_json(&self.run(&format!("{arguments} --json")), code, says);
        assert_eq!(self.files(), before, "{arguments}");
    }

    /// The folder's files: names, inodes, lengths, times of the last change.
    fn files(&self) -> Vec<(String, u64, u64, i64, i64)> {
        let entries = fs::read_dir(self.folder.path()).expect("lists the folder");
        let mut files: Vec<_> = entries
            .map(|entry| {
                let entry = entry.expect("has an entry");
                let about = entry.metadata().expect("is there");
                let name = entry.file_name().to_string_lossy().into_owned();
                (
                    name,
                    about.ino(),
                    about.len(),
                    about.mtime(),
                    about.mtime_nsec(),
                )
            })
            .collect();
        files.sort();
        files
    }

    fn names(&self) -> Vec<String> {
        self.files().into_iter().map(|(name, ..)| name).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_backed_up_listed_shown_verified_and_restored() {
    let bed = Bed::with_disk().await;
    let backed_up = bed.lines("backup ./disk.img s3://backups/vms/monday");
    assert_eq!(
        backed_up[0],
        "s3://backups/vms/monday: 64.0 MiB backed up: 2.0 MiB new, 62.0 MiB zero or never written; \
         2.0 MiB sent"
    );
    let again =
        bed.lines("backup ./disk.img s3://backups/vms/tuesday --handle vm-1 --name nightly");
    assert!(again[0].contains("2.0 MiB unchanged"), "{again:?}");

    let listed = bed.lines("list s3://backups/vms/");
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert!(listed[1].starts_with("monday") && listed[1].contains("/disk.img"));
    let shown = bed.lines("show s3://backups/vms/tuesday").join("\n");
    for line in [
        "        name  tuesday",
        "requested as  nightly",
        "      volume  vm-1",
        "    identity  file:",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    for (arguments, says) in [
        (
            "verify s3://backups/vms",
            "s3://backups/vms: 2 backups, 3 packs: nothing is damaged",
        ),
        (
            "verify s3://backups/vms/monday --data",
            "s3://backups/vms/monday: 1 backup, 2 packs, 8 chunks of data (2.0 MiB): nothing is \
             damaged",
        ),
    ] {
        assert_eq!(bed.lines(arguments), [says]);
    }

    let restored = bed.lines("restore s3://backups/vms/monday ./again.img");
    let again = bed.path("again.img").display().to_string();
    assert_eq!(
        restored,
        [format!("{again}: 64.0 MiB restored, 2.0 MiB of it data")]
    );
    assert_same_content(&bed.path("disk.img").display().to_string(), &again);
    assert_eq!(fs::metadata(&again).expect("is there").len(), 64 * MIB);
    assert!(allocated_bytes(&again) <= 3 * MIB, "holes stay holes");
    let mode = fs::metadata(&again).expect("is there").mode();
    assert_eq!(mode & 0o777, 0o600, "its owner alone may read it");
    assert_eq!(bed.names(), ["again.img", "disk.img"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_index_segments_are_kept_for_the_user_or_in_a_folder_or_nowhere() {
    let bed = Bed::with_disk().await;
    let copies = |folder: PathBuf| {
        let repositories = fs::read_dir(folder).into_iter().flatten();
        let files = repositories.flat_map(|it| fs::read_dir(it.expect("an entry").path()));
        files.flatten().count()
    };
    let gets = |arguments: &str| {
        let before = bed.store.endpoint.counters().requests("GetObject");
        bed.lines(arguments);
        bed.store.endpoint.counters().requests("GetObject") - before
    };
    bed.lines("backup ./disk.img s3://backups/vms/one");
    assert_eq!(copies(bed.caches.path().join("ringback")), 1);
    let with_copies = gets("backup ./disk.img s3://backups/vms/two");
    let without = gets("backup ./disk.img s3://backups/vms/three --no-cache");
    let log_entry_and_ref_set = 2;
    assert_eq!(without, with_copies + log_entry_and_ref_set + 1);
    gets("backup ./disk.img s3://backups/vms/four --cache-directory ./here");
    assert_eq!(copies(bed.path("here")), 1);
    let mode = fs::metadata(bed.path("here")).expect("is there").mode();
    assert_eq!(mode & 0o777, 0o700, "its owner's alone");
    fs::remove_dir_all(bed.path("here")).expect("it may go at any time");

    // A folder that cannot be used costs one warning.
    let output = bed.run("backup ./disk.img s3://backups/vms/five --cache-directory ./disk.img");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let warning = "going on without the cache of index segments";
    assert_eq!(told.matches(warning).count(), 1, "{told}");
    assert_eq!(bed.names(), ["disk.img"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_shown_as_json_and_not_at_all_when_quiet() {
    let bed = Bed::with_disk().await;
    let backed_up = bed.json("backup ./disk.img s3://backups/vms/monday --identity vm-1");
    assert_eq!(backed_up["name"], "monday");
    assert_eq!(backed_up["path"], "s3://backups/vms/monday");
    assert_eq!(backed_up["warnings"], serde_json::json!([]));
    assert_eq!(backed_up["backup"]["volume_identity"], "vm-1");
    assert_eq!(backed_up["backup"]["new_bytes"], 2 * MIB);
    let shown = bed.json("show s3://backups/vms/monday");
    assert_eq!(backed_up["backup"], shown);
    assert_eq!(
        bed.json("list s3://backups/vms"),
        serde_json::json!([shown])
    );
    assert_eq!(
        bed.json("verify s3://backups/vms --percent 100"),
        serde_json::json!({
            "path": "s3://backups/vms",
            "backups": 1,
            "packs": 2,
            "leaves": 1,
            "data_percent": 100,
            "chunks_read": 8,
            "bytes_read": 2 * MIB + 8,
            "findings": [],
        })
    );
    assert_eq!(
        bed.json("restore s3://backups/vms/monday ./again.img --size 65MiB"),
        serde_json::json!({
            "path": bed.path("again.img").display().to_string(),
            "size_bytes": 65 * MIB,
            "backup_bytes": 64 * MIB,
            "stored_bytes": 2 * MIB,
        })
    );
    for arguments in [
        "backup ./disk.img s3://backups/vms/tuesday --quiet",
        "verify s3://backups/vms --quiet",
        "restore s3://backups/vms/monday ./third.img -q",
    ] {
        assert_eq!(bed.lines(arguments), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compression_on_request_is_told_and_a_wrong_one_is_refused() {
    let bed = Bed::with_disk().await;
    let text = "all quiet\n".repeat(200_000);
    fs::write(bed.path("text.img"), text).expect("writes a file");
    let backed_up = bed.json("backup ./text.img s3://backups/vms/text --compression zstd-19");
    let (new, packed) = (
        backed_up["backup"]["new_bytes"].as_u64().expect("a number"),
        backed_up["backup"]["packed_bytes"]
            .as_u64()
            .expect("a number"),
    );
    assert!(packed < new / 100, "{backed_up}");
    let shown = bed.lines("show s3://backups/vms/text").join("\n");
    assert!(shown.contains("(compressed to "), "{shown}");
    let plain = bed.json("backup ./disk.img s3://backups/vms/plain --compression none");
    assert_eq!(plain["backup"]["packed_bytes"], 2 * MIB + 8);
    bed.lines("restore s3://backups/vms/text ./again.img");
    assert!(
        fs::read(bed.path("text.img")).expect("reads")
            == fs::read(bed.path("again.img")).expect("reads")
    );
    let refused = bed.run("backup ./disk.img s3://backups/vms/other --compression gzip");
    assert_eq!(refused.status.code(), Some(2));
    let sentence = String::from_utf8_lossy(&refused.stderr).into_owned();
    let right = "it should be auto, none, lz4, or zstd-1 to zstd-19";
    assert!(sentence.contains(right), "{sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_nothing_of_a_byte_and_of_a_tebibyte_make_the_round_trip() {
    let bed = Bed::new().await;
    for (name, bytes, says) in [
        ("nothing", 0, "0 B backed up; "),
        ("byte", 1, "1 B backed up: 1 B new; "),
        ("huge", 1 << 40, "1.0 TiB backed up: "),
    ] {
        let file = File::create_new(bed.path(name)).expect("makes a file");
        file.set_len(bytes).expect("makes it large");
        if bytes > 0 {
            file.write_all_at(b"e", bytes - 1).expect("writes");
        }
        drop(file);
        let told = bed.lines(&format!("backup ./{name} s3://backups/sizes/{name}"));
        assert!(told[0].contains(says), "{told:?}");
        bed.lines(&format!("restore s3://backups/sizes/{name} ./{name}-again"));
        let again = File::open(bed.path(&format!("{name}-again"))).expect("is there");
        assert_eq!(again.metadata().expect("stat").len(), bytes);
        let mut end = [0];
        if bytes > 0 {
            again.read_exact_at(&mut end, bytes - 1).expect("reads");
            assert_eq!(end, *b"e");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_there_is_replaced_whole_or_keeps_the_size_that_was_made_for_it() {
    let bed = Bed::with_disk().await;
    let disk = bed.path("disk.img").display().to_string();
    bed.lines("backup ./disk.img s3://backups/vms/monday");
    for (name, bytes, size) in [("empty", 0, 64 * MIB), ("roomy", 80 * MIB, 80 * MIB)] {
        let file = File::create_new(bed.path(name)).expect("makes a file");
        file.set_len(bytes).expect("makes it large");
        drop(file);
        let restored = bed.lines(&format!("restore s3://backups/vms/monday ./{name}"));
        assert_eq!(
            restored[0].contains("the 16.0 MiB behind it read as zeros"),
            size > 64 * MIB
        );
        let path = bed.path(name).display().to_string();
        assert_eq!(fs::metadata(&path).expect("is there").len(), size);
        assert_same_content(&disk, &path);
    }

    let other = bed.disk("other.img", 100 * MIB);
    File::open(&other)
        .and_then(|file| file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640)))
        .expect("sets permissions");
    let says = format!("{other} holds data, which a restore would destroy");
    bed.assert_fails("restore s3://backups/vms/monday ./other.img", 7, &says);
    bed.lines("restore s3://backups/vms/monday ./other.img --overwrite");
    assert_same_content(&disk, &other);
    let about = fs::metadata(&other).expect("is there");
    assert_eq!((about.len(), about.mode() & 0o777), (64 * MIB, 0o640));

    std::os::unix::fs::symlink("other.img", bed.path("link")).expect("links");
    bed.lines("restore s3://backups/vms/monday ./link --overwrite");
    let link = fs::symlink_metadata(bed.path("link")).expect("is there");
    assert!(
        link.file_type().is_symlink(),
        "what the link names is replaced"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_by_verify_and_nothing_damaged_is_restored() {
    let objects = tempfile::tempdir().expect("a folder");
    let bed = Bed::with(Store::in_folder(objects.path()).await);
    bed.disk("disk.img", 64 * MIB);
    bed.lines("backup ./disk.img s3://backups/vms/monday --handle vm-1");
    let bucket = fs::read_dir(objects.path().join("backups")).expect("lists the bucket");
    let pack = bucket
        .map(|entry| entry.expect("has an entry").path())
        .find(|path| path.display().to_string().contains("vms%2Fdata"))
        .expect("there is a pack");
    flip(&pack, object_bytes(&pack) / 2);

    bed.lines("verify s3://backups/vms");
    let output = bed.run("verify s3://backups/vms --data");
    assert_eq!(output.status.code(), Some(6));
    let found = String::from_utf8_lossy(&output.stdout);
    let says = "backup \"monday\" of volume \"vm-1\" is damaged at byte 2097152, for 262144 bytes: \
                object data/";
    assert!(found.starts_with(says), "{found}");
    let summary = String::from_utf8_lossy(&output.stderr);
    let says = "1 case of damage; 256 KiB of volumes cannot be restored";
    assert!(summary.contains(says), "{summary}");

    let output = bed.run("verify s3://backups/vms/monday --data --json");
    assert_eq!(output.status.code(), Some(6));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["backup"], &finding["volume"]),
        (&"monday".into(), &"vm-1".into())
    );
    assert_eq!(
        (&finding["offset"], &finding["bytes"]),
        (&(2 * MIB).into(), &(MIB / 4).into())
    );
    assert!(
        finding["object"]
            .as_str()
            .is_some_and(|it| it.starts_with("data/"))
    );

    let says = "backup \"monday\" of volume \"vm-1\" is damaged at byte 2097152: object data/";
    bed.assert_fails("restore s3://backups/vms/monday ./again.img", 6, says);
    File::create(bed.path("kept.img")).expect("makes a file");
    bed.assert_fails("restore s3://backups/vms/monday ./kept.img", 6, says);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_it_is_read_is_told() {
    let bed = Bed::new().await;
    let disk = bed.disk("disk.img", 200 * MIB);
    fill(&disk, 4 * MIB, 190 * MIB, "more than fits into memory");
    for (change, name, code, says) in [
        (
            (|file: &File| file.write_all_at(b"x", 0)) as fn(&File) -> std::io::Result<()>,
            "monday",
            0,
            "was written to while it was read: the backup may be torn",
        ),
        (
            |file| file.set_len(MIB),
            "tuesday",
            1,
            "went from 209715200 to 1048576 bytes while it was read; no backup was made",
        ),
    ] {
        let path = format!("s3://backups/{name}/{name}");
        let stopped = interrupted::stop_data(&bed.store, "PutObject", 1);
        let mut command = bed.command(&format!("backup ./disk.img {path} --memory 32"));
        let running = interrupted::start(&mut command);
        interrupted::reached(&stopped).await;
        let file = File::options().write(true).open(&disk).expect("opens");
        change(&file).expect("changes");
        drop((file, stopped));
        let output = running.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(code));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(says), "{stderr}");
        if code != 0 {
            let listed = bed.run(&format!("list s3://backups/{name}"));
            assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 1);
        }
    }
}

#[test]
fn every_command_has_help_with_examples_or_settings_and_the_exit_codes_are_in_it() {
    let help = |arguments: &[&str]| {
        let output = run(ringback().args(arguments).arg("--help"));
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let first = help(&[]);
    assert!(first.contains("Examples:") && first.contains("Exit codes:"));
    for command in ["backup", "restore", "list", "show", "verify", "repair"] {
        let text = help(&[command]);
        for part in ["Example", "AWS_ACCESS_KEY_ID", "Exit codes:", "--endpoint"] {
            assert!(text.contains(part), "{command} --help: {part}");
        }
        assert!(!text.contains("SECRET <") && !text.contains("--secret"));
    }
}

#[test]
fn completions_and_manual_pages_cover_every_command() {
    const COMMANDS: [&str; 10] = [
        "backup", "restore", "list", "show", "verify", "repair", "lv", "serve", "health", "demo",
    ];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(ringback().args(["completions", shell]));
        let script = String::from_utf8(output.stdout).expect("text");
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man1");
    let output = run(ringback().arg("man").arg(&pages));
    assert!(output.status.success());
    for command in COMMANDS {
        let page = pages.join(format!("ringback-{command}.1"));
        let text = fs::read_to_string(&page).expect("is there");
        assert!(text.contains(".SH NAME"), "{command}");
    }
    let first = run(ringback().arg("man")).stdout;
    assert_eq!(first, fs::read(pages.join("ringback.1")).expect("is there"));
    assert!(String::from_utf8_lossy(&first).contains("interrupted by SIGINT"));
}
