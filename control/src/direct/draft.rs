//! Files that are being filled, `.NAME.XXXXXX.ringback` beside the name that they will have.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, TryLockError},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::libc;
use tempfile::NamedTempFile;

const ENDING: &str = ".ringback";

/// Makes the draft of a file in this folder, locked as long as somebody fills it. What killed restores
/// left of such drafts goes: nobody has these locked.
pub(super) fn begin(folder: &Path, name: &OsStr) -> io::Result<NamedTempFile> {
    let mut prefix = OsStr::new(".").to_owned();
    prefix.push(name);
    prefix.push(".");
    for left in fs::read_dir(folder)?.flatten() {
        if is_draft(&left.file_name(), &prefix) {
            // It is there for the next one, too.
            let _ = remove_unlocked(&left.path());
        }
    }
    loop {
        // Its owner alone may read it, as the device that it is an image of.
        let file = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(ENDING)
            .tempfile_in(folder)?;
        // Another restore may take it for one that was left, before it is locked. Where there are no locks, drafts
        // are not removed either.
        let is_taken = matches!(file.as_file().try_lock(), Err(TryLockError::WouldBlock));
        if !is_taken && is_at(file.as_file(), file.path()) {
            return Ok(file);
        }
    }
}

/// Lets a draft stay as `NAME.XXXXXX`, where that is.
pub(super) fn keep(draft: NamedTempFile) -> io::Result<PathBuf> {
    let hidden = draft.path().with_extension("");
    let name = hidden.file_name().unwrap_or_default().as_bytes();
    let name = name.strip_prefix(b".").unwrap_or(name);
    let path = hidden.with_file_name(OsStr::from_bytes(name));
    draft.persist_noclobber(&path)?;
    Ok(path)
}

fn is_draft(file_name: &OsStr, prefix: &OsStr) -> bool {
    let file_name = file_name.as_encoded_bytes();
    let random = file_name
        .strip_prefix(prefix.as_encoded_bytes())
        .and_then(|rest| rest.strip_suffix(ENDING.as_bytes()));
    random.is_some_and(|it| it.len() == 6 && it.iter().all(u8::is_ascii_alphanumeric))
}

fn remove_unlocked(draft: &Path) -> io::Result<()> {
    let file = File::options()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(draft)?;
    file.try_lock()?;
    if file.metadata()?.is_file() && is_at(&file, draft) {
        fs::remove_file(draft)?;
        tracing::info!(path = %draft.display(), "removed what a restore that was killed left");
    }
    Ok(())
}

fn is_at(file: &File, path: &Path) -> bool {
    let facts = |it: Metadata| (it.dev(), it.ino());
    let here = file.metadata().map(facts);
    fs::symlink_metadata(path).is_ok_and(|it| here.is_ok_and(|here| here == facts(it)))
}
