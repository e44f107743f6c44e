//! One backup, from the question whether there is anything to do to the snapshot's removal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::UNIX_EPOCH,
};

use ringback_datapath::{
    backup::{self, Still, Subject},
    copy,
    error::{Error as DatapathError, ErrorKind},
    log::Log,
    repository::Repository,
    store::{ObjectStore, WeakCredentials, location::Endpoint},
};
use ringback_proto::repository::Commit;
use tokio::sync::watch;
use tonic::Code;

use super::summary::describe_commit;
use crate::{
    config::Config,
    failure::Failure,
    groups::Located,
    jobs::{
        Access, JOB_PATIENCE, Phase, Place, Watched,
        ledger::{Kind, Ledger},
        repository,
        turns::{BackupTurn, Destination, Turns},
        without_panic,
    },
    request::{CreateBackup, VolumeHandle},
    volume::{BackupSnapshot, Changes, Frozen},
};

/// One backup job. It is remembered when it has ended, and holds nothing then that is large or secret but
/// the passphrase, by which a caller is known.
pub struct BackupJob {
    pub(super) name: String,
    pub(super) volume_handle: VolumeHandle,
    pub(super) place: Place,
    pub(super) located: Located,
    pub(super) credentials: WeakCredentials,
    /// What may be looked at while it runs.
    pub watched: Arc<Watched>,
    changes: Changes,
    /// Whether it has begun to take its snapshot. There is none any more when it is over.
    has_snapshot: AtomicBool,
    pub(super) state: watch::Sender<State>,
}

#[derive(Debug, Clone)]
pub(super) enum State {
    Preparing,
    Running,
    Done(String),
    Failed(String),
}

impl BackupJob {
    /// A backup that was asked for; nothing is done yet.
    pub(super) fn new(
        request: CreateBackup,
        credentials: WeakCredentials,
        located: Located,
        changes: Changes,
    ) -> Self {
        Self {
            place: Place::from(&request.source),
            name: request.name,
            volume_handle: request.volume_handle,
            credentials,
            located,
            watched: Watched::new(),
            changes,
            has_snapshot: AtomicBool::new(false),
            state: watch::Sender::new(State::Preparing),
        }
    }

    /// Where it is.
    pub fn phase(&self) -> (Phase, String) {
        match &*self.state.borrow() {
            State::Preparing => (Phase::Preparing, String::new()),
            State::Running => (Phase::Running, String::new()),
            State::Done(_) => (Phase::Done, String::new()),
            State::Failed(message) => (Phase::Failed, message.clone()),
        }
    }

    /// Whether it was asked for by the same call, whatever the passphrase.
    pub(super) fn is_of(&self, request: &CreateBackup) -> bool {
        let source = &request.source;
        self.volume_handle == request.volume_handle
            && self.place.backup == source.backup
            && self.place.endpoint == source.store.endpoint
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(*self.state.borrow(), State::Done(_) | State::Failed(_))
    }

    /// Whether it has a snapshot of its volume, or is about to take one.
    pub(super) fn has_snapshot(&self) -> bool {
        self.has_snapshot.load(Ordering::SeqCst)
    }

    /// How far it is, and what it waits for.
    pub(super) fn describe(&self) -> String {
        let progress = self.watched.describe();
        if self.credentials.have_expired() {
            format!("{progress}; waiting for other credentials: the session token has expired")
        } else {
            progress
        }
    }

    /// Does all of it, and tells how it ended.
    pub(super) async fn run(
        self: Arc<Self>,
        access: Access,
        config: Arc<Config>,
        turns: Arc<Turns>,
        ledger: Arc<Ledger>,
    ) {
        let name = &self.name;
        let ended = without_panic(self.back_up(access, &config, &turns)).await;
        ledger.end(Kind::Backup, &self.watched, &ended);
        self.state.send_replace(match &ended {
            Ok(message) => State::Done(message.clone()),
            Err(failure) => State::Failed(failure.message.clone()),
        });
        self.watched.end();
        let path = self.place.backup.to_string();
        let volume = format!("{}/{}", self.located.group_name, self.located.volume.name);
        match ended {
            Ok(message) => {
                tracing::info!(backup = name, path, volume, message, "backup complete");
            }
            Err(failure) => {
                tracing::warn!(backup = name, path, volume, error = %failure, "backup failed");
            }
        }
    }

    async fn back_up(
        &self,
        access: Access,
        config: &Config,
        turns: &Turns,
    ) -> Result<String, Failure> {
        let stop = &self.watched.stop;
        let prepared = stop.unless_asked(self.prepare(&access, config, turns));
        let mut work = match prepared.await? {
            Prepared::Complete(message) => return Ok(message),
            Prepared::Ready(work) => work,
        };
        // From here on there is a snapshot, to be removed whatever happens.
        self.changes.tell();
        let result = self.move_data(config, &mut work).await;
        let warning = work.snapshot.warning.clone();
        let released = work.snapshot.release().await;
        self.changes.tell();
        // What the store has is a backup, whatever becomes of the snapshot.
        let left = released.err().map(|error| {
            let volume = &self.located.volume.name;
            tracing::warn!(%volume, %error, "the snapshot of a backup is still there");
            format!("its snapshot is still there, and will be removed later: {error}")
        });
        let mut message = result?;
        for warning in [warning, left].into_iter().flatten() {
            message = format!("{message}; {warning}");
        }
        Ok(message)
    }

    /// Asks the store whether there is anything to do, waits for a turn, takes the snapshot.
    async fn prepare<'a>(
        &self,
        access: &Access,
        config: &Config,
        turns: &'a Turns,
    ) -> Result<Prepared<'a>, Failure> {
        let path = &self.place.backup;
        let store = repository::connect(
            config,
            path.repository(),
            &access.store,
            &access.credentials,
            JOB_PATIENCE,
        )
        .await;
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        self.watched.set_store(Arc::clone(&store));
        let size = repository::chunk_size(&repository::settings(&config.datapath));
        let passphrase = self.place.encryption_key.as_ref();
        let repository = Repository::open_or_create(store, size, passphrase).await?;
        let mut log = Log::replay(&repository).await?;
        if let Some(there) = log.find(path.name()) {
            return self.judge(&there.commit).map(Prepared::Complete);
        }
        let turn = turns.backup(self.destination());
        let turn = self.watched.wait_for_turn(turn).await;
        // That may have taken hours; the newer the parent, the less there is to do.
        log.catch_up().await?;
        if let Some(there) = log.find(path.name()) {
            return self.judge(&there.commit).map(Prepared::Complete);
        }
        let volume = &self.located.volume;
        self.has_snapshot.store(true, Ordering::SeqCst);
        let snapshot = self.located.group.freeze_for_backup(volume).await?;
        if let Some(warning) = &snapshot.warning {
            tracing::warn!(volume = %volume.name, warning, "snapshot");
        }
        Ok(Prepared::Ready(Box::new(Work {
            repository,
            log,
            snapshot,
            _turn: turn,
        })))
    }

    async fn move_data(&self, config: &Config, work: &mut Work<'_>) -> Result<String, Failure> {
        self.state.send_replace(State::Running);
        let settings = repository::settings(&config.datapath);
        let frozen = match &work.snapshot.frozen {
            Frozen::Snapshot(path) => path,
            Frozen::NeedsCopy { from, to } => {
                let copying = &self.watched.copying;
                copy::run(from, to, &settings, copying, &self.watched.stop).await?;
                to
            }
        };
        let subject = self.subject(&work.snapshot);
        let progress = &self.watched.progress;
        let volume = backup::Volume {
            path: frozen,
            extents: work.snapshot.extents.as_deref(),
            still: &work.snapshot,
        };
        self.watched.move_data();
        let done = backup::run(
            &work.repository,
            &mut work.log,
            volume,
            &subject,
            &settings,
            progress,
            &self.watched.stop,
        )
        .await;
        match done {
            Ok(committed) => Ok(describe_commit(&committed.commit)),
            // Somebody else took the name while we worked, or an answer came in late.
            Err(DatapathError::NameTaken { .. }) => {
                let there = work.log.find(&subject.name);
                self.judge(&there.expect("the log names it").commit)
            }
            Err(error @ DatapathError::Moved(_)) => Err(error.into()),
            // A snapshot that is lost cannot be read either; then its loss is the reason.
            Err(error) => match work.snapshot.check().await {
                Err(lost) if error.kind() == ErrorKind::Local => {
                    Err(DatapathError::Moved(lost).into())
                }
                _ => Err(error.into()),
            },
        }
    }

    fn destination(&self) -> Destination {
        (
            self.located.group_name.clone(),
            self.located.volume.name.clone(),
            self.place.backup.repository().to_string(),
            self.place.endpoint.as_ref().map(Endpoint::as_url),
        )
    }

    fn subject(&self, snapshot: &BackupSnapshot) -> Subject {
        let since_1970 = snapshot.created_at.duration_since(UNIX_EPOCH);
        Subject {
            name: self.place.backup.name().to_owned(),
            request_name: self.name.clone(),
            volume_handle: self.volume_handle.as_str().to_owned(),
            volume_identity: self.located.volume.identity.clone(),
            created_ms: since_1970.map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
        }
    }

    /// Whether the commit at this path is the backup that was asked for.
    fn judge(&self, commit: &Commit) -> Result<String, Failure> {
        let path = &self.place.backup;
        let refuse = |what: String| {
            Err(Failure::new(
                Code::AlreadyExists,
                format!("{path} is taken by a backup {what}; choose another path"),
            ))
        };
        if commit.request_name != self.name {
            return refuse(format!("named {:?}", commit.request_name));
        }
        if commit.volume_handle != self.volume_handle.as_str() {
            return refuse(format!("of volume {:?}", commit.volume_handle));
        }
        if commit.volume_identity != self.located.volume.identity {
            return refuse(format!(
                "of an earlier volume {:?} (identity {})",
                commit.volume_handle, commit.volume_identity
            ));
        }
        Ok(describe_commit(commit))
    }
}

enum Prepared<'a> {
    /// The store has this backup already.
    Complete(String),
    Ready(Box<Work<'a>>),
}

struct Work<'a> {
    repository: Repository,
    log: Log,
    snapshot: BackupSnapshot,
    _turn: BackupTurn<'a>,
}
