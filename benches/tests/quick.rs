//! The harness measures what it says: a small run, all of it, looked at from outside.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use ringback_benches::results::{Phase, Results};

/// The ringback that was built beside these tests; built now if this package is tested alone.
fn ringback() -> PathBuf {
    let this = env::current_exe().expect("a path");
    let folder = this
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps");
    let program = folder.join("ringback");
    if !program.exists() {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let mut command = Command::new(cargo);
        command.args([
            "build",
            "--quiet",
            "--package",
            "ringback",
            "--manifest-path",
        ]);
        assert!(command.arg(manifest).status().expect("cargo").success());
    }
    program
}

fn run(folder: &Path, more: &[&str]) -> (Results, String) {
    let json = folder.join("results.json");
    let output = Command::new(env!("CARGO_BIN_EXE_ringback-bench"))
        .args(["run", "--size-mib", "24", "--rounds", "2", "--work"])
        .arg(folder.join("work"))
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(folder.join("report.html"))
        .arg("--ringback")
        .arg(ringback())
        .args(more)
        .output()
        .expect("the harness runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let results = fs::read(&json).expect("results");
    let table = String::from_utf8(output.stdout).expect("text");
    (serde_json::from_slice(&results).expect("results"), table)
}

#[test]
fn a_run_measures_every_contender_in_every_phase_and_round() {
    let folder = tempfile::tempdir().expect("a folder");
    let (results, table) = run(folder.path(), &["--peers", "none"]);

    assert_eq!(
        (results.volume.bytes, results.volume.changed_blocks),
        (24 << 20, 1)
    );
    for (name, phases) in [
        ("raw", 3),
        ("ringback", 4),
        ("ringback-none", 4),
        ("ringback-sealed", 4),
    ] {
        let contender = results.contenders.iter().find(|it| it.name == name);
        let contender = contender.expect(name);
        assert_eq!(contender.failure, None);
        assert_eq!(contender.phases.len(), phases, "{name}");
        for phase in &contender.phases {
            let what = format!("{name}, {}", phase.phase.title());
            assert_eq!(phase.runs.len(), 2, "{what}");
            assert!(phase.summary.of_raw_limit.is_some(), "{what}");
            for run in &phase.runs {
                assert!(run.seconds > 0.0 && run.peak_rss_bytes > 1 << 20, "{what}");
                assert!(run.user_seconds + run.system_seconds > 0.0, "{what}");
                assert!(run.wire.is_some() && !run.samples.is_empty(), "{what}");
            }
            assert!(table.contains(phase.phase.title()), "{table}");
        }
    }
    // fio's row is there in any case: with figures, or as not installed.
    assert!(table.lines().any(|line| line.starts_with("fio")), "{table}");
    let page = fs::read_to_string(folder.path().join("report.html")).expect("a page");
    assert!(
        page.contains("in each stage"),
        "ringback's stages are plotted"
    );
    let left: Vec<_> = fs::read_dir(folder.path().join("work"))
        .expect("lists")
        .collect();
    assert_eq!(left.len(), 3, "a volume, its note, a lock: {left:?}");
}

#[test]
fn what_is_counted_is_what_was_moved() {
    let folder = tempfile::tempdir().expect("a folder");
    let (results, _) = run(folder.path(), &["--peers", "none", "--workload", "random"]);
    let bytes = 24u64 << 20;
    let of = |name: &str, phase: Phase| {
        let contender = results.contenders.iter().find(|it| it.name == name);
        let phase = contender.and_then(|it| it.phase(phase));
        phase.expect("measured").runs[0].clone()
    };
    let wire = |name, phase| of(name, phase).wire.expect("counted");

    assert_eq!(
        wire("raw", Phase::First).requests["PutObject"],
        3,
        "8 MiB each"
    );
    assert_eq!(wire("raw", Phase::First).sent_bytes, bytes);
    assert_eq!(
        wire("raw", Phase::Unchanged).requests_total(),
        0,
        "only read"
    );
    assert_eq!(wire("raw", Phase::Restore).received_bytes, bytes);
    let first = wire("ringback", Phase::First).sent_bytes;
    assert!((bytes..bytes + (1 << 20)).contains(&first), "{first}");
    let again = wire("ringback", Phase::Unchanged).sent_bytes;
    assert!(again < 64 << 10, "{again}");
    let changed = wire("ringback", Phase::Changed).sent_bytes;
    assert!(
        (256 << 10..512 << 10).contains(&changed),
        "one chunk and its leaf: {changed}"
    );
    let stored = of("ringback", Phase::Changed).stored_bytes.expect("listed");
    assert!(stored >= bytes + (256 << 10), "{stored}");
    let restore = of("ringback", Phase::Restore);
    assert!(
        restore.disk_written_bytes >= bytes,
        "{}",
        restore.disk_written_bytes
    );
    let read: u64 = restore.stages.last().expect("stages").stages["verify"].entered;
    assert_eq!(read, bytes / (256 << 10));
}

#[test]
fn a_volume_in_use_by_another_run_and_unknown_peers_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let lock = fs::File::create(folder.path().join("lock")).expect("a file");
    lock.lock().expect("locked");
    let refused = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringback-bench"))
            .args([
                "run",
                "--size-mib",
                "16",
                "--ringback",
                "/bin/true",
                "--work",
            ])
            .arg(folder.path())
            .args(arguments)
            .output()
            .expect("the harness runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&[]).contains("another run works in"));
    drop(lock);
    assert!(refused(&["--peers", "resticc"]).contains("some of restic,"));
}
