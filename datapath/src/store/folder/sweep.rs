//! Drafts that nobody goes on with: those of runs that were killed.
//!
//! Two rules, for no host can ask another who is alive. An upload is taken away by its name: whoever
//! begins a session has its turn, and nobody else writes below it. What a single call writes belongs
//! to no session perhaps; it is taken away when its writer's lock is gone, and should the lock be
//! one that this host does not see, the writer writes it again.

use nix::errno::Errno;

use super::{
    super::StoreError,
    draft::{Purpose, flat},
    listing::{entries, joined},
    root::{Root, UPLOADS},
};

/// Removes the drafts of objects below `prefix`, and those of calls that ended without their end
/// whatever they were for; how many.
pub(super) fn sweep(root: &Root, prefix: &str) -> Result<usize, StoreError> {
    let mut removed = 0;
    let below = flat(prefix);
    for entry in entries(root, UPLOADS)? {
        let name = joined(UPLOADS, &entry.name);
        let is_left = entry.name.starts_with(&below)
            || (entry.name.ends_with(Purpose::Put.ending()) && is_nobodys(root, &name));
        if entry.is_folder || !is_left {
            continue;
        }
        match root.remove(&name) {
            Ok(()) => removed += 1,
            // Its owner has ended it in the meantime.
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(root.failed("remove", &name, errno)),
        }
    }
    Ok(removed)
}

/// Whether the writer of a draft is gone: its lock went with it.
fn is_nobodys(root: &Root, draft: &str) -> bool {
    root.open_to_lock(draft)
        .is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::folder::draft::{Draft, Published, tests::folder};

    #[test]
    fn a_sweep_takes_what_nobody_writes_any_more_and_what_is_below_its_prefix() {
        let (_folder, root) = folder();
        let live = Draft::begin(&root, "refs/1", Purpose::Put).expect("begun");
        let upload = Draft::begin(&root, "data/2/1", Purpose::Upload).expect("begun");
        for (object, purpose) in [
            ("data/1/1", Purpose::Upload),
            ("data/1/2", Purpose::Put),
            ("log/1", Purpose::Put),
        ] {
            drop(Draft::begin(&root, object, purpose).expect("begun"));
        }
        assert_eq!(sweep(&root, "data/1/").expect("swept"), 3);
        assert_eq!(sweep(&root, "data/1/").expect("swept"), 0);
        assert_eq!(live.publish().expect("asked"), Published::Done);
        assert_eq!(upload.publish().expect("asked"), Published::Done);
    }
}
