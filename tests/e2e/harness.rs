//! The daemon as a child process in a folder of its own.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{net::UnixStream, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::client::Client;

/// The program under test.
pub(crate) const RINGBACK: &str = env!("CARGO_BIN_EXE_ringback");

/// Bytes in a mebibyte.
pub(crate) const MIB: u64 = 1 << 20;
/// Bytes in a gibibyte.
pub(crate) const GIB: u64 = 1 << 30;

/// What is waited for comes within this time, or never.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// So much of a daemon's log is shown when its test fails.
const LOG_LINES: usize = 40;
const POLL: Duration = Duration::from_millis(5);

/// A running daemon, killed when this is dropped. Its volumes, configuration and log are in a
/// folder that it can be started on again.
pub(crate) struct Daemon {
    process: Child,
    environment: Vec<(&'static str, String)>,
    folder: TempDir,
}

impl Daemon {
    /// A daemon with one class, `fast`, all of whose room is given away.
    pub(crate) fn start() -> Self {
        Self::with(|folder| class("fast", folder, 0, true))
    }

    /// The same, with its log there.
    pub(crate) fn logging_to(path: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::os::unix::fs::symlink(path, folder.path().join("log")).expect("links the log");
        Self::in_folder(folder, Vec::new(), |it| class("fast", it, 0, true))
    }

    /// A daemon with this text behind `device-classes:`; `s3` and `datapath` may follow there.
    pub(crate) fn with(classes: impl FnOnce(&Path) -> String) -> Self {
        Self::in_environment(Vec::new(), classes)
    }

    /// The same with environment variables of its own.
    pub(crate) fn in_environment(
        environment: Vec<(&'static str, String)>,
        classes: impl FnOnce(&Path) -> String,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::in_folder(folder, environment, classes)
    }

    fn in_folder(
        folder: TempDir,
        environment: Vec<(&'static str, String)>,
        classes: impl FnOnce(&Path) -> String,
    ) -> Self {
        let mut config = format!(
            "socket-name: {}\ndevice-classes:\n{}",
            folder.path().join("lvmd.sock").display(),
            classes(folder.path())
        );
        if !config.contains("\ns3:") {
            config.push_str("s3: { region: us-east-1 }\n");
        }
        fs::write(folder.path().join("lvmd.yaml"), config).expect("writes the configuration");
        let process = spawn(folder.path(), &environment);
        let mut daemon = Self {
            process,
            environment,
            folder,
        };
        daemon.wait_until_it_answers();
        daemon
    }

    /// Kills the daemon, if it still runs, and starts it on what it left.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.folder.path(), &self.environment);
        self.wait_until_it_answers();
    }

    /// The same, but calls `before` with the process's id before the program begins, and waits
    /// for no answer.
    pub(crate) fn start_again(&mut self, before: impl FnOnce(u32)) {
        self.kill();
        self.process = spawn_held(self.folder.path(), &self.environment);
        before(self.process.id());
        let_go(&mut self.process);
    }

    /// Whether somebody can connect.
    pub(crate) fn answers(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }

    /// `kill -9`. A child that it has just forked has its socket, too, until it runs its program:
    /// who connects then is never answered.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("the daemon can be killed");
        self.process.wait().expect("the daemon ends");
        let deadline = Instant::now() + DEADLINE;
        while self.answers() {
            assert!(Instant::now() < deadline, "its socket is held by a child");
            thread::sleep(POLL);
        }
    }

    /// SIGTERM; how the daemon ended.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        signal(self.process.id(), Signal::SIGTERM);
        self.end().await
    }

    /// Waits for its end; how it ended.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        wait_for("the daemon's end", async || {
            self.process
                .try_wait()
                .expect("the daemon can be waited for")
        })
        .await
    }

    /// A connection of its own.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.socket()).await
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("lvmd.sock")
    }

    /// Something in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it wrote to standard error since it was first started.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("reads the log")
    }

    /// Names of what lies in one part of a class's folder.
    pub(crate) fn entries(&self, class: &str, part: &str) -> Vec<String> {
        let folder = self.path(class).join(part);
        let entries = fs::read_dir(&folder).expect("lists the folder");
        entries
            .map(|entry| entry.expect("has an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    /// Asserts that nothing is left of a volume of the class `fast`, nor of anything temporary.
    #[track_caller]
    pub(crate) fn assert_nothing_is_left_of(&self, volume: &str) {
        let published = self.entries("fast", "volumes");
        assert!(
            !published.iter().any(|name| name == volume),
            "{published:?}"
        );
        for part in ["pending", "temporary"] {
            assert_eq!(self.entries("fast", part), [""; 0], "{part}");
        }
        // What is on its way out takes its time.
        let deadline = Instant::now() + DEADLINE;
        while !self.entries("fast", "trash").is_empty() {
            assert!(Instant::now() < deadline, "the trash stays");
            thread::sleep(POLL);
        }
    }

    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.answers() {
            if let Some(status) = self.process.try_wait().expect("can be waited for") {
                panic!("the daemon ended ({status}):\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "no answer:\n{}", self.log());
            thread::sleep(POLL);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("--- the end of the daemon's log ---\n{}", last.join("\n"));
        }
    }
}

/// A device class of image files in the subfolder of its name.
pub(crate) fn class(name: &str, folder: &Path, spare_gib: u64, default: bool) -> String {
    format!(
        "- name: {name}\n\
         \x20 default: {default}\n\
         \x20 spare-gb: {spare_gib}\n\
         \x20 directory: {}\n\
         \x20 attach: never\n",
        folder.join(name).display()
    )
}

/// The program, deaf to the credentials and settings of whoever runs the tests.
pub(crate) fn ringback() -> Command {
    ringback_by(RINGBACK)
}

/// The same, started by another program.
fn ringback_by(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("AWS_") || name.starts_with("RINGBACK_") {
            command.env_remove(&*name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    // Many daemons run at once, and there is one default port.
    command.env("RINGBACK_METRICS_BIND_ADDRESS", "0");
    command.stdin(Stdio::null());
    command
}

/// Runs a program that is to end soon.
pub(crate) fn run(command: &mut Command) -> Output {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().expect("the program starts");
    let id = child.id();
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(child.wait_with_output()));
    let Ok(output) = end.recv_timeout(DEADLINE) else {
        signal(id, Signal::SIGKILL);
        panic!("it does not end: {command:?}");
    };
    output.expect("the program's output can be read")
}

/// Sends a signal to a process that this test started.
pub(crate) fn signal(process: u32, signal: Signal) {
    let process = i32::try_from(process).expect("a process id");
    kill(Pid::from_raw(process), signal).expect("the process can be signalled");
}

/// Whether this is how a process ends that was not killed and found all well.
pub(crate) fn ended_well(status: ExitStatus) -> bool {
    status.success() && status.signal().is_none()
}

/// Asks until there is an answer.
pub(crate) async fn wait_for<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(POLL).await;
    }
}

fn spawn(folder: &Path, environment: &[(&'static str, String)]) -> Child {
    let serve = ringback();
    logged(serve, folder, environment)
        .spawn()
        .expect("the daemon starts")
}

fn spawn_held(folder: &Path, environment: &[(&'static str, String)]) -> Child {
    logged(held(), folder, environment)
        .spawn()
        .expect("a shell starts")
}

/// A process that becomes the program when it is sent a line.
pub(crate) fn held() -> Command {
    let mut shell = ringback_by("sh");
    shell.args(["-c", "read -r line && exec \"$0\" \"$@\"", RINGBACK]);
    shell.stdin(Stdio::piped());
    shell
}

/// Sends that line.
pub(crate) fn let_go(held: &mut Child) {
    let mut shell = held.stdin.take().expect("is piped");
    shell.write_all(b"\n").expect("the shell waits for a line");
}

fn logged(mut serve: Command, folder: &Path, environment: &[(&'static str, String)]) -> Command {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .expect("opens the log");
    serve
        .arg("serve")
        .arg("--config")
        .arg(folder.join("lvmd.yaml"))
        .env("CACHE_DIRECTORY", folder.join("cache"))
        .envs(environment.iter().cloned())
        .stdout(Stdio::null())
        .stderr(log);
    serve
}
