//! The `lvm` command, and two tools beside it: how they are called, and what becomes of failures.
//!
//! No shell is between us and it, names stand behind `--`, and it speaks English. A command that
//! was begun runs to its end, whatever becomes of the call that wanted it, or of us: it writes to
//! files in memory, for a pipe that nobody reads any more would end it.

use std::{
    borrow::Cow,
    env,
    ffi::OsString,
    fmt::Write,
    fs::File,
    io::{self, Read, Seek},
    path::Path,
    process::{ExitStatus, Stdio},
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::process::Command;

use crate::volume::Error;

/// Where administrators' programs are, for processes whose PATH leaves them out.
const SYSTEM_FOLDERS: &str = "/usr/sbin:/sbin";

/// Longest reason that an error repeats.
const REASON_CHARS_MAX: usize = 1000;

/// How to call `lvm`.
#[derive(Debug, Clone)]
pub(super) struct Lvm {
    program: String,
    before: Vec<String>,
}

/// One command of LVM with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    command: &'static str,
    options: Vec<String>,
    names: Vec<String>,
}

impl Call {
    /// `lvm COMMAND`.
    pub(super) fn new(command: &'static str) -> Call {
        Call {
            command,
            options: Vec::new(),
            names: Vec::new(),
        }
    }

    /// Adds options, those with values as two arguments.
    pub(super) fn options<'a>(mut self, options: impl IntoIterator<Item = &'a str>) -> Call {
        self.options.extend(options.into_iter().map(str::to_owned));
        self
    }

    /// Adds a name, which stands behind `--` and is never taken for an option.
    pub(super) fn name(mut self, name: impl Into<String>) -> Call {
        self.names.push(name.into());
        self
    }

    fn arguments(&self) -> impl Iterator<Item = &str> {
        let options = self.options.iter().map(String::as_str);
        let names = self.names.iter().map(String::as_str);
        [self.command]
            .into_iter()
            .chain(options)
            .chain(["--"])
            .chain(names)
    }
}

/// A command that ran and failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    /// With the program before it.
    pub(super) command: String,
    pub(super) status: String,
    /// What it wrote to standard error.
    pub(super) stderr: String,
}

/// Why there is no output.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It ran and failed.
    Failed(Failed),
    /// It did not run.
    Other(Error),
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Error {
        match trouble {
            Trouble::Failed(failed) => failed.into(),
            Trouble::Other(error) => error,
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        Error::Command {
            command: failed.command,
            reason: reason(&failed.stderr),
            status: failed.status,
        }
    }
}

impl Failed {
    pub(super) fn of(command: &str, status: ExitStatus, stderr: String) -> Failed {
        Failed {
            command: command.to_owned(),
            status: self::status(status),
            stderr,
        }
    }
}

impl Lvm {
    /// `prefix` is the whole of what stands before LVM's arguments; empty: `lvm`.
    pub(super) fn new(prefix: &[String]) -> Lvm {
        let mut words = prefix.iter().cloned();
        Lvm {
            program: words.next().unwrap_or_else(|| "lvm".to_owned()),
            before: words.collect(),
        }
    }

    /// Runs a command to its end; what it wrote to standard output.
    ///
    /// Whoever must not be left half-way calls this in a task of its own. The command has `stdin`
    /// for as long as it runs, also when we are gone; it does not read it.
    pub(super) async fn run(
        &self,
        call: &Call,
        stdin: impl Into<Stdio>,
    ) -> Result<String, Trouble> {
        tracing::debug!(?call, "lvm");
        let mut command = Self::command(&self.program, &self.before);
        command.args(call.arguments()).stdin(stdin);
        output(command, &format!("lvm {}", call.command)).await
    }

    /// Runs another administrators' tool where `lvm` runs; what it wrote to standard output.
    pub(super) async fn tool(&self, tool: &str, arguments: &[&str]) -> Result<String, Trouble> {
        tracing::debug!(tool, ?arguments, "lvm");
        let mut command = self.tool_command(tool);
        command.args(arguments).stdin(Stdio::null());
        let verb = arguments.first().unwrap_or(&"");
        output(command, &format!("{tool} {verb}")).await
    }

    /// The same to be run by the caller. A prefix that ends in `lvm` leads to where the tools are;
    /// one that does not is a program in LVM's place.
    pub(super) fn tool_command(&self, tool: &str) -> Command {
        let (last, before) = match self.before.split_last() {
            Some((last, before)) => (last, Some(before)),
            None => (&self.program, None),
        };
        let is_lvm = Path::new(last).file_name() == Some("lvm".as_ref());
        match before.filter(|_| is_lvm) {
            Some(before) => {
                let mut command = Self::command(&self.program, before);
                command.arg(tool);
                command
            }
            None => Self::command(tool, &[]),
        }
    }

    fn command(program: &str, before: &[String]) -> Command {
        let mut command = Command::new(program);
        command
            .args(before)
            .env("PATH", path())
            .env("LC_ALL", "C")
            .env_remove("LANGUAGE")
            // What we have open is closed on exec; what we inherited is no business of LVM's.
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            // A Ctrl-C is for us, and must not end a command half-way.
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(false);
        command
    }
}

/// Runs a command to its end.
async fn output(mut command: Command, name: &str) -> Result<String, Trouble> {
    let ended = async {
        let (stdout, stderr) = (Written::new()?, Written::new()?);
        command.stdout(stdout.writer()?).stderr(stderr.writer()?);
        let status = command.status().await?;
        Ok((status, stdout.text()?, stderr.text()?))
    };
    let (status, stdout, stderr) = ended.await.map_err(|error| {
        let program = Path::new(command.as_std().get_program());
        Trouble::Other(Error::io("run", program)(error))
    })?;
    if !status.success() {
        return Err(Trouble::Failed(Failed::of(name, status, stderr)));
    }
    if !stderr.is_empty() {
        tracing::debug!(command = name, %stderr, "lvm");
    }
    Ok(stdout)
}

/// What a command writes, in memory.
struct Written(File);

impl Written {
    fn new() -> io::Result<Written> {
        let file = memfd_create("lvm", MFdFlags::MFD_CLOEXEC)?;
        Ok(Written(file.into()))
    }

    fn writer(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    fn text(mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.0.rewind()?;
        self.0.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    path.push(":");
    path.push(SYSTEM_FOLDERS);
    path
}

fn status(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// What a command said, without warnings that were not what it failed of, on one line.
fn reason(stderr: &str) -> String {
    let lines = || {
        stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    let is_warning = |line: &&str| line.starts_with("WARNING:");
    let mut told: Vec<&str> = lines().filter(|line| !is_warning(line)).collect();
    if told.is_empty() {
        told = lines().collect();
    }
    if told.is_empty() {
        return "it did not say why".to_owned();
    }
    shortened(&told.join("; ")).into_owned()
}

fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => {
            let mut cut = text[..end].to_owned();
            let _ = write!(cut, "...");
            cut.into()
        }
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_stand_behind_all_options() {
        let call = Call::new("lvrename")
            .name("vg")
            .options(["--yes"])
            .name("-f");
        let arguments: Vec<&str> = call.arguments().collect();
        assert_eq!(arguments, ["lvrename", "--yes", "--", "vg", "-f"]);
    }

    #[test]
    fn a_reason_is_what_was_said_without_warnings_unless_there_is_nothing_else() {
        let full = "  WARNING: Sum of all thin volume sizes (1.00 GiB) exceeds the size.\n  \
                    Volume group \"vg\" not found\n  Cannot process volume group vg\n";
        let short = "Volume group \"vg\" not found; Cannot process volume group vg";
        assert_eq!(reason(full), short);
        assert_eq!(reason("  WARNING: odd\n"), "WARNING: odd");
        assert_eq!(reason("\n"), "it did not say why");
        assert_eq!(reason(&"ä".repeat(2000)).chars().count(), 1003);
    }

    #[tokio::test]
    async fn a_command_is_run_without_a_shell_and_in_english() {
        let lvm = Lvm::new(&[
            "/bin/sh".to_owned(),
            "-c".to_owned(),
            "echo \"$LC_ALL,$LANGUAGE,$#\"; for word; do echo \"$word\"; done".to_owned(),
            "sh".to_owned(),
        ]);
        let call = Call::new("lvs").options(["-o", "lv_name"]).name("$(id) a");
        let output = lvm.run(&call, Stdio::null()).await.expect("runs");
        assert_eq!(output, "C,,5\nlvs\n-o\nlv_name\n--\n$(id) a\n");
    }

    #[tokio::test]
    async fn a_command_that_nobody_listens_to_any_more_ends_like_any_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let (begun, ended) = (folder.path().join("begun"), folder.path().join("ended"));
        let script = "touch $0/begun; while [ -e $0/begun ]; do sleep 0.01; done
                      echo said; echo said >&2; touch $0/ended";
        let words = [
            "/bin/sh",
            "-c",
            script,
            folder.path().to_str().expect("text"),
        ];
        let lvm = Lvm::new(&words.map(str::to_owned));
        let is_there = async |path: &Path| {
            for _ in 0..1000 {
                if path.exists() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{} never comes", path.display());
        };
        let call = Call::new("lvs");
        tokio::select! {
            _ = lvm.run(&call, Stdio::null()) => panic!("it waits"),
            () = is_there(&begun) => {}
        }
        std::fs::remove_file(begun).expect("lets go");
        is_there(&ended).await;
    }

    #[test]
    fn tools_are_run_where_lvm_is() {
        let words = |prefix: &[&str]| {
            let prefix: Vec<String> = prefix.iter().map(ToString::to_string).collect();
            let command = Lvm::new(&prefix).tool_command("dmsetup");
            let program = command.as_std().get_program().to_owned();
            let arguments = command.as_std().get_args().map(ToOwned::to_owned);
            [program].into_iter().chain(arguments).collect::<Vec<_>>()
        };
        assert_eq!(words(&[]), ["dmsetup"]);
        assert_eq!(words(&["/sbin/lvm"]), ["dmsetup"]);
        let nsenter = ["/usr/bin/nsenter", "-m", "-t", "1", "/sbin/lvm"];
        assert_eq!(
            words(&nsenter),
            ["/usr/bin/nsenter", "-m", "-t", "1", "dmsetup"]
        );
        let scope = ["nsenter", "-t", "1", "systemd-run", "--scope", "/sbin/lvm"];
        assert_eq!(
            words(&scope),
            ["nsenter", "-t", "1", "systemd-run", "--scope", "dmsetup"]
        );
        assert_eq!(words(&["/usr/local/bin/slow-lvm"]), ["dmsetup"]);
    }

    #[tokio::test]
    async fn a_failure_carries_exit_code_and_standard_error() {
        let prefix = ["/bin/sh", "-c", "echo '  it broke' >&2; exit 5"].map(str::to_owned);
        let error = Lvm::new(&prefix)
            .run(&Call::new("lvs"), Stdio::null())
            .await
            .expect_err("fails");
        assert_eq!(
            Error::from(error).to_string(),
            "lvm lvs failed (exit code 5): it broke"
        );
        let absent = Lvm::new(&["/nowhere/lvm".to_owned()]);
        let error = absent
            .run(&Call::new("lvs"), Stdio::null())
            .await
            .expect_err("absent");
        assert_eq!(
            Error::from(error).to_string(),
            "cannot run /nowhere/lvm: No such file or directory (os error 2)"
        );
    }
}
