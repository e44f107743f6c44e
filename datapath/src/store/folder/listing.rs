//! What is in the folder. Nothing that is neither a folder nor a regular file is ringback's, and
//! neither is a name that is no text.

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    sys::stat::SFlag,
};

use super::{
    super::{Listed, StoreError},
    root::{Root, UPLOADS, kind},
};

/// An entry of a folder.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) is_folder: bool,
}

/// Objects below `prefix`, which may end in the middle of a component.
///
/// They are sorted when all are known: the order of whole names is another than that of each
/// folder's (`a-b` comes before `a/b`).
pub(super) fn list(
    root: &Root,
    prefix: &str,
    after: Option<&str>,
) -> Result<Vec<Listed>, StoreError> {
    let is_wanted = |name: &str| name.starts_with(prefix) && after.is_none_or(|after| name > after);
    let deepest = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut folders = vec![deepest.to_owned()];
    let mut listed = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in entries(root, &folder)? {
            let name = joined(&folder, &entry.name);
            if entry.is_folder {
                if name != UPLOADS && format!("{name}/").starts_with(prefix) {
                    folders.push(name);
                }
            } else if is_wanted(&name) {
                match root.size(&name) {
                    Ok(bytes) => listed.push(Listed { name, bytes }),
                    // Gone since.
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listed)
}

/// What is in a folder; one that is not there is empty.
pub(super) fn entries(root: &Root, folder: &str) -> Result<Vec<Entry>, StoreError> {
    let failed = |errno| root.failed("list the folder", folder, errno);
    let mut opened = match root.open_folder(folder).and_then(Dir::from_fd) {
        Ok(opened) => opened,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return root.check_is_there().map(|()| Vec::new()),
        Err(errno) => return Err(failed(errno)),
    };
    let mut entries = Vec::new();
    for entry in opened.iter() {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        let is_folder = match entry.file_type().or_else(|| type_of(root, folder, name)) {
            Some(Type::Directory) if matches!(name, "." | "..") => continue,
            Some(Type::Directory) => true,
            Some(Type::File) => false,
            _ => continue,
        };
        entries.push(Entry {
            name: name.to_owned(),
            is_folder,
        });
    }
    if entries.is_empty() {
        root.check_is_there()?;
    }
    Ok(entries)
}

/// For filesystems whose listings do not tell.
fn type_of(root: &Root, folder: &str, name: &str) -> Option<Type> {
    let about = root.about(&joined(folder, name)).ok()?;
    match kind(&about) {
        SFlag::S_IFDIR => Some(Type::Directory),
        SFlag::S_IFREG => Some(Type::File),
        _ => None,
    }
}

/// The name, from the repository's folder, of what is called `name` in `folder`.
pub(super) fn joined(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}
