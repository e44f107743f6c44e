//! Runs a program and measures it.
//!
//! Between the harness and the program stands a small process of ours, [`supervise`]: it waits for
//! the program, so that what the kernel sums up for its children is the program's alone, with all
//! that descended from it. Meanwhile the harness looks at the whole tree ten times a second.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    prctl,
    resource::{UsageWho, getrusage},
    signal::Signal,
};
use procfs::process::Process;
use serde::{Deserialize, Serialize};

use super::tree;
use crate::error::{Error, Located};

/// Between two looks at the processes.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How soon the end of a program is noticed; its time is taken by its supervisor.
const END_INTERVAL: Duration = Duration::from_millis(5);
/// Lines of standard error that are told when a program fails.
const SAID_LINES: usize = 6;

/// A program and how to start it.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    program: OsString,
    arguments: Vec<OsString>,
    environment: BTreeMap<String, OsString>,
    folder: Option<PathBuf>,
    stdin: Option<PathBuf>,
    stdout: Option<PathBuf>,
}

/// What a program did to the processes' sums at one moment.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Sample {
    /// Since its start.
    pub ms: u64,
    /// CPU up to now.
    pub cpu_seconds: f64,
    /// Read from storage up to now.
    pub read_bytes: u64,
    /// Written to storage up to now.
    pub written_bytes: u64,
    /// Resident now.
    pub rss_bytes: u64,
}

/// What a program took.
#[derive(Debug, Clone)]
pub struct Measured {
    /// What its supervisor says.
    pub used: Used,
    /// Most memory that its processes had resident.
    pub peak_rss_bytes: u64,
    /// Ten times a second.
    pub samples: Vec<Sample>,
}

/// What the kernel says of a program that has ended.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Used {
    /// From its start to its end.
    pub seconds: f64,
    /// CPU in user mode.
    pub user_seconds: f64,
    /// CPU in the kernel.
    pub system_seconds: f64,
    /// Most memory that one of its processes had resident.
    pub rss_bytes: u64,
    /// Read from storage.
    pub read_bytes: u64,
    /// Written to storage.
    pub written_bytes: u64,
}

impl Launch {
    /// A program, by name or path.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            ..Self::default()
        }
    }

    /// Several programs, as `bash` understands them; any that fails makes them all fail.
    pub fn shell(script: impl AsRef<str>) -> Self {
        let script = format!("set -euo pipefail\n{}", script.as_ref());
        Self::new("bash").args(["-c", &script])
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Sets variables of the environment.
    #[must_use]
    pub fn envs<T: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (&'static str, T)>,
    ) -> Self {
        let named = variables.into_iter();
        self.environment
            .extend(named.map(|(name, value)| (name.to_owned(), value.into())));
        self
    }

    /// Where it runs.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// What it reads from standard input; otherwise nothing.
    #[must_use]
    pub fn stdin(mut self, path: &Path) -> Self {
        self.stdin = Some(path.to_owned());
        self
    }

    /// Where its standard output goes; otherwise nowhere.
    #[must_use]
    pub fn stdout(mut self, path: &Path) -> Self {
        self.stdout = Some(path.to_owned());
        self
    }

    /// For messages.
    pub fn describe(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.arguments);
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    /// Runs it without measuring anything; its standard output.
    pub fn run(&self) -> Result<String, Error> {
        let mut command = self.command(&self.program, &self.arguments);
        command.stdin(self.input()?).stderr(Stdio::piped());
        let output = command
            .output()
            .map_err(|source| self.not_started(source))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(self.failed(output.status, &String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Runs it and measures it; `scratch` is a folder for notes.
    pub fn measure(&self, scratch: &Path) -> Result<Measured, Error> {
        let (report, errors) = (scratch.join("used.json"), scratch.join("stderr"));
        let stderr = File::create(&errors).at("make", &errors)?;
        let stdout = match &self.stdout {
            Some(path) => Stdio::from(File::create(path).at("make", path)?),
            None => Stdio::null(),
        };
        let this = env::current_exe().at("find", Path::new("/proc/self/exe"))?;
        let words = [&OsString::from("supervise"), report.as_os_str()].map(OsString::from);
        let words = words.iter().chain([&self.program]).chain(&self.arguments);
        let mut command = self.command(this.as_os_str(), words);
        command.stdin(self.input()?).stdout(stdout).stderr(stderr);

        let begun = Instant::now();
        let mut child = command.spawn().map_err(|source| self.not_started(source))?;
        let samples = follow(&mut child, begun).map_err(|source| self.not_started(source))?;
        let status = child.wait().map_err(|source| self.not_started(source))?;
        if !status.success() {
            let said = fs::read_to_string(&errors).unwrap_or_default();
            return Err(self.failed(status, &said));
        }
        let used: Used = serde_json::from_reader(File::open(&report).at("open", &report)?)
            .map_err(io::Error::from)
            .at("read", &report)?;
        let sampled = samples.iter().map(|sample| sample.rss_bytes).max();
        Ok(Measured {
            peak_rss_bytes: used.rss_bytes.max(sampled.unwrap_or(0)),
            used,
            samples,
        })
    }

    fn command<'a>(
        &self,
        program: &std::ffi::OsStr,
        arguments: impl IntoIterator<Item = &'a OsString>,
    ) -> Command {
        let mut command = Command::new(program);
        // What is measured is what it says, whatever whoever measures has set for ringback.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("RINGBACK_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).envs(&self.environment);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    fn input(&self) -> Result<Stdio, Error> {
        Ok(match &self.stdin {
            Some(path) => Stdio::from(File::open(path).at("open", path)?),
            None => Stdio::null(),
        })
    }

    fn not_started(&self, source: io::Error) -> Error {
        Error::Start {
            program: self.program.to_string_lossy().into_owned(),
            source,
        }
    }

    fn failed(&self, status: std::process::ExitStatus, stderr: &str) -> Error {
        let lines: Vec<_> = stderr.lines().filter(|line| !line.is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(SAID_LINES)..];
        let status = match status.code() {
            Some(code) => format!("exit code {code}"),
            None => format!("signal {}", status.signal().unwrap_or(0)),
        };
        Error::Command {
            command: self.describe(),
            status,
            said: last.join(" | "),
        }
    }
}

/// Looks at the tree below `child` until it ends.
fn follow(child: &mut Child, begun: Instant) -> io::Result<Vec<Sample>> {
    let supervisor = i32::try_from(child.id()).map_err(io::Error::other)?;
    let mut samples = Vec::new();
    let mut next = begun;
    loop {
        let now = Instant::now();
        if now >= next {
            let tree = tree::usage(supervisor);
            samples.push(Sample {
                ms: u64::try_from((now - begun).as_millis()).unwrap_or(u64::MAX),
                cpu_seconds: tree.cpu_seconds,
                read_bytes: tree.read_bytes,
                written_bytes: tree.written_bytes,
                rss_bytes: tree.rss_bytes,
            });
            next = now + LOOK_INTERVAL;
        }
        if child.try_wait()?.is_some() {
            return Ok(samples);
        }
        thread::sleep(END_INTERVAL);
    }
}

/// The supervisor: runs a program to its end and writes down what it used.
///
/// Its exit code is the program's. Neither outlives the harness, for it would disturb who is measured next;
/// what the program itself has started may.
pub fn supervise(report: &Path, program: &[OsString]) -> ExitCode {
    match try_supervise(report, program) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cannot run {program:?}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_supervise(report: &Path, program: &[OsString]) -> io::Result<ExitCode> {
    let (name, arguments) = program
        .split_first()
        .ok_or_else(|| io::Error::other("no program is named"))?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let before = io_of_self()?;
    let begun = Instant::now();
    let mut command = Command::new(name);
    // SAFETY: between fork and exec it makes a system call, nothing else.
    unsafe {
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    let status = command.args(arguments).status()?;
    let seconds = begun.elapsed().as_secs_f64();
    let children = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    // A process's I/O counters take up those of the children it has waited for.
    let after = io_of_self()?;
    let used = Used {
        seconds,
        user_seconds: seconds_of(children.user_time()),
        system_seconds: seconds_of(children.system_time()),
        // In KiB on Linux.
        rss_bytes: u64::try_from(children.max_rss()).unwrap_or(0) << 10,
        read_bytes: after.0 - before.0,
        written_bytes: after.1 - before.1,
    };
    fs::write(report, serde_json::to_vec(&used)?)?;
    Ok(match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => {
            eprintln!("it was ended by signal {}", status.signal().unwrap_or(0));
            ExitCode::FAILURE
        }
    })
}

fn io_of_self() -> io::Result<(u64, u64)> {
    let io = Process::myself()
        .and_then(|process| process.io())
        .map_err(io::Error::other)?;
    Ok((io.read_bytes, io.write_bytes))
}

fn seconds_of(time: nix::sys::time::TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// CPU that a process and its descendants have used up to now.
pub fn cpu_seconds(pid: u32) -> f64 {
    i32::try_from(pid).map_or(0.0, |pid| tree::usage(pid).cpu_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_last_is_told_when_it_fails() {
        let error =
            Launch::shell("for i in 1 2 3 4 5 6 7 8; do echo line $i >&2; done; false | cat")
                .run()
                .expect_err("a pipe fails with any of its programs");
        let message = error.to_string();
        assert!(
            message.contains("exit code 1: line 3 | line 4"),
            "{message}"
        );
        assert!(matches!(
            Launch::new("/nowhere/at/all").run(),
            Err(Error::Start { .. })
        ));
    }

    #[test]
    fn environment_folder_and_input_reach_the_program() {
        let folder = tempfile::tempdir().expect("a folder");
        let input = folder.path().join("input");
        fs::write(&input, "text").expect("writes");
        let said = Launch::shell("echo $WORD; pwd; cat")
            .env("WORD", "word")
            .folder(folder.path())
            .stdin(&input)
            .run()
            .expect("runs");
        assert_eq!(said, format!("word\n{}\ntext", folder.path().display()));
    }
}
