//! A lock file that says which process a group belongs to.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::Error;

const POLL: Duration = Duration::from_millis(10);

/// Locks the file at `path`, made if need be, for as long as it is open anywhere; waits for the
/// last owner's so long. `or` says what it may be but a daemon, as the error goes on.
pub(super) fn take(
    path: &Path,
    group: &str,
    or: &'static str,
    patience: Duration,
) -> Result<File, Error> {
    let file = OpenOptions::new()
        .mode(0o600)
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(Error::io("open", path))?;
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(POLL),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Owned {
                    group: group.to_owned(),
                    or,
                });
            }
        }
    }
}
