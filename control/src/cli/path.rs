//! Paths in S3 as the command line takes them.

use ringback_datapath::store::location::{BackupPath, InvalidLocation, RepositoryPath};

use super::exit::CliError;
use crate::names::Invalid;

const SCHEME: &str = "s3://";

/// Reads `s3://bucket/repository/backup-name`.
pub(crate) fn backup(text: &str) -> Result<BackupPath, CliError> {
    check_scheme(text, "s3://bucket/repository/backup-name")?;
    if text.ends_with('/') {
        return Err(CliError::usage(format!(
            "{text:?} ends with a slash and so names no backup; it should be \
             s3://bucket/repository/backup-name"
        )));
    }
    BackupPath::parse(text).map_err(sentence)
}

/// Reads `s3://bucket/repository`; a slash at its end means nothing.
pub(crate) fn repository(text: &str) -> Result<RepositoryPath, CliError> {
    check_scheme(text, "s3://bucket/repository")?;
    RepositoryPath::parse(text.strip_suffix('/').unwrap_or(text)).map_err(sentence)
}

/// Without a scheme, a mistaken order of arguments could name a place that nobody meant.
fn check_scheme(text: &str, wanted: &str) -> Result<(), CliError> {
    if text.starts_with(SCHEME) {
        return Ok(());
    }
    let shown = Invalid::new(
        "path",
        text,
        format!("is no place in S3; it should be {wanted}"),
    );
    Err(CliError::usage(shown.to_string()))
}

fn sentence(invalid: InvalidLocation) -> CliError {
    CliError::usage(Invalid::from(invalid).to_string())
}
