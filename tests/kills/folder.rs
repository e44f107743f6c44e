//! A backup to a folder of this host: in which order it makes its system calls, and what is left
//! when one of them is the last.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    harness::{MIB, held, let_go, ringback, run},
    store::{assert_same_content, fill},
    tracer::{Call, Trace, Traced},
};

/// A disk's image, and a folder for a repository.
struct Bed {
    place: TempDir,
    disk: PathBuf,
    repository: PathBuf,
}

impl Bed {
    /// With so much to read, and so much of it, at most, not zero.
    fn new(bytes: u64, data_bytes: u64) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let (disk, repository) = (place.path().join("disk.img"), place.path().join("repo"));
        let file = File::create_new(&disk).expect("makes a file");
        let zeros = vec![0; 1 << 20];
        for at in (0..bytes).step_by(zeros.len()) {
            file.write_all_at(&zeros, at).expect("writes");
        }
        fill(&disk.display().to_string(), 0, data_bytes, "content");
        fs::create_dir(&repository).expect("makes a folder");
        Self {
            place,
            disk,
            repository,
        }
    }

    /// Begins with an empty folder again.
    fn clear(&self) {
        fs::remove_dir_all(&self.repository).expect("removes the repository");
        fs::create_dir(&self.repository).expect("makes a folder");
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}/{name}", self.repository.display())
    }

    fn command(&self, mut command: Command, name: &str) -> Command {
        command.arg("backup").arg(&self.disk).arg(self.url(name));
        command
    }

    fn back_up(&self, name: &str) -> Output {
        run(&mut self.command(ringback(), name))
    }

    /// Makes a backup that is killed at the first call that `is_it` picks; what it did until then.
    fn trace(&self, name: &str, is_it: impl FnMut(&Call) -> bool + Send + 'static) -> Trace {
        let mut command = self.command(held(), name);
        let output = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = output.spawn().expect("a shell starts");
        let traced = Traced::kill_at(process.id(), &self.repository, is_it);
        let_go(&mut process);
        let trace = traced.trace();
        let ended = process.wait().expect("it ends");
        assert_eq!(ended.success(), trace.killed_at.is_none(), "{ended}");
        trace
    }

    fn drafts(&self) -> usize {
        fs::read_dir(self.repository.join(".uploads")).map_or(0, Iterator::count)
    }

    /// The names of the backups that there are.
    fn listed(&self) -> Vec<String> {
        let output = run(ringback().args(["list", "--json"]).arg(self.url("")));
        if output.status.code() == Some(3) {
            return Vec::new();
        }
        assert!(output.status.success(), "{output:?}");
        let listed: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        let names = listed
            .iter()
            .map(|it| it["name"].as_str().expect("a name").to_owned());
        names.collect()
    }

    fn assert_verifies(&self) {
        let output = run(ringback().args(["verify", "--data"]).arg(self.url("")));
        assert!(output.status.success(), "{output:?}");
    }

    fn assert_restores(&self, name: &str) {
        let again = self.place.path().join("again.img");
        let output = run(ringback().arg("restore").arg(self.url(name)).arg(&again));
        assert!(output.status.success(), "{name}: {output:?}");
        assert_same_content(
            &self.disk.display().to_string(),
            &again.display().to_string(),
        );
        fs::remove_file(again).expect("removes it");
    }
}

/// How a draft becomes an object, and of which name.
fn published(call: &Call) -> Option<(&Path, &Path)> {
    matches!(call.name, "linkat" | "renameat")
        .then(|| Some((call.path.as_deref()?, call.to.as_deref()?)))
        .flatten()
}

/// Asserts that each object's bytes, and the folders above it, are synced before it gets its name,
/// that its name is synced before the backup is, and that the backup's own comes last.
fn assert_order(calls: &[Call], repository: &Path) {
    let is_sync = |call: &Call, of: &Path| call.name == "fsync" && call.path.as_deref() == Some(of);
    let mut unsynced = BTreeSet::new();
    let mut objects = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        if call.name == "fsync" {
            unsynced.remove(call.path.as_deref().expect("a path"));
        }
        let Some((draft, object)) = published(call) else {
            continue;
        };
        let name = object.strip_prefix(repository).expect("it lies there");
        if objects.contains(&name) {
            continue; // taken; so a new repository's store is tried out
        }
        let before = &calls[..at];
        let last_write = before
            .iter()
            .rposition(|it| it.name == "pwrite64" && it.path.as_deref() == Some(draft));
        let synced = before.iter().rposition(|it| is_sync(it, draft));
        assert!(
            last_write.is_some() && last_write < synced,
            "{}",
            object.display()
        );
        for folder in object
            .ancestors()
            .skip(1)
            .take_while(|it| *it != repository)
        {
            let above = folder.parent().expect("it lies in the repository");
            assert!(
                before.iter().any(|it| is_sync(it, above)),
                "{}",
                folder.display()
            );
        }
        if object.starts_with(repository.join("log")) {
            assert_eq!(unsynced, BTreeSet::new(), "before {}", object.display());
        }
        unsynced.insert(object.parent().expect("it lies in the repository"));
        objects.push(name);
    }
    assert_eq!(unsynced, BTreeSet::new(), "at the end");
    let kinds: Vec<_> = objects
        .iter()
        .map(|it| it.iter().next().expect("a name"))
        .collect();
    for kind in ["repository", "data", "tree", "index", "refs", "log"] {
        assert!(kinds.iter().any(|it| *it == kind), "{kind}: {kinds:?}");
    }
    assert_eq!(
        kinds.iter().position(|it| *it == "log"),
        Some(kinds.len() - 1)
    );
}

#[test]
fn all_that_a_backup_in_a_folder_refers_to_is_synced_before_its_entry_in_the_log() {
    let bed = Bed::new(12 * MIB, 9 * MIB);
    let trace = bed.trace("monday", |_| false);
    assert_order(&trace.calls, &bed.repository);
    bed.assert_restores("monday");
    // A judgement that finds nothing in a run without its syncs would find nothing in any.
    let part = |path: &str| bed.repository.join(path);
    for unsynced in [part(""), part("log"), part("data")] {
        let is_other = |call: &&Call| call.name != "fsync" || call.path.as_ref() != Some(&unsynced);
        let calls: Vec<Call> = trace.calls.iter().filter(is_other).cloned().collect();
        let judged = std::panic::catch_unwind(|| assert_order(&calls, &bed.repository));
        assert!(judged.is_err(), "without {}", unsynced.display());
    }
}

#[test]
fn packs_that_a_killed_run_left_are_synced_before_an_entry_refers_to_them() {
    let bed = Bed::new(12 * MIB, 9 * MIB);
    let data = bed.repository.join("data");
    let is_session = |path: &Path| path.parent() == Some(&data);
    // The first pack has its name, and nobody has made sure of that yet.
    let (of_data, mut is_named) = (data.clone(), false);
    let first = bed.trace("monday", move |call| {
        is_named |= published(call).is_some_and(|(_, object)| object.starts_with(&of_data));
        is_named
            && call.name == "fsync"
            && call
                .path
                .as_deref()
                .is_some_and(|it| it.parent() == Some(&of_data))
    });
    let left = first
        .killed_at
        .expect("it was killed")
        .path
        .expect("a folder");
    assert!(is_session(&left), "{left:?}");
    assert!(fs::read_dir(&left).expect("is there").count() > 0);

    let second = bed.trace("monday", |_| false).calls;
    let is_entry = |call: &Call| {
        published(call).is_some_and(|(_, object)| object.starts_with(bed.repository.join("log")))
    };
    let entry = second.iter().position(is_entry).expect("it is committed");
    let synced = |folder: &Path| {
        let is_it = |call: &Call| call.name == "fsync" && call.path.as_deref() == Some(folder);
        second[..entry].iter().any(is_it)
    };
    assert!(synced(&left) && synced(&data), "{second:?}");
    bed.assert_restores("monday");
}

/// Of each kind of call the first, one in the middle and the last.
fn points(calls: &[Call], concerns: impl Fn(&Path) -> bool) -> Vec<[usize; 3]> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        if call.path.as_deref().is_some_and(&concerns) {
            by_name.entry(call.name).or_default().push(at);
        }
    }
    let three = |all: &Vec<usize>| [all[0], all[all.len() / 2], all[all.len() - 1]];
    by_name.values().map(three).collect()
}

/// Kills a backup at each of these calls; how many.
fn kill_at(bed: &Bed, points: impl IntoIterator<Item = usize>) -> usize {
    let mut kills = 0;
    for point in points {
        bed.clear();
        let mut calls = 0;
        let trace = bed.trace("monday", move |_| {
            calls += 1;
            calls > point
        });
        // One run makes fewer calls than another.
        let Some(last) = trace.killed_at else {
            continue;
        };
        kills += 1;
        let there = bed.listed();
        let is_there = there == ["monday"];
        assert!(is_there || there.is_empty(), "{there:?} after {last:?}");
        if is_there {
            bed.assert_verifies();
        }
        let again = bed.back_up("monday").status;
        assert_eq!(
            again.code(),
            Some(if is_there { 7 } else { 0 }),
            "after {last:?}"
        );
        let next = bed.back_up("tuesday");
        assert!(next.status.success(), "{next:?} after {last:?}");
        assert_eq!(bed.drafts(), 0, "after {last:?}");
        bed.assert_verifies();
    }
    let there = bed.listed();
    bed.assert_restores(there.last().expect("a backup"));
    kills
}

#[test]
fn a_backup_to_a_folder_killed_at_any_call_is_whole_or_absent_and_its_drafts_go_with_the_next() {
    let bed = Bed::new(12 * MIB, 9 * MIB);
    let whole = bed.trace("monday", |_| false).calls;
    let kills = kill_at(&bed, points(&whole, |_| true).into_iter().flatten());
    assert!(kills >= 12, "{kills}");
}

#[test]
fn a_pack_that_comes_in_parts_is_whole_or_absent_when_its_backup_is_killed() {
    // So much to read that packs, of which there are at least 64, are larger than parts.
    let bed = Bed::new(608 * MIB, 19 * MIB);
    let whole = bed.trace("monday", |_| false).calls;
    let is_upload = |path: &Path| path.extension().is_some_and(|it| it == "upload");
    let middles = points(&whole, is_upload).into_iter().map(|it| it[1]);
    let kills = kill_at(&bed, middles);
    assert!(kills >= 3, "{kills}");
}
