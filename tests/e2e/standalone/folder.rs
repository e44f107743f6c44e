//! Backups in a folder of this host: `file:///...`.

mod filtered;

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use tempfile::TempDir;

use self::filtered::{Filesystem, on};
use super::{
    Bed,
    interrupted::{end, start},
};
use crate::{
    bad_input::Judge,
    command_line::{assert_failed, assert_failed_as_json},
    damage::flip,
    harness::{MIB, RINGBACK, run, signal, wait_for},
    store::{assert_same_content, fill},
};

/// A folder for a repository, beside [`Bed`]'s folder for disks.
pub(super) struct Repository(TempDir);

impl Repository {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// `file:///...`, with a name behind it if there is one.
    pub(super) fn url(&self, name: &str) -> String {
        format!("file://{}{name}", self.path().display())
    }

    /// Files below a folder of it, by their paths.
    pub(super) fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.path().join(folder)];
        while let Some(folder) = folders.pop() {
            // A folder that nobody made is empty.
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files.sort();
        files
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_to_a_folder_and_comes_back_and_no_store_in_s3_is_asked() {
    let (bed, repository) = (Bed::with_disk().await, Repository::new());
    let url = |name: &str| repository.url(name);
    let disk = bed.path("disk.img").display().to_string();
    let before = bed.path("before.img").display().to_string();
    fs::copy(&disk, &before).expect("copies");

    let monday = url("/monday");
    assert_eq!(
        bed.lines(&format!("backup ./disk.img {monday}")),
        [format!(
            "{monday}: 64.0 MiB backed up: 2.0 MiB new, 62.0 MiB zero or never written; 2.0 MiB sent"
        )]
    );
    fill(&disk, 40 * MIB, MIB, "more");
    let made = bed.json(&format!(
        "backup ./disk.img {} --handle vm-1",
        url("/tuesday")
    ));
    assert_eq!(made["path"], url("/tuesday"));
    assert_eq!(made["backup"]["new_bytes"], MIB);
    assert_eq!(made["backup"]["unchanged_bytes"], 2 * MIB);

    let listed = bed.json(&format!("list {}", url("/")));
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    assert_eq!(listed[1], made["backup"]);
    assert_eq!(listed[1], bed.json(&format!("show {}", url("/tuesday"))));
    for (place, says) in [
        (
            url(" --data"),
            "2 backups, 4 packs, 12 chunks of data (3.0 MiB): nothing is damaged",
        ),
        (url("/monday"), "1 backup, 2 packs: nothing is damaged"),
    ] {
        let lines = bed.lines(&format!("verify {place}"));
        assert!(lines[0].ends_with(says), "{lines:?}");
    }
    for (name, original) in [("monday", &before), ("tuesday", &disk)] {
        bed.lines(&format!(
            "restore {} ./{name}.img",
            url(&format!("/{name}"))
        ));
        assert_same_content(
            original,
            &bed.path(&format!("{name}.img")).display().to_string(),
        );
    }
    assert_eq!(repository.files(".uploads"), [""; 0].map(PathBuf::from));
    assert_eq!(bed.store.requests(), 0, "whatever the environment says");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_an_odd_name_is_written_with_percent_signs_or_without() {
    let (bed, place) = (Bed::with_disk().await, Repository::new());
    let folder = place.path().join("100% B\u{fc}cher?");
    fs::create_dir(&folder).expect("makes a folder");
    let at = |name: &str| place.url(&format!("/100%25 B\u{fc}cher%3F{name}"));
    let mut command = bed.command("backup ./disk.img");
    let made = run(command.arg(place.url("/100%25%20B%C3%BCcher%3F/50%25")));
    let said = String::from_utf8_lossy(&made.stdout);
    assert!(
        said.starts_with(&format!("{}: 64.0 MiB", at("/50%25"))),
        "{said}"
    );
    let shown = run(bed.command("show").arg(at("/50%25")));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("name  50%\n"));
    assert!(folder.join("repository").is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_folder_is_named_and_nothing_damaged_is_restored() {
    let (bed, repository) = (Bed::with_disk().await, Repository::new());
    let monday = repository.url("/monday");
    bed.lines(&format!("backup ./disk.img {monday} --handle vm-1"));
    let [pack] = repository.files("data").try_into().expect("one pack");
    let whole = fs::read(&pack).expect("reads");
    let verify = format!("verify {} --data", repository.url(""));
    let restore = format!("restore {monday} ./again.img");
    let says = "backup \"monday\" of volume \"vm-1\" is damaged at byte ";
    let judge = |reason: &str| {
        let output = bed.run(&verify);
        assert_eq!(output.status.code(), Some(6));
        let found = String::from_utf8_lossy(&output.stdout);
        assert!(found.contains(says) && found.contains(reason), "{found}");
        bed.assert_fails(&restore, 6, says);
    };

    flip(&pack, whole.len() as u64 / 2);
    judge("does not hold the bytes that the backup's tree names");
    File::options()
        .write(true)
        .open(&pack)
        .and_then(|pack| pack.set_len(MIB))
        .expect("cuts it");
    judge("data/");
    fs::remove_file(&pack).expect("removes it");
    judge("is missing");
    fs::write(&pack, whole).expect("writes it back");
    bed.lines(&verify);
}

/// A refusal of each kind, held against the operators' table.
#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_a_folder_has_its_exit_code_and_sentence() {
    let (bed, place, mut judge) = (
        Bed::with_disk().await,
        Repository::new(),
        Judge::of("Folders"),
    );
    let mut hear = |input: &str, command: &mut Command| {
        let output = run(command);
        let code = output.status.code().expect("it ends by itself");
        let said = String::from_utf8(output.stderr).expect("text");
        let said = said.replace(&place.path().display().to_string(), "/FOLDER");
        judge.hear(input, &format!("exit {code}"), said.trim_end());
    };
    let to = |place: &str| bed.command(&format!("backup ./disk.img {place}"));
    for (input, url) in [
        ("a host", "file://usb/repo/monday"),
        ("a relative path", "file:repo/monday"),
        ("no folder", "file:///monday"),
        ("`..`", "file:///mnt/../monday"),
        ("a percent sign", "file:///mnt/100%/monday"),
        ("an escaped slash", "file:///mnt/a%2Fb/monday"),
        ("a query", "file:///mnt/a?b/monday"),
        ("a name of the format", "file:///mnt/repo/log"),
    ] {
        hear(input, &mut to(url));
    }
    let url = place.url("");
    hear(
        "an option for S3",
        to(&format!("{url}/monday")).args(["--endpoint", "http://store"]),
    );
    hear("folder missing", &mut to(&place.url("/usb/monday")));
    fs::write(place.path().join("image"), "x").expect("writes");
    hear("a file in its place", &mut to(&place.url("/image/monday")));
    hear(
        "repository missing",
        &mut bed.command(&format!("list {url}")),
    );
    let mut worse = to(&place.url("/monday"));
    hear(
        "neither links nor exclusive renames",
        on(&mut worse, Filesystem::WithNeither),
    );
    let inner = place.path().join("data/inner");
    fs::create_dir_all(inner).expect("makes folders");
    fs::write(place.path().join("repository"), "x").expect("writes");
    hear(
        "inside another repository",
        &mut to(&place.url("/data/inner/monday")),
    );
    judge.end();
    assert_eq!(bed.store.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_for_s3_and_places_in_the_wrong_order_end_with_2_and_nothing_is_made() {
    let (bed, repository) = (Bed::with_disk().await, Repository::new());
    let url = repository.url("");
    for option in [
        "--endpoint http://store",
        "--profile p",
        "--no-verify-tls",
        "--http-proxy http://proxy:1",
        "--https-proxy http://proxy:1",
    ] {
        let name = option.split(' ').next().expect("a first word");
        let says = format!("{name} is for places in S3 (s3://...), which {url} is not");
        for command in ["list", "verify"] {
            bed.assert_fails(&format!("{command} {url} {option}"), 2, &says);
        }
        bed.assert_fails(
            &format!("backup ./disk.img {url}/monday {option}"),
            2,
            &says,
        );
        bed.assert_fails(&format!("restore {url}/monday ./a {option}"), 2, &says);
    }
    bed.assert_fails(
        &format!("backup {url}/monday ./disk.img"),
        2,
        "is a place for backups; `ringback backup` takes what to back up first",
    );
    for (arguments, shown) in [
        ("list https://id:hush@host/vms", "https://***@host/vms"),
        (
            "backup ./disk.img s3://id:hush@backups/vms/",
            "s3://***@backups/vms/",
        ),
        (
            "backup s3://id:hush@backups/vms/monday ./disk.img",
            "s3://***@backups/vms/monday",
        ),
    ] {
        bed.assert_fails(arguments, 2, shown);
    }
    let says = "ends with a slash and so names no backup";
    bed.assert_fails(&format!("backup ./disk.img {url}/"), 2, says);
    assert_eq!(repository.files(""), [""; 0].map(PathBuf::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_or_not_a_repository_s_is_not_made_one_by_mistake() {
    let (bed, place) = (Bed::with_disk().await, Repository::new());
    let absent = place.url("/usb/repo");
    let says = format!(
        "cannot open the folder {}: No such file or directory (os error 2); mount the disk that it \
         lies on, or make it",
        place.path().join("usb/repo").display()
    );
    bed.assert_fails(&format!("backup ./disk.img {absent}/monday"), 3, &says);
    bed.assert_fails(&format!("restore {absent}/monday ./a"), 3, &says);
    bed.assert_fails(&format!("list {absent}"), 3, &says);
    bed.assert_fails(&format!("verify {absent}/monday"), 3, &says);
    assert_eq!(place.files(""), [""; 0].map(PathBuf::from));

    let nothing = format!("there is no repository in {}", place.url(""));
    bed.assert_fails(&format!("list {}", place.url("")), 3, &nothing);
    bed.assert_fails(
        &format!("restore {} ./a", place.url("/monday")),
        3,
        &nothing,
    );
    let neither = "there is neither a repository at file:///";
    bed.assert_fails(&format!("verify {}", place.url("/monday")), 3, neither);
    let mount = "; mount the disk that it lies on";
    bed.assert_fails(&format!("verify {}", place.url("/monday")), 3, mount);
    bed.assert_fails("verify file:///not-there-at-all", 3, mount);

    fs::write(
        place.path().join("repository"),
        "another program's ".repeat(9),
    )
    .expect("writes");
    let says = "is not an object of ringback; something else lies at this path";
    bed.assert_fails(
        &format!("backup ./disk.img {}", place.url("/monday")),
        7,
        says,
    );
    fs::remove_file(place.path().join("repository")).expect("removes");
    bed.lines(&format!("backup ./disk.img {}", place.url("/monday")));
    let says = "there is already a backup \"monday\" in file:///";
    bed.assert_fails(
        &format!("backup ./disk.img {}", place.url("/monday")),
        7,
        says,
    );
    bed.assert_fails(
        &format!("restore {} ./a", place.url("/friday")),
        3,
        "\"friday\"",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_is_told_so() {
    let (bed, repository) = (Bed::with_disk().await, Repository::new());
    let monday = repository.url("/monday");
    let mut by_nobody = bed.command(&format!("backup ./disk.img {monday}"));
    for (folder, mode) in [(repository.path(), 0o755), (bed.folder.path(), 0o755)] {
        fs::set_permissions(folder, Permissions::from_mode(mode)).expect("sets it");
    }
    let disk = Permissions::from_mode(0o644);
    fs::set_permissions(bed.path("disk.img"), disk).expect("sets it");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::process::CommandExt::uid(&mut by_nobody, 65534);
    } else {
        let mode = Permissions::from_mode(0o555);
        fs::set_permissions(repository.path(), mode).expect("sets it");
    }
    let output = run(&mut by_nobody);
    let says = "Permission denied (os error 13); owner and mode should let this user do it";
    assert_failed(&output, 4, says);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_names_the_file_and_leaves_nothing() {
    let (bed, repository) = (Bed::with_disk().await, Repository::new());
    // The limit is in blocks of 512 bytes; the signal would end the program.
    let script = format!("trap '' XFSZ; ulimit -f 2048; exec {RINGBACK} \"$@\"");
    let mut limited = Command::new("sh");
    let monday = repository.url("/monday");
    limited.args(["-c", &script, "sh", "backup", "./disk.img", &monday]);
    let output = run(limited.current_dir(bed.folder.path()));
    let says = format!("cannot write {}/data/", repository.path().display());
    assert_failed(&output, 7, &says);
    assert_failed(
        &output,
        7,
        "File too large (os error 27); the filesystem, or this process",
    );
    assert_eq!(repository.files(".uploads"), [""; 0].map(PathBuf::from));
    assert_eq!(repository.files("data"), [""; 0].map(PathBuf::from));
    bed.lines(&format!("backup ./disk.img {monday}"));
}

/// Without hard links, as FAT is: and with neither of the two ways to take a name once.
#[tokio::test(flavor = "multi_thread")]
async fn a_filesystem_without_links_will_do_and_one_without_exclusive_renames_as_well_will_not() {
    let (bed, fat, worse) = (Bed::with_disk().await, Repository::new(), Repository::new());
    for name in ["monday", "tuesday"] {
        let url = fat.url(&format!("/{name}"));
        let mut command = bed.command(&format!("backup ./disk.img {url}"));
        let output = run(on(&mut command, Filesystem::WithoutLinks));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(fat.files(".uploads"), [""; 0].map(PathBuf::from));
    }
    assert_eq!(fat.files("log").len(), 2);
    bed.lines(&format!("verify {} --data", fat.url("")));

    let mut command = bed.command(&format!("backup ./disk.img {}", worse.url("/monday")));
    let output = run(on(&mut command, Filesystem::WithNeither));
    let says = "its filesystem can neither link a file nor rename one without replacing another";
    assert_failed(&output, 7, says);
    assert_eq!(worse.files(""), [""; 0].map(PathBuf::from));
    let mut command = bed.command(&format!(
        "backup ./disk.img {} --json",
        worse.url("/monday")
    ));
    assert_failed_as_json(&run(on(&mut command, Filesystem::WithNeither)), 7, says);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_that_back_up_to_one_folder_at_once_all_have_their_backup() {
    let (bed, repository) = (Bed::new().await, Repository::new());
    let mut running = Vec::new();
    for number in 0..8 {
        bed.disk(&format!("disk-{number}.img"), 16 * MIB);
        let url = repository.url(&format!("/backup-{number}"));
        let arguments = format!("backup ./disk-{number}.img {url} --memory 32");
        running.push(start(&mut bed.command(&arguments)));
    }
    for process in running {
        let output = end(process).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    let listed = bed.json(&format!("list {}", repository.url("")));
    let listed = listed.as_array().expect("an array");
    let slots: Vec<u64> = listed.iter().filter_map(|it| it["slot"].as_u64()).collect();
    assert_eq!(slots, (1..=8).collect::<Vec<u64>>());
    bed.lines(&format!("verify {} --data", repository.url("")));
    for number in 0..8 {
        let name = format!("backup-{number}");
        let url = repository.url(&format!("/{name}"));
        bed.lines(&format!("restore {url} ./{name}"));
        let disk = bed.path(&format!("disk-{number}.img"));
        assert_same_content(
            &disk.display().to_string(),
            &bed.path(&name).display().to_string(),
        );
    }
    assert_eq!(repository.files(".uploads"), [""; 0].map(PathBuf::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_backup_leaves_no_draft_and_the_next_goes_on_with_its_packs() {
    let (bed, repository) = (Bed::new().await, Repository::new());
    let disk = bed.disk("disk.img", 300 * MIB);
    fill(&disk, 0, 300 * MIB, "large");
    let arguments = format!("backup ./disk.img {}", repository.url("/monday"));
    let running = start(&mut bed.command(&arguments));
    wait_for("a pack", async || {
        (!repository.files("data").is_empty()).then_some(())
    })
    .await;
    signal(running.id(), Signal::SIGINT);
    let output = end(running).await;
    assert_failed(&output, 130, "interrupted");
    assert_eq!(repository.files(".uploads"), [""; 0].map(PathBuf::from));
    assert_eq!(repository.files("log"), [""; 0].map(PathBuf::from));
    let made = bed.json(&arguments);
    let new = made["backup"]["new_bytes"].as_u64().expect("a number");
    assert!(new < 300 * MIB, "{new}");
    bed.lines(&format!("verify {} --data", repository.url("")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_the_folder_and_is_not_ringback_s_is_left_alone() {
    let (bed, repository) = (Bed::with_disk().await, Repository::new());
    let at = |name: &str| repository.path().join(name);
    for folder in ["photos", "log", "data"] {
        fs::create_dir(at(folder)).expect("makes a folder");
        fs::write(at(folder).join("notes.txt"), folder).expect("writes");
    }
    mkfifo(&at("data/pipe"), Mode::S_IRWXU).expect("makes a pipe");
    bed.lines(&format!("backup ./disk.img {}", repository.url("/monday")));
    bed.lines(&format!("verify {} --data", repository.url("")));
    for folder in ["photos", "log", "data"] {
        let kept = fs::read_to_string(at(folder).join("notes.txt")).expect("is there");
        assert_eq!(kept, folder);
    }
    let disk = File::open(bed.path("disk.img")).expect("opens");
    disk.read_exact_at(&mut [0], 0).expect("reads");
}
