//! A file on its way to become an object.
//!
//! Ordering rule: its bytes are synced before it gets its name, the folders above are synced before
//! that, and the name itself is before anybody is told that the object is there.
//!
//! Names of drafts begin with that of their object, so that whoever begins a session again finds what
//! it left, on any host and without asking who is alive: sessions take turns.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use nix::{
    errno::Errno,
    sys::stat::{FileStat, fstat},
};

use super::{
    super::{Payload, PutNew, StoreError},
    error::{FolderError, FolderTrouble},
    root::{Root, UPLOADS},
};
use crate::format::name::random;

/// What a draft is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// One call, which can write it again.
    Put,
    /// Parts that come in over minutes.
    Upload,
}

impl Purpose {
    pub(super) fn ending(self) -> &'static str {
        match self {
            Self::Put => ".put",
            Self::Upload => ".upload",
        }
    }
}

/// See the module.
pub(super) struct Draft {
    root: Arc<Root>,
    object: String,
    name: String,
    file: File,
}

/// What became of a draft's way to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    /// It is the object now, for good.
    Done,
    /// There is another object of that name; the draft is still there.
    Taken,
    /// The draft is gone: somebody took it for one that was left behind.
    Swept,
}

impl Draft {
    pub(super) fn begin(
        root: &Arc<Root>,
        object: &str,
        purpose: Purpose,
    ) -> Result<Self, StoreError> {
        check_name(root, object)?;
        root.make_folder(UPLOADS)?;
        let tag = hex::encode(random::<8>());
        let name = format!("{UPLOADS}/{}.{tag}{}", flat(object), purpose.ending());
        let file = root.create(&name)?;
        if purpose == Purpose::Put {
            // Tells others that it is in use. Where their locks are not ours, as on some mounts of
            // NFS, they may take it away; then it is written again.
            let _ = file.try_lock();
        }
        Ok(Self {
            root: Arc::clone(root),
            object: object.to_owned(),
            name,
            file,
        })
    }

    pub(super) fn write(&self, payload: &Payload, mut offset: u64) -> Result<(), StoreError> {
        for piece in payload.pieces() {
            self.file
                .write_all_at(piece, offset)
                .map_err(|error| self.root.failed("write", &self.object, error))?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes it the object of its name, in place of another.
    pub(super) fn publish(&self) -> Result<Published, StoreError> {
        self.make_ready()?;
        let renamed = self.root.rename(&self.name, &self.object);
        self.conclude(renamed)
    }

    /// Makes it the object of its name, unless there is one. Of all who try at once, on whatever
    /// host, one succeeds.
    pub(super) fn publish_new(&self) -> Result<Published, StoreError> {
        self.make_ready()?;
        let linked = match self.root.link(&self.name, &self.object) {
            Err(errno) if has_no_links(errno) => self.rename_to_new()?,
            linked => linked,
        };
        let published = self.conclude(linked)?;
        if published == Published::Done {
            // Renamed, or a second name of the object: either way it is not wanted any more.
            self.remove();
        }
        Ok(published)
    }

    /// For filesystems without links, such as FAT.
    fn rename_to_new(&self) -> Result<Result<(), Errno>, StoreError> {
        match self.root.rename_to_new(&self.name, &self.object) {
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                let path = self.root.path().to_owned();
                let reason = "its filesystem can neither link a file nor rename one without \
                              replacing another, so backups made at the same time could be lost; \
                              use another filesystem";
                let (what, trouble) = ("keep a repository in", FolderTrouble::Unsuitable);
                Err(FolderError::new(what, path, trouble, reason).into())
            }
            renamed => Ok(renamed),
        }
    }

    /// Takes the draft away. What cannot be removed is swept by the next run.
    pub(super) fn remove(&self) {
        let _ = self.root.remove(&self.name);
    }

    fn make_ready(&self) -> Result<(), StoreError> {
        self.file
            .sync_all()
            .map_err(|error| self.root.failed("sync", &self.object, error))?;
        self.root.prepare_for(&self.object)
    }

    /// The answer of a server may be lost: the call that is made again finds that it was done, and
    /// says that the name is taken or the draft is gone. What lies at the name tells.
    fn conclude(&self, named: Result<(), Errno>) -> Result<Published, StoreError> {
        match named {
            Ok(()) => {}
            Err(_) if self.is_the_object() => {}
            Err(Errno::EEXIST) => return Ok(Published::Taken),
            Err(Errno::ENOENT) => return Ok(Published::Swept),
            Err(errno) => return Err(self.root.failed("give its name to", &self.object, errno)),
        }
        self.root.sync_folder_of(&self.object)?;
        Ok(Published::Done)
    }

    fn is_the_object(&self) -> bool {
        let identity = |about: FileStat| (about.st_dev, about.st_ino);
        let own = fstat(&self.file).map(identity);
        own.is_ok() && own == self.root.about(&self.object).map(identity)
    }
}

/// Stores a whole object; a draft that was swept on its way is written again.
pub(super) fn put(
    root: &Arc<Root>,
    object: &str,
    payload: &Payload,
    publish: impl Fn(&Draft) -> Result<Published, StoreError>,
) -> Result<PutNew, StoreError> {
    /// Each of them takes somebody else who begins a run at this very moment.
    const TRIES: u32 = 8;
    for _ in 0..TRIES {
        let draft = Draft::begin(root, object, Purpose::Put)?;
        let published = draft.write(payload, 0).and_then(|()| publish(&draft));
        if published.as_ref().ok() != Some(&Published::Done) {
            draft.remove();
        }
        match published? {
            Published::Done => return Ok(PutNew::Created),
            Published::Taken => return Ok(PutNew::Exists),
            Published::Swept => root.forget_folders(),
        }
    }
    Err(StoreError::Refused {
        object: root.shown(object),
        endpoint: root.path().display().to_string(),
        reason: format!("its temporary file was removed {TRIES} times by somebody else"),
    })
}

/// An object's name as part of a file's.
pub(super) fn flat(object: &str) -> String {
    object.replace('/', "+")
}

/// What FAT, exFAT and some network filesystems say of a link.
fn has_no_links(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK
    )
}

/// Objects lie in the folder and nowhere else, and not among the drafts.
fn check_name(root: &Root, object: &str) -> Result<(), StoreError> {
    let is_plain = |component: &str| !matches!(component, "" | "." | "..");
    if object.split('/').all(is_plain) && !object.starts_with(UPLOADS) {
        return Ok(());
    }
    Err(StoreError::Refused {
        object: object.to_owned(),
        endpoint: root.path().display().to_string(),
        reason: "it is no object's name".into(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::{cell::Cell, fs, thread};

    use bytes::Bytes;

    use super::*;
    use crate::store::{folder::listing::entries, url::RepositoryUrl};

    pub(in crate::store::folder) fn folder() -> (tempfile::TempDir, Arc<Root>) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = opened(folder.path());
        (folder, root)
    }

    fn opened(folder: &std::path::Path) -> Arc<Root> {
        let url = RepositoryUrl::parse(&format!("file://{}", folder.display())).expect("a path");
        let RepositoryUrl::Folder(path) = url else {
            unreachable!("a file URL");
        };
        Arc::new(Root::open(&path).expect("opens"))
    }

    fn draft(root: &Arc<Root>) -> Draft {
        let draft = Draft::begin(root, "log/1", Purpose::Put).expect("begun");
        root.prepare_for("log/1").expect("prepared");
        draft
    }

    /// A server whose answer was lost is asked again, and says that it cannot be done any more.
    #[test]
    fn what_was_done_and_not_answered_is_seen_to_be_done() {
        let (_folder, root) = folder();
        let linked = draft(&root);
        root.link(&linked.name, "log/1").expect("links");
        assert_eq!(linked.publish_new().expect("asked"), Published::Done);
        assert!(entries(&root, UPLOADS).expect("listed").is_empty());

        let renamed = draft(&root);
        root.rename(&renamed.name, "log/1").expect("renames");
        assert_eq!(renamed.publish().expect("asked"), Published::Done);

        let other = draft(&root);
        assert_eq!(other.publish_new().expect("asked"), Published::Taken);
    }

    #[test]
    fn a_put_whose_draft_was_swept_writes_it_again() {
        let (folder, root) = folder();
        let sweeps = Cell::new(3);
        let outcome = put(
            &root,
            "log/1",
            &Bytes::from_static(b"one").into(),
            |draft| {
                if sweeps.replace(sweeps.get() - 1) > 0 {
                    draft.remove();
                }
                draft.publish_new()
            },
        );
        assert_eq!(outcome.expect("put"), PutNew::Created);
        let read = fs::read(folder.path().join("log/1")).expect("is there");
        assert_eq!(read, b"one");
    }

    #[test]
    fn without_links_one_of_many_gets_the_name_as_well() {
        let (folder, _) = folder();
        for round in 0..20 {
            let object = format!("log/{round}");
            let created: usize = thread::scope(|scope| {
                let writers: Vec<_> = (0..16u8)
                    .map(|writer| {
                        let root = opened(folder.path());
                        let object = &object;
                        scope.spawn(move || {
                            let payload = Bytes::from(vec![writer; 100]).into();
                            let outcome = put(&root, object, &payload, |draft| {
                                draft.make_ready()?;
                                draft.conclude(draft.rename_to_new()?)
                            });
                            usize::from(outcome.expect("put") == PutNew::Created)
                        })
                    })
                    .collect();
                let ended = writers.into_iter().map(|it| it.join().expect("ends"));
                ended.sum()
            });
            assert_eq!(created, 1, "round {round}");
        }
        let left = fs::read_dir(folder.path().join(UPLOADS)).expect("lists");
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn what_is_no_object_s_name_is_refused() {
        let (_folder, root) = folder();
        for object in ["", "/etc/x", "../x", "log/../../x", "log//x", ".uploads/x"] {
            let begun = Draft::begin(&root, object, Purpose::Put);
            assert!(matches!(begun, Err(StoreError::Refused { .. })), "{object}");
        }
    }
}
