//! A daemon and an S3 endpoint, each a process of its own, driven by the command line as a person
//! would.

use std::{
    fs,
    fs::File,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, setrlimit};
use tempfile::TempDir;

const RINGBACK: &str = env!("CARGO_BIN_EXE_ringback");
const STARTING: Duration = Duration::from_secs(20);
/// nobody
const ORDINARY_USER: u32 = 65534;

/// The endpoint: a playground of which only the store is used.
pub(crate) struct Sink {
    process: Child,
    environment: Vec<(String, String)>,
    _folder: TempDir,
}

/// A daemon with one Directory class.
pub(crate) struct Daemon {
    process: Child,
    socket: PathBuf,
    log: PathBuf,
    environment: Vec<(String, String)>,
    _folder: TempDir,
}

/// Who runs the daemon.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    Root,
    /// An ordinary user who may lock no more than 64 KiB of memory.
    Ordinary,
}

impl Sink {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = Command::new(RINGBACK)
            .args(["serve", "--dev"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let output = process.stdout.take().expect("is piped");
        let environment: Vec<_> = BufReader::new(output)
            .lines()
            .map(|line| line.expect("text"))
            .filter_map(|line| {
                let (name, value) = line.trim().strip_prefix("export ")?.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .filter(|(name, _)| name.starts_with("AWS_"))
            .take(3)
            .collect();
        assert_eq!(environment.len(), 3, "endpoint and keys: {environment:?}");
        Self {
            process,
            environment,
            _folder: folder,
        }
    }
}

impl Sink {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Daemon {
    /// A daemon whose volumes lie in `volumes`, with these settings of the data path.
    pub(crate) fn start(sink: &Sink, volumes: &Path, datapath: &str, user: User) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("lvmd.sock");
        let config = folder.path().join("lvmd.yaml");
        let log = folder.path().join("log");
        let yaml = format!(
            "socket-name: {}\ns3: {{region: us-east-1}}\ndatapath: {datapath}\n\
             device-classes: [{{name: d, default: true, spare-gb: 0, directory: {}}}]\n",
            socket.display(),
            volumes.display(),
        );
        fs::write(&config, yaml).expect("writes");
        let mut command = Command::new(RINGBACK);
        command
            .args(["serve", "--metrics-bind-address=0", "--config"])
            .arg(&config)
            .env("RINGBACK_LOG", "info")
            .env("CACHE_DIRECTORY", folder.path().join("cache"))
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("makes the log"));
        if user == User::Ordinary {
            fs::create_dir_all(volumes).expect("makes the folder");
            for path in [folder.path(), volumes] {
                nix::unistd::chown(path, Some(ORDINARY_USER.into()), None).expect("chown");
            }
            command.uid(ORDINARY_USER).gid(ORDINARY_USER);
            // SAFETY: setrlimit is async-signal-safe and touches no memory of this process.
            unsafe {
                command.pre_exec(|| {
                    setrlimit(Resource::RLIMIT_MEMLOCK, 64 << 10, 64 << 10).map_err(Into::into)
                });
            }
        }
        let process = command.spawn().expect("starts");
        let daemon = Self {
            process,
            socket,
            log,
            environment: sink.environment.clone(),
            _folder: folder,
        };
        daemon.wait_until_it_answers();
        daemon
    }

    fn wait_until_it_answers(&self) {
        let deadline = Instant::now() + STARTING;
        while !self.call(&["lv", "list"]).status.success() {
            assert!(Instant::now() < deadline, "no answer:\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("reads the log")
    }

    fn call(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("runs")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(RINGBACK);
        command
            .arg("--socket")
            .arg(&self.socket)
            .args(arguments)
            .envs(self.environment.iter().cloned());
        command
    }

    /// Runs a command against this daemon; what it printed.
    pub(crate) fn ringback(&self, arguments: &[&str]) -> String {
        let output = self.call(arguments);
        assert!(
            output.status.success(),
            "ringback {arguments:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Path of a volume, as the daemon tells it.
    pub(crate) fn path_of(&self, volume: &str) -> PathBuf {
        let listed = self.ringback(&["--json", "lv", "list"]);
        let volumes: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        volumes
            .as_array()
            .and_then(|all| all.iter().find(|it| it["name"] == volume))
            .and_then(|it| it["path"].as_str())
            .unwrap_or_else(|| panic!("{volume} is not listed: {listed}"))
            .into()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// As an operator would; a process that does not listen is killed.
fn end(process: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id()).expect("a pid"));
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let deadline = Instant::now() + STARTING;
    while Instant::now() < deadline {
        if process.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = process.kill();
    let _ = process.wait();
}
