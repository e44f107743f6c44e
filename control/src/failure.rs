//! Failures as callers see them: one gRPC code and one sentence.
//!
//! This is the one place where the errors of the volume groups and of the data path get their
//! codes. Whoever handles a failure logs it; whoever passes it on does not.

use ringback_datapath::{
    error::{Error as DatapathError, ErrorKind},
    keys::KeyError,
};
use tonic::{Code, Status};

use crate::{names::Invalid, volume};

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The contract's code.
    pub code: Code,
    /// A sentence for people.
    pub message: String,
}

impl Failure {
    /// A failure with this code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code, failure.message)
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self::new(Code::InvalidArgument, invalid.to_string())
    }
}

impl From<volume::Error> for Failure {
    fn from(error: volume::Error) -> Self {
        use volume::Error;
        let code = match &error {
            Error::NotFound(_) => Code::NotFound,
            Error::AlreadyExists(_) => Code::AlreadyExists,
            Error::TooSmall { .. } => Code::OutOfRange,
            Error::Replaced(_) => Code::Aborted,
            Error::NoSpace { .. } | Error::Full(_) => Code::ResourceExhausted,
            Error::Unsupported(_) => Code::Unimplemented,
            Error::InUse(_) | Error::BeingBackedUp(_) => Code::FailedPrecondition,
            Error::Owned { .. }
            | Error::Unavailable { .. }
            | Error::Damaged { .. }
            | Error::Command { .. }
            | Error::Report { .. }
            | Error::Io { .. } => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<DatapathError> for Failure {
    fn from(error: DatapathError) -> Self {
        let code = match error.kind() {
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::NameTaken => Code::AlreadyExists,
            ErrorKind::Denied => Code::PermissionDenied,
            ErrorKind::Unavailable => Code::Unavailable,
            ErrorKind::Damaged => Code::DataLoss,
            ErrorKind::TooSmall => Code::OutOfRange,
            ErrorKind::Full => Code::ResourceExhausted,
            ErrorKind::Unsupported => Code::FailedPrecondition,
            ErrorKind::Local => Code::Internal,
            ErrorKind::Stopped => {
                let why = "cancelled: the volume was removed, or the daemon is stopping";
                return Self::new(Code::Aborted, why);
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let code = match error {
            KeyError::Repository(error) => return error.into(),
            KeyError::NoSlot { .. } => Code::NotFound,
            KeyError::Taken { .. } => Code::AlreadyExists,
            KeyError::NotEncrypted { .. } | KeyError::Last { .. } | KeyError::InUse { .. } => {
                Code::FailedPrecondition
            }
            KeyError::Label { .. } => Code::InvalidArgument,
        };
        Self::new(code, error.to_string())
    }
}
