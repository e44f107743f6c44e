//! Where a repository lies, as people write it on a command line: `s3://bucket/prefix` or
//! `file:///folder`.
//!
//! A daemon takes [`RepositoryPath`] and [`BackupPath`] alone, which are places in S3: no client can
//! make it write to a folder of its host.

use std::{fmt, path::Path};

use percent_encoding::percent_decode_str;

use super::location::{
    BackupPath, InvalidLocation, RepositoryPath, check_component, check_name, without_user_info,
};

const FILE: &str = "file:";
const RIGHT: &str = "it should be file:///absolute/path, with three slashes";

/// A repository's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryUrl {
    /// In S3.
    Bucket(RepositoryPath),
    /// In a folder.
    Folder(FolderPath),
}

/// A repository's place and the name of one backup in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupUrl {
    repository: RepositoryUrl,
    name: String,
}

/// The absolute path of a folder, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderPath(String);

impl RepositoryUrl {
    /// Parses `[s3://]bucket[/any/prefix]` or `file:///folder`.
    pub fn parse(text: &str) -> Result<Self, InvalidLocation> {
        if !text.starts_with(FILE) {
            return RepositoryPath::parse(text).map(Self::Bucket);
        }
        FolderPath::of(text, &file_components(text)?).map(Self::Folder)
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket(path) => path.fmt(f),
            Self::Folder(path) => path.fmt(f),
        }
    }
}

impl BackupUrl {
    /// Parses `[s3://]bucket/[any/prefix/]backup-name` or `file:///folder/backup-name`.
    pub fn parse(text: &str) -> Result<Self, InvalidLocation> {
        if !text.starts_with(FILE) {
            let path = BackupPath::parse(text)?;
            return Ok(Self {
                repository: RepositoryUrl::Bucket(path.repository().clone()),
                name: path.name().to_owned(),
            });
        }
        let mut components = file_components(text)?;
        let name = components.pop().unwrap_or_default();
        check_name(&name).map_err(|reason| invalid(text, reason))?;
        Ok(Self {
            repository: RepositoryUrl::Folder(FolderPath::of(text, &components)?),
            name,
        })
    }

    /// The repository.
    pub fn repository(&self) -> &RepositoryUrl {
        &self.repository
    }

    /// The backup's name, unique in its repository.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for BackupUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.repository {
            RepositoryUrl::Bucket(path) => write!(f, "{path}/{}", self.name),
            RepositoryUrl::Folder(path) => write!(f, "{path}/{}", escaped(&self.name)),
        }
    }
}

impl FolderPath {
    fn of(text: &str, components: &[String]) -> Result<Self, InvalidLocation> {
        if components.is_empty() {
            return Err(invalid(
                text,
                "names no folder for the repository; it should be file:///folder/backup-name",
            ));
        }
        Ok(Self(format!("/{}", components.join("/"))))
    }

    /// The path itself.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for FolderPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", escaped(&self.0))
    }
}

/// The components of `file:///a/b`, `%XX` decoded in each.
fn file_components(text: &str) -> Result<Vec<String>, InvalidLocation> {
    let refuse = |reason: String| invalid(text, reason);
    let Some(behind) = text.strip_prefix("file://") else {
        return Err(refuse(format!("has no absolute path; {RIGHT}")));
    };
    let path = match behind.split_once('/') {
        Some(("", path)) => path,
        Some((host, _)) => {
            let host = without_user_info(host);
            return Err(refuse(format!(
                "has {host:?} where a host's name belongs, and folders are this host's own; {RIGHT}"
            )));
        }
        None => return Err(refuse(format!("has no absolute path; {RIGHT}"))),
    };
    if path.is_empty() {
        return Err(refuse(format!("has no path; {RIGHT}")));
    }
    let components = path.split('/').map(|component| {
        let component = decoded(component)?;
        check_component(&component)?;
        Ok(component)
    });
    components.collect::<Result<_, _>>().map_err(refuse)
}

fn decoded(component: &str) -> Result<String, String> {
    if let Some(odd) = component.chars().find(|c| matches!(c, '?' | '#')) {
        return Err(format!(
            "has the character {odd:?}, which in a URL begins a query or a fragment; write %{:02X} \
             for it",
            odd as u32
        ));
    }
    let is_escape = |at: usize| matches!(component.as_bytes().get(at + 1..at + 3), Some(it) if it.iter().all(u8::is_ascii_hexdigit));
    if let Some((at, _)) = component.match_indices('%').find(|(at, _)| !is_escape(*at)) {
        let rest: String = component[at..].chars().take(3).collect();
        return Err(format!(
            "has {rest:?}, which is no % with two hexadecimal digits; write %25 for a percent sign"
        ));
    }
    let decoded = percent_decode_str(component)
        .decode_utf8()
        .map_err(|_| "is not UTF-8 text when its %XX are decoded".to_owned())?;
    match decoded.chars().find(|c| *c == '/' || c.is_control()) {
        Some(odd) => Err(format!(
            "has the character {odd:?} in a name; choose a name without it"
        )),
        None => Ok(decoded.into_owned()),
    }
}

/// What is in a name is written as `%XX` where it would mean something else in a URL.
fn escaped(text: &str) -> String {
    let without_percent = text.replace('%', "%25");
    without_percent.replace('?', "%3F").replace('#', "%23")
}

fn invalid(text: &str, reason: impl Into<String>) -> InvalidLocation {
    let has_host = text
        .strip_prefix("file://")
        .is_none_or(|path| !path.starts_with('/'));
    InvalidLocation {
        field: "path",
        value: if has_host {
            without_user_info(text)
        } else {
            text.to_owned()
        },
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn folder(text: &str) -> PathBuf {
        match RepositoryUrl::parse(text).expect(text) {
            RepositoryUrl::Folder(path) => path.as_path().to_owned(),
            RepositoryUrl::Bucket(_) => panic!("{text} names a folder"),
        }
    }

    #[test]
    fn a_file_url_is_a_folder_and_a_name_and_is_shown_so_that_it_can_be_read_again() {
        for (text, path, shown) in [
            ("file:///mnt/usb", "/mnt/usb", "file:///mnt/usb"),
            ("file:///mnt/my disk", "/mnt/my disk", "file:///mnt/my disk"),
            (
                "file:///mnt/my%20disk",
                "/mnt/my disk",
                "file:///mnt/my disk",
            ),
            ("file:///m/100%25%3f", "/m/100%?", "file:///m/100%25%3F"),
            (
                "file:///mnt/B\u{fc}cher",
                "/mnt/B\u{fc}cher",
                "file:///mnt/B\u{fc}cher",
            ),
            // Folders of people may be called as they like.
            (
                "file:///data/log/a@b",
                "/data/log/a@b",
                "file:///data/log/a@b",
            ),
        ] {
            assert_eq!(folder(text), Path::new(path));
            let url = RepositoryUrl::parse(text).expect(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(RepositoryUrl::parse(shown), Ok(url.clone()));
            let backup = BackupUrl::parse(&format!("{text}/50%25")).expect(text);
            assert_eq!((backup.repository(), backup.name()), (&url, "50%"));
            assert_eq!(backup.to_string(), format!("{shown}/50%25"));
        }
    }

    #[test]
    fn what_begins_with_s3_or_a_bucket_is_a_place_in_s3() {
        for text in ["s3://backups/vms/monday", "backups/vms/monday"] {
            let backup = BackupUrl::parse(text).expect(text);
            assert!(matches!(backup.repository(), RepositoryUrl::Bucket(_)));
            assert_eq!(backup.to_string(), "s3://backups/vms/monday");
        }
    }

    #[test]
    fn a_malformed_file_url_is_refused_with_what_would_be_right() {
        for (text, says) in [
            (
                "file:",
                "no absolute path; it should be file:///absolute/path",
            ),
            ("file:/mnt/usb/a", "no absolute path"),
            ("file://", "no absolute path"),
            ("file:///", "has no path"),
            (
                "file://usb/repo/name",
                "has \"usb\" where a host's name belongs",
            ),
            ("file://./repo/name", "has \".\" where a host's"),
            ("file://localhost/repo/name", "with three slashes"),
            ("file:///name", "names no folder for the repository"),
            ("file:///mnt//name", "empty component"),
            ("file:///mnt/repo/", "empty component"),
            ("file:///mnt/../name", "write the path out"),
            ("file:///mnt/%2e%2e/name", "write the path out"),
            ("file:///mnt/a%2Fb/name", "has the character '/' in a name"),
            (
                "file:///mnt/a%00b/name",
                "has the character '\\0' in a name",
            ),
            ("file:///mnt/na\nme", "in a name"),
            ("file:///mnt/100%/name", "write %25 for a percent sign"),
            ("file:///mnt/%zz/name", "has \"%zz\""),
            ("file:///mnt/%ff/name", "not UTF-8"),
            ("file:///mnt/repo/name?x", "write %3F for it"),
            ("file:///mnt/repo/name#x", "write %23 for it"),
            ("file:///mnt/repo/log", "keeps for itself"),
        ] {
            let error = BackupUrl::parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        let error = BackupUrl::parse("file://me:secret@host/x/y").expect_err("a host");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
