//! What can go wrong with a measurement.

use std::{
    io,
    path::{Path, PathBuf},
};

use ringback_datapath::device::DeviceError;

/// Why something was not measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This host did not do something to a file.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A volume cannot be opened.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A program did not start.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{command} ended with {status}: {said}")]
    Command {
        /// The program and its arguments.
        command: String,
        /// Exit code or signal.
        status: String,
        /// The last lines of its standard error.
        said: String,
    },
    /// The store did not do what it was asked for.
    #[error("the store: {0}")]
    Store(String),
    /// What was restored is not what was backed up.
    #[error("{} is not what was backed up: its BLAKE3 is {found}, not {wanted}", path.display())]
    Differs {
        /// The restored volume.
        path: PathBuf,
        /// Its hash.
        found: String,
        /// The hash of what was backed up.
        wanted: String,
    },
    /// Something about this host or what was asked for; a sentence.
    #[error("{0}")]
    Other(String),
}

/// Names the file in an error of the system.
pub(crate) trait Located<T> {
    /// The same, with what was tried and on which file.
    fn at(self, what: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Located<T> for Result<T, E> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::File {
            what,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}
