//! How calls of LVM are ordered, with a script in its place that takes its time and answers with
//! what LVM was recorded to answer. What LVM itself does is tested in a virtual machine (`tests/lvm`).

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::*;
use crate::volume::Changes;

/// How long whatever changes something takes.
const SLOW: Duration = Duration::from_millis(1500);

/// A folder with the script and what it notes of its calls.
struct Bed {
    folder: TempDir,
    changes: Changes,
}

impl Bed {
    fn new() -> Bed {
        let folder = tempfile::tempdir().expect("a folder");
        let fixture = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/volume/lvm/fixtures/full.json"
        );
        let script = format!(
            "case $1 in lvs) cat {fixture}; exit;; esac\n\
             echo \"begun $*\" >>{calls}\n\
             [ ! -e {stuck} ] || case $1 in lvremove) echo 'in use.' >&2; exit 5;; esac\n\
             case \"$*\" in *ringback-b00*|*published*) ;; *) sleep {slow};; esac\n\
             echo \"ended $1\" >>{calls}\n",
            calls = folder.path().join("calls").display(),
            stuck = folder.path().join("stuck").display(),
            slow = SLOW.as_secs_f64(),
        );
        fs::write(folder.path().join("lvm"), script).expect("writes the script");
        let changes = Changes::default();
        Bed { folder, changes }
    }

    fn prefix(&self) -> Vec<String> {
        let script = self.folder.path().join("lvm").display().to_string();
        vec!["/bin/sh".to_owned(), script]
    }

    async fn open(&self) -> Result<Arc<Group>, Error> {
        Group::open_with_lock_in(self.folder.path(), "vgtest", &self.prefix(), &self.changes).await
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    fn forget_calls(&self) {
        fs::write(self.folder.path().join("calls"), "").expect("empties the notes");
    }

    async fn wait_for_call(&self, call: &str) {
        let deadline = Instant::now() + 20 * SLOW;
        while !self.calls().iter().any(|it| it.starts_with(call)) {
            assert!(Instant::now() < deadline, "{call}: {:?}", self.calls());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn thick(group: &Arc<Group>) -> Lvm {
    let provision = Provision::Thick {
        snapshot_percent: 20,
    };
    Lvm::of(group, provision).await.expect("the group is there")
}

async fn thin(group: &Arc<Group>) -> Lvm {
    let provision = Provision::Thin {
        pool: "pool".to_owned(),
        overprovision_ratio: 10.0,
    };
    Lvm::of(group, provision).await.expect("the pool is there")
}

fn name(text: &str) -> VolumeName {
    VolumeName::parse(text).expect("a name")
}

async fn names(lvm: &Lvm) -> Vec<String> {
    let volumes = lvm.list().await.expect("lists");
    volumes.iter().map(|it| it.name.to_string()).collect()
}

#[tokio::test]
async fn an_open_sweeps_what_is_ours_finishes_what_was_published_and_leaves_the_rest() {
    let bed = Bed::new();
    bed.open().await.expect("opens");
    let begun: Vec<String> = bed
        .calls()
        .iter()
        .filter_map(|call| call.strip_prefix("begun ").map(str::to_owned))
        .collect();
    assert_eq!(
        begun,
        [
            "lvremove --yes -- vgtest/.ringback-b00000001",
            "lvremove --yes -- vgtest/.ringback-b00000002",
            "lvremove --yes -- vgtest/.ringback-r00000003",
            "lvchange --activate y --ignoreactivationskip -- vgtest/published",
            "lvchange --deltag ringback-restore --setactivationskip n -- vgtest/published",
        ]
    );
}

#[tokio::test]
async fn a_class_has_the_volumes_that_are_made_its_way_and_none_of_ours() {
    let bed = Bed::new();
    let group = bed.open().await.expect("opens");
    let (thick, thin) = (thick(&group).await, thin(&group).await);
    assert_eq!(
        names(&thick).await,
        ["published", "segments", "tagged", "thick"]
    );
    assert_eq!(names(&thin).await, ["thin", "thin-skipped"]);
    assert!(thick.get(&name("thin")).await.expect("asked").is_none());
    let published = thick.get(&name("published")).await.expect("asked");
    assert_eq!(published.expect("there").tags, [""; 0]);
}

#[tokio::test]
async fn a_slow_command_is_waited_for_by_changes_of_its_group_and_by_no_report() {
    let bed = Bed::new();
    let group = bed.open().await.expect("opens");
    let thick = thick(&group).await;
    bed.forget_calls();
    let (tagged, segments) = (name("tagged"), name("segments"));
    let started = Instant::now();
    let changes = async { tokio::join!(thick.remove(&tagged), thick.remove(&segments)) };
    let reports = async {
        bed.wait_for_call("begun lvremove").await;
        for _ in 0..20 {
            thick.list().await.expect("lists");
        }
        thick.free().await.expect("tells");
        started.elapsed()
    };
    let (removed, reported) = tokio::join!(changes, reports);
    assert!(removed.0.is_ok() && removed.1.is_ok(), "{removed:?}");
    assert!(reported < SLOW, "{reported:?}");
    let calls = bed.calls();
    let kinds: Vec<&str> = calls.iter().map(|call| &call[..5]).collect();
    assert_eq!(kinds, ["begun", "ended", "begun", "ended"], "{calls:?}");
}

#[tokio::test]
async fn a_call_that_goes_away_leaves_its_command_running_to_its_end() {
    let bed = Bed::new();
    let group = bed.open().await.expect("opens");
    let thick = thick(&group).await;
    bed.forget_calls();
    let name = name("tagged");
    tokio::select! {
        _ = thick.remove(&name) => panic!("it takes longer"),
        () = bed.wait_for_call("begun lvremove") => {}
    }
    bed.wait_for_call("ended lvremove").await;
}

#[tokio::test]
async fn a_group_is_at_rest_when_what_nobody_waits_for_has_ended_and_what_it_made_is_removed() {
    let bed = Bed::new();
    let group = bed.open().await.expect("opens");
    let thick = thick(&group).await;
    bed.forget_calls();
    let (tagged, owner) = (name("tagged"), Arc::clone(&group));
    let made = async {
        group
            .in_turn(async move || {
                owner.remove_any("made").await?;
                Ok(Made(owner))
            })
            .await
    };
    tokio::select! {
        _ = async { tokio::join!(thick.remove(&tagged), made) } => panic!("they take longer"),
        () = bed.wait_for_call("begun lvremove --yes -- vgtest/made") => {}
    }
    group.at_rest().await;
    let calls = bed.calls();
    let begun = calls.iter().filter(|it| it.starts_with("begun")).count();
    assert_eq!((calls.len(), begun), (6, 3), "{calls:?}");
    assert_eq!(calls[4], "begun lvremove --yes -- vgtest/again");
}

#[tokio::test]
async fn a_group_is_not_at_rest_while_a_job_waits_for_its_turn() {
    let bed = Bed::new();
    let group = bed.open().await.expect("opens");
    bed.forget_calls();
    let removal = |volume: &'static str| {
        let (group, owner) = (Arc::clone(&group), Arc::clone(&group));
        tokio::spawn(async move {
            let removed = group.in_turn(async move || Ok(owner.remove_any(volume).await?));
            removed.await.expect("it is removed");
        })
    };
    let first = removal("first");
    bed.wait_for_call("begun lvremove --yes -- vgtest/first")
        .await;
    let second = removal("second");
    tokio::task::yield_now().await;
    group.at_rest().await;
    assert_eq!(bed.calls().len(), 4, "{:?}", bed.calls());
    first.await.expect("no panic");
    second.await.expect("no panic");
}

/// Is removed when nobody has it any more.
struct Made(Arc<Group>);

impl Drop for Made {
    fn drop(&mut self) {
        self.0.in_turn_aside(|group| async move {
            group.remove_any("again").await.expect("it is removed");
        });
    }
}

#[tokio::test]
async fn what_could_not_be_removed_is_tried_again_before_each_change_until_it_is_gone() {
    let bed = Bed::new();
    let group = bed.open().await.expect("opens");
    let thick = thick(&group).await;
    bed.forget_calls();
    let stuck = bed.folder.path().join("stuck");
    fs::write(&stuck, "").expect("writes");
    let owner = Arc::clone(&group);
    let removed = group.in_turn(async move || owner.remove_own(".ringback-b00000004").await);
    assert!(removed.await.is_err());
    thick.remove(&name("tagged")).await.expect_err("in use");
    fs::remove_file(stuck).expect("lets go");
    let told = bed.changes.subscribe();
    thick.remove(&name("tagged")).await.expect("removes");
    assert!(told.has_changed().expect("the group is there"));
    thick.remove(&name("segments")).await.expect("removes");
    let calls = bed.calls();
    let begun = calls
        .iter()
        .filter_map(|it| it.strip_prefix("begun lvremove --yes -- vgtest/"));
    let begun: Vec<&str> = begun.collect();
    let own = ".ringback-b00000004";
    assert_eq!(begun, [own, own, "tagged", own, "tagged", "segments"]);
}

#[tokio::test]
async fn whoever_watches_is_told_when_what_was_dropped_is_removed() {
    let bed = Bed::new();
    let group = bed.open().await.expect("opens");
    let mut told = bed.changes.subscribe();
    drop(Made(Arc::clone(&group)));
    tokio::time::timeout(20 * SLOW, told.changed())
        .await
        .expect("in time")
        .expect("is there");
    assert_eq!(bed.calls().last().expect("a call"), "ended lvremove");
}

#[tokio::test]
async fn a_second_owner_is_refused_and_waits_for_a_command_that_outlived_the_first() {
    let bed = Bed::new();
    let group = bed.open().await.expect("opens");
    let error = bed.open().await.expect_err("it is served");
    assert_eq!(
        error.to_string(),
        "volume group vgtest is already served by another ringback, or a command of LVM that \
         one began has not ended yet"
    );
    bed.forget_calls();
    // As after a kill: the process is gone, its command is not.
    let orphan = Command::new("/bin/sh")
        .args([&bed.prefix()[1], "lvremove", "an-orphan"])
        .stdin(group.lock_for_commands().expect("can be duplicated"))
        .spawn()
        .expect("starts");
    drop(group);
    let mut orphan = Guarded(orphan);
    bed.wait_for_call("begun lvremove").await;
    bed.open().await.expect("opens when the command has ended");
    let calls = bed.calls();
    let ended = calls.iter().position(|it| it == "ended lvremove");
    let swept = calls.iter().position(|it| it.contains("b00000001"));
    assert!(ended < swept, "{calls:?}");
    orphan.0.wait().expect("it ended");
}

/// A child that is not left behind.
struct Guarded(std::process::Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[tokio::test]
async fn names_under_construction_are_taken_and_are_free_when_it_failed() {
    let bed = Bed::new();
    let group = bed.open().await.expect("opens");
    let report = group.report().await.expect("reports");
    let taken = group.reserve(&report, &name("thin"));
    assert!(matches!(taken, Err(Error::AlreadyExists(_))), "{taken:?}");
    let reservation = group.reserve(&report, &name("new")).expect("free");
    let taken = group.reserve(&report, &name("new"));
    assert!(matches!(taken, Err(Error::AlreadyExists(_))), "{taken:?}");
    drop(reservation);
    group.reserve(&report, &name("new")).expect("free again");
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_any_command() {
    let bed = Bed::new();
    let group = bed.open().await.expect("opens");
    let (thick, thin) = (thick(&group).await, thin(&group).await);
    bed.forget_calls();
    let new = |size_bytes| NewVolume {
        name: name("new"),
        size_bytes,
        tags: Vec::new(),
        layout: crate::volume::LayoutOptions::default(),
    };
    for lvm in [&thick, &thin] {
        let error = lvm.create(new(1 << 40)).await.expect_err("no room");
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    }
    let snapshot = NewSnapshot {
        name: name("new"),
        source: name("thick"),
        size_bytes: None,
        tags: Vec::new(),
        writable: true,
    };
    let error = thick.snapshot(snapshot).await.expect_err("thick");
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
    // The recorded group has a backup's snapshot of it.
    let error = thick.resize(&name("thick"), 200 << 20).await;
    assert!(matches!(error, Err(Error::BeingBackedUp(_))), "{error:?}");
    let mut replaced = thick.list().await.expect("lists").remove(0);
    replaced.identity = "of the volume that had this name".to_owned();
    let error = thick.freeze_for_backup(&replaced).await.expect_err("gone");
    assert!(matches!(error, Error::Replaced(_)), "{error}");
    let error = thick.remove(&name("pool")).await.expect_err("a pool");
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    assert_eq!(bed.calls(), [""; 0]);
}

#[tokio::test]
async fn a_group_or_pool_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let prefix = [
        "/bin/sh",
        "-c",
        "echo '  Volume group \"vgtest\" not found' >&2; exit 5",
    ];
    let prefix = prefix.map(str::to_owned);
    let error = Group::open_with_lock_in(
        Path::new(folder.path()),
        "vgtest",
        &prefix,
        &Changes::default(),
    )
    .await
    .expect_err("absent");
    assert_eq!(
        error.to_string(),
        "volume group vgtest is not available: LVM does not find it; `vgs` shows which there are"
    );
}
