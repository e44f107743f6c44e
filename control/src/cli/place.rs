//! What the source of a backup, or the target of a restore, is: a path, worked on by this process,
//! or a volume of the daemon's.
//!
//! The two cannot be confused: no volume handle begins with `/`, `./` or `../`, for neither an
//! empty name nor one of dots is a volume group's.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    str::FromStr,
};

use ringback_datapath::store::location::without_user_info;

use super::{exit::CliError, path};

/// Something that holds a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A device or a file.
    Path(PathBuf),
    /// `lv` or `vg/lv`.
    Volume(String),
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let is_path = ["/", "./", "../"]
            .iter()
            .any(|start| text.starts_with(start));
        Ok(if is_path {
            Self::Path(text.into())
        } else {
            Self::Volume(text.to_owned())
        })
    }
}

/// Refuses a place for backups where a device, a file or a volume belongs: the arguments are in the
/// other order, perhaps.
pub(crate) fn check_order(place: &str, command: &str, order: &str) -> Result<(), CliError> {
    if path::is_place(place) {
        let place = without_user_info(place);
        return Err(CliError::usage(format!(
            "{place:?} is a place for backups; `ringback {command}` takes {order}"
        )));
    }
    Ok(())
}

/// Refuses options that mean nothing here; `given` names those that were passed.
pub(crate) fn refuse_options(
    given: &[(&str, bool)],
    place: &str,
    is_for: &str,
) -> Result<(), CliError> {
    match given.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((option, _)) => Err(CliError::usage(format!(
            "{option} is for {is_for}, which {place:?} is not: what begins with /, ./ or ../ is \
             the path of a device or a file, anything else a volume of the daemon"
        ))),
    }
}

/// Refuses a folder as the place of a volume's backup: the daemon reaches S3 alone.
pub(crate) fn refuse_folder(backup: &str, volume: &str) -> Result<(), CliError> {
    if !path::is_folder(backup) {
        return Ok(());
    }
    let backup = without_user_info(backup);
    Err(CliError::usage(format!(
        "{volume:?} is a volume of the daemon, whose backups lie in S3 (s3://...) and not in {backup}; \
         written ./{volume} it is a file of this host, which takes no daemon"
    )))
}

/// Adds to an error of a daemon that does not answer that a file takes none.
pub(crate) fn hint_at_file(mut error: CliError, volume: &str) -> CliError {
    error.message.push_str(&format!(
        ". Written ./{volume} it is a file, which takes no daemon"
    ));
    error
}

/// Adds to an error about a volume what its caller may have meant.
pub(crate) fn hint_at_path(mut error: CliError, volume: &str) -> CliError {
    if Path::new(volume).exists() {
        error.message.push_str(&format!(
            ". There is a file {volume:?} here: written ./{volume} it is taken without a daemon"
        ));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::VolumeHandle;

    #[test]
    fn what_begins_as_a_path_is_one_and_no_volume_handle_does() {
        for text in [
            "/dev/vg/lv",
            "./disk.img",
            "../x/disk.img",
            "/",
            "./",
            "../",
        ] {
            assert_eq!(text.parse(), Ok(Place::Path(text.into())));
            assert!(VolumeHandle::parse(text).is_err(), "{text}");
        }
        for text in ["data", "vg/data", ".hidden", "a/b/c", "~/disk.img", ""] {
            assert_eq!(text.parse(), Ok(Place::Volume(text.to_owned())));
        }
    }
}
