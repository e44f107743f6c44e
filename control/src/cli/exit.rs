//! How the program ends: its exit codes, and errors as people and programs read them.

use std::process::ExitCode;

use serde_json::{Value, json};
use tonic::Code;

use super::output;
use crate::failure::Failure;

/// What the exit code says. `--help`, the man page and docs/operations/command-line.md list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Anything that has no code of its own.
    Failed = 1,
    /// The command line is wrong; nothing was tried.
    Usage = 2,
    /// There is no such backup, repository, bucket, volume or file.
    NotFound = 3,
    /// Credentials or permissions do not allow it.
    Denied = 4,
    /// The store or the daemon does not answer.
    Unreachable = 5,
    /// What is stored is damaged.
    Damaged = 6,
    /// Refused, for it would destroy something or be torn, or is not possible with what is there.
    Refused = 7,
    /// Damage has cost bytes of volumes, and no other copy heals it.
    Lost = 8,
    /// `health` alone: the daemon answers that it does not serve.
    NotServing = 9,
    /// A signal ended it.
    Interrupted = 130,
}

/// The table of exit codes, for `--help` and the man pages.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: this host's disks or kernel, or anything without a code of its own
  2    wrong usage; nothing was tried
  3    not found: no such backup, repository, bucket, volume or file
  4    denied: credentials or permissions do not allow it
  5    unreachable: the store or the daemon does not answer
  6    damaged: what is stored is not what it should be
  7    refused: data would be lost, a name is taken, something is in use, or does not fit
  8    lost: repair found damage that no other copy heals
  9    not serving: the daemon answers, but that it does not serve (health alone)
  130  interrupted by SIGINT, SIGTERM or SIGHUP";

impl Exit {
    /// The code's name in `--json` errors.
    fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Unreachable => "unreachable",
            Self::Damaged => "damaged",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::NotServing => "not_serving",
            Self::Interrupted => "interrupted",
        }
    }

    fn of(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied,
            Code::Unavailable | Code::DeadlineExceeded => Self::Unreachable,
            Code::DataLoss => Self::Damaged,
            Code::AlreadyExists | Code::FailedPrecondition | Code::OutOfRange | Code::Aborted => {
                Self::Refused
            }
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A sentence for the person at the terminal, and how the program ends.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CliError {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl CliError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// To standard error: a sentence, or one JSON object on one line.
    pub(crate) fn print(&self, json: bool) {
        if json {
            output::note(&self.to_json().to_string());
        } else {
            output::note(&format!("ringback: {self}"));
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "error": self.exit.name(),
            "exit_code": self.exit as u8,
            "message": self.message,
        })
    }
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        let message = format!("{} ({:?})", status.message(), status.code());
        Self::new(Exit::of(status.code()), message)
    }
}

impl From<ringback_datapath::error::Error> for CliError {
    fn from(error: ringback_datapath::error::Error) -> Self {
        Failure::from(error).into()
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        Self::new(Exit::of(failure.code), failure.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_exit_codes_has_each_of_them_by_its_name() {
        for exit in [
            Exit::Failed,
            Exit::NotFound,
            Exit::Denied,
            Exit::Unreachable,
            Exit::Damaged,
            Exit::Refused,
            Exit::Lost,
            Exit::NotServing,
            Exit::Interrupted,
        ] {
            let name = exit.name().replace('_', " ");
            let row = format!("  {:<4} {name}", exit as u8);
            assert!(EXIT_CODES.contains(&row), "{row}");
        }
        assert!(EXIT_CODES.contains("  2    wrong usage"));
    }
}
