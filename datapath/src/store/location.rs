//! Where a repository lies and how to reach it: paths, endpoints, credentials.
//!
//! Everything here is checked once, when it is parsed; the rest of the crate trusts the types.

use std::fmt;

use http::Uri;
use zeroize::Zeroizing;

pub use super::proxy::Proxy;
use super::tls::Authorities;

/// Path components that the repository format takes for itself.
pub(super) const RESERVED: [&str; 8] = [
    "repository",
    "keys",
    "data",
    "tree",
    "index",
    "refs",
    "log",
    "checkpoint",
];

/// S3's limit on a key is 1024 bytes; ours leaves room for the longest object name below a
/// prefix (`index/SESSION/SEQUENCE-RANDOM`, under 80 bytes).
const PATH_BYTES_MAX: usize = 900;

/// Why a path or an endpoint was refused; the sentence says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?}: {reason}")]
pub struct InvalidLocation {
    /// The field of the request.
    pub field: &'static str,
    /// Its value, any credentials in it left out.
    pub value: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

/// A bucket and the prefix below which one repository lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepositoryPath {
    bucket: String,
    prefix: String,
}

/// `bucket/any/prefix/backup-name`: a repository and the name of one backup in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackupPath {
    repository: RepositoryPath,
    name: String,
}

impl RepositoryPath {
    /// Parses `[s3://]bucket[/any/prefix]`.
    pub fn parse(path: &str) -> Result<Self, InvalidLocation> {
        let mut components = components(path)?;
        let bucket = components.remove(0);
        Ok(Self {
            bucket,
            prefix: components.join("/"),
        })
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key of an object of this repository, given its name within it.
    pub fn key(&self, object: &str) -> String {
        if self.prefix.is_empty() {
            object.to_owned()
        } else {
            format!("{}/{object}", self.prefix)
        }
    }
}

impl fmt::Display for RepositoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.prefix)
        }
    }
}

impl BackupPath {
    /// Parses `[s3://]bucket/[any/prefix/]backup-name`.
    pub fn parse(path: &str) -> Result<Self, InvalidLocation> {
        let mut components = components(path)?;
        let bucket = components.remove(0);
        let Some(name) = components.pop() else {
            return Err(invalid_path(
                path,
                "has a bucket but no backup name; it should be bucket/prefix/backup-name".into(),
            ));
        };
        let prefix = components.join("/");
        Ok(Self {
            repository: RepositoryPath { bucket, prefix },
            name,
        })
    }

    /// The repository.
    pub fn repository(&self) -> &RepositoryPath {
        &self.repository
    }

    /// The backup's name, unique in its repository.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for BackupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repository, self.name)
    }
}

/// Splits a path into its components, at least one, and checks each.
fn components(path: &str) -> Result<Vec<String>, InvalidLocation> {
    let refuse = |reason: String| Err(invalid_path(path, reason));
    let bare = path.strip_prefix("s3://").unwrap_or(path);
    if bare.is_empty() {
        return refuse("is empty; it should be bucket/prefix/backup-name".into());
    }
    if bare.len() > PATH_BYTES_MAX {
        return refuse(format!(
            "has {} bytes; at most {PATH_BYTES_MAX} fit into S3 keys",
            bare.len()
        ));
    }
    if bare.starts_with("file:") {
        return refuse(
            "names a folder; only commands that work by themselves take one, a daemon should be \
             told bucket/prefix/backup-name"
                .into(),
        );
    }
    if bare.contains("://") {
        return refuse("has a scheme other than s3://".into());
    }
    if let Some(odd) = bare
        .chars()
        .find(|c| matches!(c, '?' | '#') || c.is_control())
    {
        return refuse(format!(
            "has the character {odd:?}; a path takes no query, fragment or control character"
        ));
    }
    let components: Vec<String> = bare.split('/').map(str::to_owned).collect();
    check_bucket(path, &components[0])?;
    for component in &components[1..] {
        let checked = check_component(component).and_then(|()| check_name(component));
        checked.map_err(|reason| invalid_path(path, reason))?;
    }
    Ok(components)
}

/// Whether a component of a path means what it seems to.
pub(super) fn check_component(component: &str) -> Result<(), String> {
    match component {
        "" => Err("has an empty component; write single slashes, none at the end".into()),
        "." | ".." => Err(format!(
            "has the component {component:?}; write the path out"
        )),
        _ => Ok(()),
    }
}

/// Whether a component may lie below a repository without being in its way.
pub(super) fn check_name(component: &str) -> Result<(), String> {
    if RESERVED.contains(&component) {
        return Err(format!(
            "has the component {component:?}, which the repository format keeps for itself; \
             choose another name"
        ));
    }
    Ok(())
}

fn check_bucket(path: &str, bucket: &str) -> Result<(), InvalidLocation> {
    let refuse = |reason: String| Err(invalid_path(path, reason));
    if bucket.is_empty() {
        return refuse("begins with a slash; it should begin with the bucket's name".into());
    }
    if bucket.contains('@') {
        return refuse(
            "has credentials before the bucket; they belong into access_key_id and \
             secret_access_key"
                .into(),
        );
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match bucket.chars().find(|&c| !allowed(c)) {
        Some(odd) => refuse(format!(
            "has {odd:?} in the bucket's name, which takes letters, digits, '.', '-' and '_'"
        )),
        None if bucket.len() > 255 || bucket.len() < 3 => {
            refuse("has a bucket name that is not 3 to 255 characters long".into())
        }
        None => Ok(()),
    }
}

fn invalid_path(path: &str, reason: String) -> InvalidLocation {
    InvalidLocation {
        field: "path",
        value: without_user_info(path),
        reason,
    }
}

/// The text with anything between a scheme (or the start) and an `@` replaced.
pub fn without_user_info(text: &str) -> String {
    match text.rfind('@') {
        Some(at) => {
            let start = text[..at].find("://").map_or(0, |scheme| scheme + 3);
            format!("{}***{}", &text[..start], &text[at..])
        }
        None => text.to_owned(),
    }
}

/// `http(s)://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// Parses an endpoint; the empty text is `None`, AWS's own endpoint of the region.
    pub fn parse(endpoint: &str) -> Result<Option<Self>, InvalidLocation> {
        if endpoint.is_empty() {
            return Ok(None);
        }
        let uri = http_uri(
            "endpoint",
            endpoint,
            "http://host:port or https://host:port",
        )?;
        if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(InvalidLocation {
                field: "endpoint",
                value: without_user_info(endpoint),
                reason: "has credentials in it; they belong into access_key_id and \
                         secret_access_key"
                    .into(),
            });
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(InvalidLocation {
                field: "endpoint",
                value: without_user_info(endpoint),
                reason: "has a path or query; it should be http(s)://host[:port] alone".into(),
            });
        }
        Ok(Some(Self(uri)))
    }

    /// The endpoint as the SDK takes it.
    pub fn as_url(&self) -> String {
        self.0.to_string().trim_end_matches('/').to_owned()
    }
}

pub(super) fn http_uri(
    field: &'static str,
    value: &str,
    wants: &'static str,
) -> Result<Uri, InvalidLocation> {
    let refuse = |reason: String| InvalidLocation {
        field,
        value: without_user_info(value),
        reason,
    };
    let uri: Uri = value
        .parse()
        .map_err(|_| refuse(format!("is not a URL; it should be {wants}")))?;
    let host = uri.host().filter(|host| !host.is_empty());
    let (Some("http" | "https"), Some(host)) = (uri.scheme_str(), host) else {
        return Err(refuse(format!("should be {wants}")));
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let behind_host = authority.rsplit_once(host).map_or("", |(_, rest)| rest);
    match (behind_host, uri.port_u16()) {
        ("", _) | (_, Some(1..)) => Ok(uri),
        _ => Err(refuse(
            "has a port that is none; a port is a number from 1 to 65535".into(),
        )),
    }
}

/// A text that is wiped when dropped and never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How requests are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The AWS default chain: environment, profile, container, instance role.
    Chain,
    /// This profile of the AWS shared config and credentials files, whatever the environment says.
    Profile(String),
    /// Given with the request.
    Static {
        /// Access key id.
        access_key_id: Secret,
        /// Secret access key.
        secret_access_key: Secret,
        /// Session token of temporary credentials.
        session_token: Option<Secret>,
    },
}

/// How to reach the store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// `None`: AWS's own endpoint of the region.
    pub endpoint: Option<Endpoint>,
    /// `None`: from the environment, else found out, else `us-east-1`.
    pub region: Option<String>,
    /// false: any certificate is accepted.
    pub verify_tls: bool,
    /// Trusted beside the system's.
    pub authorities: Authorities,
    /// Proxy for http endpoints.
    pub http_proxy: Option<Proxy>,
    /// Proxy for https endpoints (CONNECT).
    pub https_proxy: Option<Proxy>,
    /// How requests are signed.
    pub credentials: Credentials,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_repository_and_a_name_with_or_without_the_scheme() {
        for text in ["s3://backups/team a/db-1", "backups/team a/db-1"] {
            let path = BackupPath::parse(text).expect("valid");
            assert_eq!(path.name(), "db-1");
            assert_eq!(path.repository().bucket(), "backups");
            assert_eq!(path.repository().key("log/1"), "team a/log/1");
            assert_eq!(path.to_string(), "s3://backups/team a/db-1");
        }
        let at_the_root = BackupPath::parse("backups/db-1").expect("valid");
        assert_eq!(at_the_root.repository().key("repository"), "repository");
    }

    #[test]
    fn a_malformed_path_is_refused_with_what_would_be_right() {
        for (path, says) in [
            ("", "is empty"),
            ("s3://", "is empty"),
            ("bucket", "no backup name"),
            ("/bucket/name", "begins with a slash"),
            ("bucket/", "empty component"),
            ("bucket//name", "empty component"),
            ("bucket/../name", "write the path out"),
            ("bucket/data/name", "keeps for itself"),
            ("bucket/log", "keeps for itself"),
            ("bucket/name?versionId=1", "no query"),
            (
                "s3://key:secret@bucket/name",
                "credentials before the bucket",
            ),
            ("https://bucket/name", "scheme other than s3"),
            ("file:///mnt/usb/repo/name", "names a folder"),
            ("b\u{fc}cket/name", "in the bucket's name"),
            ("bucket/na\nme", "control character"),
        ] {
            let error = BackupPath::parse(path).expect_err(path).to_string();
            assert!(error.contains(says), "{path:?}: {error}");
            assert!(!error.contains("secret@"), "{error}");
        }
    }

    #[test]
    fn an_endpoint_is_scheme_host_and_port_alone() {
        assert_eq!(Endpoint::parse(""), Ok(None));
        for good in [
            "http://127.0.0.1:9000",
            "https://s3.example.com",
            "http://[::1]:80/",
        ] {
            assert!(matches!(Endpoint::parse(good), Ok(Some(_))), "{good}");
        }
        for bad in [
            "s3.example.com",
            "ftp://host",
            "http://",
            "http://host/path",
            "http://u:p@h",
        ] {
            let error = Endpoint::parse(bad).expect_err(bad).to_string();
            assert!(!error.contains("u:p"), "{error}");
        }
    }
}
