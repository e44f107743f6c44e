//! Places that ringback sets up for people: the demo, and the playground of `serve --dev`.

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{DEADLINE, MIB, RINGBACK, ended_well, ringback, run, signal};

/// A child that is told to stop, and killed if it does not, when this is dropped.
struct Running {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _stderr: Option<ChildStderr>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = process.stdout.take().expect("is piped");
        Self {
            lines: BufReader::new(stdout).lines(),
            _stderr: process.stderr.take(),
            process,
        }
    }

    /// Reads up to a line that contains `wanted`; all those lines.
    fn lines_up_to(&mut self, wanted: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for line in self.lines.by_ref() {
            lines.push(line.expect("it prints text"));
            if lines.last().is_some_and(|line| line.contains(wanted)) {
                return lines;
            }
        }
        panic!("it never printed {wanted:?}: {lines:#?}");
    }

    fn signal(&self, which: Signal) {
        signal(self.process.id(), which);
    }

    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.process.try_wait().expect("can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A playground that is killed leaves its images attached.
        if let Ok(None) = self.process.try_wait() {
            self.signal(Signal::SIGINT);
            thread::sleep(Duration::from_secs(2));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn demo(temporary: &TempDir, arguments: &[&str]) -> Command {
    let mut command = ringback();
    command
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary.path());
    command
}

#[track_caller]
fn assert_nothing_is_left_in(folder: &Path) {
    let left: Vec<PathBuf> = fs::read_dir(folder)
        .expect("lists the folder")
        .map(|entry| entry.expect("has an entry").path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let attached: Vec<String> = fs::read_dir("/sys/block")
        .expect("there is a /sys/block")
        .filter_map(|entry| {
            let image = entry.ok()?.path().join("loop/backing_file");
            fs::read_to_string(image).ok()
        })
        .filter(|image| Path::new(image).starts_with(folder))
        .collect();
    assert!(attached.is_empty(), "{attached:?}");
}

#[test]
fn the_demo_goes_the_whole_way_and_leaves_nothing() {
    let temporary = tempfile::tempdir().expect("a folder");
    let output = run(&mut demo(&temporary, &["--json", "--data-mib", "16"]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    assert_eq!(report["identical"], true);
    let steps: Vec<&str> = report["steps"]
        .as_array()
        .expect("has steps")
        .iter()
        .filter_map(|step| step["step"].as_str())
        .collect();
    let wanted = [
        "create a volume",
        "fill it",
        "back up",
        "change a little",
        "back up again",
        "restore",
        "compare",
    ];
    assert_eq!(steps, wanted);
    let sent = |step: usize| {
        report["steps"][step]["wire_bytes"]
            .as_u64()
            .expect("a number")
    };
    assert!(sent(2) > 8 * MIB && sent(4) < sent(2), "{report:#}");
    assert_nothing_is_left_in(temporary.path());
}

#[test]
fn the_demo_leaves_nothing_when_it_is_interrupted_at_any_step() {
    for (which, after) in [
        (Signal::SIGINT, None),
        (Signal::SIGINT, Some("create a volume")),
        (Signal::SIGINT, Some("fill it")),
        (Signal::SIGTERM, Some("back up")),
    ] {
        let temporary = tempfile::tempdir().expect("a folder");
        let arguments = ["--data-mib", "128"];
        let mut running = Running::start(demo(&temporary, &arguments).stderr(Stdio::piped()));
        match after {
            Some(step) => drop(running.lines_up_to(&format!(" {step} "))),
            None => wait_for_an_entry(temporary.path()),
        }
        running.signal(which);
        let status = running.end();
        assert_eq!(
            status.code(),
            Some(130),
            "{which} after {after:?}: {status}"
        );
        assert_nothing_is_left_in(temporary.path());
    }
}

fn wait_for_an_entry(folder: &Path) {
    let deadline = Instant::now() + DEADLINE;
    while fs::read_dir(folder)
        .expect("lists the folder")
        .next()
        .is_none()
    {
        assert!(
            Instant::now() < deadline,
            "nothing was made in {}",
            folder.display()
        );
        thread::yield_now();
    }
}

/// The commands that a playground prints, run as they stand in a shell.
fn follow(instructions: &[String]) -> String {
    let folder = Path::new(RINGBACK).parent().expect("has a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let script = format!(
        "set -e\nPATH={}:{path}\n{}",
        folder.display(),
        instructions.join("\n")
    );
    let output = run(Command::new("sh").arg("-c").arg(&script));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{stderr}");
    String::from_utf8(output.stdout).expect("it prints text")
}

#[test]
fn a_playground_prints_commands_that_work_and_ends_on_sigint() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path().join("play ground");
    let mut serve = ringback();
    serve.arg("serve").arg("--dev").arg(&folder);
    let log = fs::File::create(temporary.path().join("log")).expect("makes the log");
    let mut running = Running::start(serve.stderr(log));
    let printed = running.lines_up_to("ringback show");
    let is_command = |line: &&String| line.trim_start().starts_with(['e', 'r']);
    let instructions: Vec<String> = printed.iter().filter(is_command).cloned().collect();
    let text = instructions.join("\n");
    for part in [
        "RINGBACK_SOCKET=",
        "AWS_ENDPOINT_URL_S3=http://127.0.0.1:",
        "AWS_SECRET",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let socket = folder.join("lvmd.sock");
    wait_for_an_answer(&socket);
    let output = follow(&instructions);
    for part in [
        "data-again",
        "s3://backups/repo/monday: 1.0 GiB backed up",
        "log slot  1",
    ] {
        assert!(output.contains(part), "{output}");
    }

    running.signal(Signal::SIGINT);
    let status = running.end();
    assert!(ended_well(status), "{status}");
    assert_private(&folder);
    assert!(!socket.exists());
    let images = ["data", "data-again"].map(|name| folder.join("volumes/volumes").join(name));
    assert!(
        images.iter().all(|image| image.join("image").exists()),
        "the volumes stay"
    );
    fs::remove_dir_all(&folder).expect("nothing holds the folder");
    fs::remove_file(temporary.path().join("log")).expect("removes the log");
    assert_nothing_is_left_in(temporary.path());
}

/// What is kept there are parts of disks: nobody else may look at it.
fn assert_private(place: &Path) {
    let found = fs::symlink_metadata(place).expect("is there");
    let mode = found.permissions().mode();
    assert_eq!(mode & 0o077, 0, "{}: {mode:o}", place.display());
    if found.is_dir() {
        for entry in fs::read_dir(place).expect("lists the folder") {
            assert_private(&entry.expect("has an entry").path());
        }
    }
}

fn wait_for_an_answer(socket: &Path) {
    let deadline = Instant::now() + DEADLINE;
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert!(
            Instant::now() < deadline,
            "nobody answers on {}",
            socket.display()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_watch_on_the_terminal_ends_on_sigint_and_with_the_daemon() {
    let temporary = tempfile::tempdir().expect("a folder");
    let mut serve = ringback();
    serve
        .arg("serve")
        .arg("--dev")
        .arg(temporary.path())
        .stderr(Stdio::null());
    let mut daemon = Running::start(&mut serve);
    let socket = temporary.path().join("lvmd.sock");
    wait_for_an_answer(&socket);
    let watch = || {
        let mut watch = ringback();
        watch
            .args(["lv", "watch", "--json", "--socket"])
            .arg(&socket);
        let mut running = Running::start(watch.stderr(Stdio::piped()));
        let lines = running.lines_up_to("free_bytes");
        let state: Value = serde_json::from_str(&lines[0]).expect("it is JSON");
        assert_eq!(state["items"][0]["device_class"], "dev");
        running
    };
    let (mut interrupted, mut outlived) = (watch(), watch());
    interrupted.signal(Signal::SIGINT);
    assert_eq!(interrupted.end().code(), Some(0));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(outlived.end().code(), Some(5), "unreachable");
    assert!(ended_well(daemon.end()));
}
