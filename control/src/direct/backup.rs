//! A backup of a path.

use std::path::PathBuf;

use ringback_datapath::{
    backup::{self, Subject},
    error::Error,
    log::{self, Committed},
    repository::now_ms,
    store::url::BackupUrl,
};
use ringback_proto::repository::Commit;
use tonic::Code;

use super::{
    Watched, blocking, identity,
    source::{Motion, Source},
    store::Store,
};
use crate::failure::Failure;

/// What to back up, and where to.
#[derive(Debug, Clone)]
pub struct Request {
    /// A block device or a regular file.
    pub from: PathBuf,
    /// The backup.
    pub to: BackupUrl,
    /// A name for people; `None`: the path's last component.
    pub name: Option<String>,
    /// How the volume is called in the backup; `None`: its path.
    pub handle: Option<String>,
    /// What the volume is, whatever it is called; `None`: what the host says of it.
    pub identity: Option<String>,
    /// What to do about a source in use.
    pub motion: Motion,
}

/// A backup that was made.
#[derive(Debug)]
pub struct Made {
    /// What was committed.
    pub committed: Committed,
    /// Why it may not be what its maker thinks.
    pub warnings: Vec<String>,
}

/// Backs a source up; when this returns, the backup exists.
pub async fn run(store: &Store, request: Request, watched: &Watched) -> Result<Made, Failure> {
    check_identity(request.identity.as_deref())?;
    let (path, motion) = (request.from.clone(), request.motion);
    let source = blocking(move || Source::open(&path, motion)).await?;
    let subject = subject(request, &source)?;
    let opened = watched.stop.unless_asked(store.open_or_create());
    let (repository, mut log) = opened.await?;
    if let Some(there) = log.find(&subject.name) {
        return Err(taken(
            &subject.name,
            &repository.store().describe(),
            &there.commit,
        ));
    }
    let (settings, progress) = (store.settings(), &watched.progress);
    let done = backup::run(
        &repository,
        &mut log,
        &source.path,
        &subject,
        &settings,
        progress,
        &watched.stop,
    );
    let done = done.await;
    let (path, change) = (source.path.display(), source.change());
    let committed = match (done, &change) {
        (Ok(committed), _) => committed,
        (Err(Error::NameTaken { .. }), _) => {
            let there = log.find(&subject.name).expect("the log names it");
            return Err(taken(
                &subject.name,
                &repository.store().describe(),
                &there.commit,
            ));
        }
        (Err(Error::Io { .. } | Error::Shrunk { .. }), Some(change)) => {
            let message = format!("{path} {change} while it was read; no backup was made");
            return Err(Failure::new(Code::Internal, message));
        }
        (Err(error @ Error::Io { .. }), None) => {
            let failure = Failure::from(error);
            let message = format!("{path}: {failure}; no backup was made");
            return Err(Failure::new(failure.code, message));
        }
        (Err(error), _) => return Err(error.into()),
    };
    let mut warnings: Vec<String> = source
        .warning
        .iter()
        .map(|it| format!("{path}: {it}"))
        .collect();
    // Said already of a source that was known to be in use.
    if let Some(change) = change.filter(|_| warnings.is_empty()) {
        warnings.push(format!(
            "{path} {change} while it was read: the backup may be torn"
        ));
    }
    Ok(Made {
        committed,
        warnings,
    })
}

fn check_identity(identity: Option<&str>) -> Result<(), Failure> {
    let refuse = |reason: String| Err(Failure::new(Code::InvalidArgument, reason));
    match identity.map(str::len) {
        Some(0) => refuse("--identity is empty; leave it out, or name the volume".into()),
        Some(bytes) if bytes > identity::BYTES_MAX => refuse(format!(
            "--identity has {bytes} bytes; at most {} are kept",
            identity::BYTES_MAX
        )),
        _ => Ok(()),
    }
}

fn subject(request: Request, source: &Source) -> Result<Subject, Failure> {
    let name = request.to.name().to_owned();
    let absolute = std::path::absolute(&request.from).unwrap_or(request.from);
    let subject = Subject {
        request_name: request.name.unwrap_or_else(|| name.clone()),
        name,
        volume_handle: request
            .handle
            .unwrap_or_else(|| absolute.display().to_string()),
        volume_identity: request.identity.unwrap_or_else(|| source.identity.clone()),
        created_ms: now_ms(),
    };
    if log::entry_fits(&subject.name, &subject.request_name, &subject.volume_handle) {
        return Ok(subject);
    }
    Err(Failure::new(
        Code::InvalidArgument,
        "the backup's name and the volume's handle have more than 1000 bytes together; use \
         shorter ones (--name, --handle)",
    ))
}

fn taken(name: &str, repository: &str, by: &Commit) -> Failure {
    Failure::new(
        Code::AlreadyExists,
        format!(
            "there is already a backup {name:?} in {repository}, of {:?}; backups are never \
             replaced: choose another name",
            by.volume_handle
        ),
    )
}
