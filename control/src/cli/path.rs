//! Where backups lie, as the command line takes it: places in S3, and folders of this host.

use ringback_datapath::store::{
    location::{InvalidLocation, without_user_info},
    url::{BackupUrl, RepositoryUrl},
};

use super::exit::CliError;
use crate::names::Invalid;

const FOLDER_SCHEME: &str = "file:";
const SCHEMES: [&str; 2] = ["s3://", FOLDER_SCHEME];
const BACKUP: &str = "s3://bucket/repository/backup-name or file:///repository/backup-name";
const REPOSITORY: &str = "s3://bucket/repository or file:///repository";

/// Whether this is meant as a place for backups.
pub(crate) fn is_place(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

/// Whether this is meant as a place in a folder.
pub(crate) fn is_folder(text: &str) -> bool {
    text.starts_with(FOLDER_SCHEME)
}

/// Reads `s3://bucket/repository/backup-name`, or `file:///repository/backup-name`.
pub(crate) fn backup(text: &str) -> Result<BackupUrl, CliError> {
    check_scheme(text, BACKUP)?;
    if text.ends_with('/') {
        let text = without_user_info(text);
        return Err(CliError::usage(format!(
            "{text:?} ends with a slash and so names no backup; it should be {BACKUP}"
        )));
    }
    BackupUrl::parse(text).map_err(sentence)
}

/// Reads `s3://bucket/repository`, or `file:///repository`; a slash at its end means nothing.
pub(crate) fn repository(text: &str) -> Result<RepositoryUrl, CliError> {
    check_scheme(text, REPOSITORY)?;
    let bare = match text.strip_suffix('/') {
        Some(bare) if !bare.ends_with('/') => bare,
        _ => text,
    };
    RepositoryUrl::parse(bare).map_err(sentence)
}

/// Without a scheme, a mistaken order of arguments could name a place that nobody meant.
fn check_scheme(text: &str, wanted: &str) -> Result<(), CliError> {
    if is_place(text) {
        return Ok(());
    }
    let shown = Invalid::new(
        "path",
        without_user_info(text),
        format!("is no place for backups; it should be {wanted}"),
    );
    Err(CliError::usage(shown.to_string()))
}

fn sentence(invalid: InvalidLocation) -> CliError {
    CliError::usage(Invalid::from(invalid).to_string())
}
