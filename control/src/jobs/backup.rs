//! Backup jobs: started by a call, asked about by the next ones.
//!
//! The store is the truth about backups. What is kept here is what runs, what a caller was not
//! yet told, and, to answer polls, what has lately been completed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use futures::future::join_all;
use ringback_datapath::{
    backup::{self, Still, Subject},
    copy,
    error::{Error as DatapathError, ErrorKind},
    log::{self, Committed, Log},
    repository::Repository,
    store::{
        SharedCredentials,
        location::{BackupPath, Endpoint, StoreConfig},
    },
};
use ringback_proto::repository::{Commit, Statistics};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{
    ASK_PATIENCE, Bytes, Changes, JOB_PATIENCE, Phase, Watched,
    ledger::{Kind, Ledger},
    repository,
    turns::{BackupTurn, Destination, Turns},
    without_panic,
};
use crate::{
    config::Config,
    failure::Failure,
    groups::{Groups, Located},
    names::VolumeName,
    request::CreateBackup,
    volume::{BackupSnapshot, Frozen},
};

/// Completed backups that are remembered, so that a poll need not ask the store.
const REMEMBERED_MAX: usize = 1024;

/// All backup jobs.
pub struct BackupJobs {
    config: Arc<Config>,
    groups: Arc<Groups>,
    turns: Arc<Turns>,
    ledger: Arc<Ledger>,
    changes: Changes,
    stopping: CancellationToken,
    jobs: Mutex<HashMap<String, Arc<BackupJob>>>,
}

/// One backup job.
pub struct BackupJob {
    request: CreateBackup,
    store: StoreConfig,
    located: Located,
    credentials: SharedCredentials,
    /// What may be looked at while it runs.
    pub watched: Arc<Watched>,
    changes: Changes,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone)]
enum State {
    Preparing,
    Running,
    Done(String),
    Failed(String),
}

/// A backup's state as a caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupState {
    /// It runs; how far it is.
    InProgress(String),
    /// It exists; what it took.
    Complete(String),
    /// It does not; why.
    Error(String),
}

impl BackupJobs {
    /// No jobs yet; `turns` are shared by all jobs that move data, `changes` are told when a snapshot
    /// comes or goes. Once `stopping` is cancelled none are begun.
    pub fn new(
        config: &Arc<Config>,
        groups: &Arc<Groups>,
        turns: &Arc<Turns>,
        ledger: &Arc<Ledger>,
        changes: &Changes,
        stopping: &CancellationToken,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            groups: Arc::clone(groups),
            turns: Arc::clone(turns),
            ledger: Arc::clone(ledger),
            changes: changes.clone(),
            stopping: stopping.clone(),
            jobs: Mutex::default(),
        }
    }

    /// Starts a backup, or tells how the one of this name does.
    pub async fn start_or_poll(&self, request: CreateBackup) -> Result<BackupState, Failure> {
        let source = &request.source;
        let store = repository::admit(&self.config, &source.store)?;
        if !log::entry_fits(
            source.backup.name(),
            &request.name,
            request.volume_handle.as_str(),
            // Not known yet; two uuids, for which there is room beyond what this asks for.
            "",
        ) {
            return Err(Failure::new(
                Code::InvalidArgument,
                "backup.name, backup.volume_handle and the last component of the path have more \
                 than 1000 bytes together; use shorter names",
            ));
        }
        if let Some(state) = self.told(&mut self.jobs(), &request)? {
            return Ok(state);
        }
        match self.groups.find(&request.volume_handle).await? {
            Some(located) => self.start(request, store, located),
            None => tokio::select! {
                () = self.stopping.cancelled() => Ok(goes_on_later()),
                answer = self.ask_the_store(&request, &store) => answer,
            },
        }
    }

    /// The job of this name.
    pub fn get(&self, name: &str) -> Option<Arc<BackupJob>> {
        self.jobs().get(name).cloned()
    }

    /// Cancels the backups of this volume and waits until they have let go of it.
    pub async fn cancel_on(&self, group_name: &str, volume: &VolumeName) {
        let concerned = self.running_on(group_name, volume);
        join_all(concerned.iter().map(|job| job.watched.halt())).await;
    }

    /// Waits for the ends of the backups of this volume; whether there were any.
    pub async fn end_on(&self, group_name: &str, volume: &VolumeName) -> bool {
        let concerned = self.running_on(group_name, volume);
        join_all(concerned.iter().map(|job| job.watched.over.cancelled())).await;
        !concerned.is_empty()
    }

    fn running_on(&self, group_name: &str, volume: &VolumeName) -> Vec<Arc<BackupJob>> {
        let is_concerned = |job: &&Arc<BackupJob>| {
            job.located.group_name == group_name
                && job.located.volume.name == *volume
                && !job.watched.over.is_cancelled()
        };
        let jobs = self.jobs();
        jobs.values().filter(is_concerned).cloned().collect()
    }

    /// Brings every job to a point that it can be gone on with from, and waits for their ends.
    pub async fn wind_up(&self) {
        let all: Vec<_> = self.jobs().values().cloned().collect();
        join_all(all.iter().map(|job| job.watched.wind_up())).await;
    }

    /// What a caller is told without a new job.
    fn told(
        &self,
        jobs: &mut HashMap<String, Arc<BackupJob>>,
        request: &CreateBackup,
    ) -> Result<Option<BackupState>, Failure> {
        if self.stopping.is_cancelled() {
            return Ok(Some(goes_on_later()));
        }
        known(jobs, request)
    }

    fn start(
        &self,
        request: CreateBackup,
        store: StoreConfig,
        located: Located,
    ) -> Result<BackupState, Failure> {
        let mut jobs = self.jobs();
        if let Some(state) = self.told(&mut jobs, &request)? {
            // Another call was faster.
            return Ok(state);
        }
        forget_some(&mut jobs);
        let job = Arc::new(BackupJob {
            credentials: SharedCredentials::renewable(store.credentials.clone()),
            store,
            located,
            watched: Watched::new(),
            changes: self.changes.clone(),
            state: watch::Sender::new(State::Preparing),
            request,
        });
        jobs.insert(job.request.name.clone(), Arc::clone(&job));
        self.ledger.begin(Kind::Backup, &job.watched);
        let message = job.watched.describe();
        let (config, turns) = (Arc::clone(&self.config), Arc::clone(&self.turns));
        tokio::spawn(job.run(config, turns, Arc::clone(&self.ledger)));
        Ok(BackupState::InProgress(message))
    }

    /// The volume is not here: a backup of it may exist all the same, from before.
    async fn ask_the_store(
        &self,
        request: &CreateBackup,
        store: &StoreConfig,
    ) -> Result<BackupState, Failure> {
        let path = &request.source.backup;
        let credentials = SharedCredentials::new(store.credentials.clone());
        let asked = async {
            let s3 = repository::connect(
                &self.config,
                path.repository(),
                store,
                &credentials,
                ASK_PATIENCE,
            )
            .await;
            let passphrase = request.source.encryption_key.as_ref();
            repository::find(s3, passphrase, path.name()).await
        };
        let found = tokio::time::timeout(ASK_PATIENCE, asked).await.map_err(|_| {
            Failure::new(
                Code::Unavailable,
                format!(
                    "volume {:?} is not here, and the store did not say within {} s whether its \
                     backup {path} exists",
                    request.volume_handle.as_str(),
                    ASK_PATIENCE.as_secs()
                ),
            )
        })??;
        match found {
            Some(Committed { commit, .. }) if is_of_request(&commit, request) => {
                Ok(BackupState::Complete(describe_commit(&commit)))
            }
            _ => Err(Failure::new(
                Code::NotFound,
                format!(
                    "backup.volume_handle {:?}: there is no such volume, nor a backup of it at \
                     {path}",
                    request.volume_handle.as_str()
                ),
            )),
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<String, Arc<BackupJob>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What callers are told by a daemon that is stopping: an error would be final to them; asked after
/// the restart, the job is begun again.
fn goes_on_later() -> BackupState {
    let message = "the daemon is stopping; the backup goes on when it is back";
    BackupState::InProgress(message.to_owned())
}

/// The state of a job that is known here, unless a new one must be begun.
fn known(
    jobs: &mut HashMap<String, Arc<BackupJob>>,
    request: &CreateBackup,
) -> Result<Option<BackupState>, Failure> {
    let Some(job) = jobs.get(&request.name) else {
        return Ok(None);
    };
    let same = job.request.volume_handle == request.volume_handle
        && job.request.source.backup == request.source.backup
        && job.request.source.store.endpoint == request.source.store.endpoint;
    // A passphrase may be changed while a job runs, which goes on with the one that it began with.
    // But who has another is told of a backup only when the store has taken that, too.
    let has_same_key = job.request.source.encryption_key == request.source.encryption_key;
    let state = job.state.borrow().clone();
    match state {
        State::Preparing | State::Running if same => {
            let credentials = request.source.store.credentials.clone();
            job.credentials.replace(credentials);
            Ok(Some(BackupState::InProgress(job.describe())))
        }
        State::Preparing | State::Running => Err(Failure::new(
            Code::Aborted,
            format!(
                "backup.name {:?} belongs to a running backup of {:?} to {}; choose another \
                 name, or wait for its end",
                request.name,
                job.request.volume_handle.as_str(),
                job.request.source.backup
            ),
        )),
        State::Done(message) if same && has_same_key => Ok(Some(BackupState::Complete(message))),
        State::Failed(message) if same => {
            jobs.remove(&request.name);
            Ok(Some(BackupState::Error(message)))
        }
        State::Done(_) | State::Failed(_) => {
            jobs.remove(&request.name);
            Ok(None)
        }
    }
}

/// Keeps the memory for completed jobs bounded; the store answers for those forgotten.
fn forget_some(jobs: &mut HashMap<String, Arc<BackupJob>>) {
    if jobs.len() >= REMEMBERED_MAX {
        jobs.retain(|_, job| !matches!(*job.state.borrow(), State::Done(_)));
    }
}

impl BackupJob {
    /// Where it is.
    pub fn phase(&self) -> (Phase, String) {
        match &*self.state.borrow() {
            State::Preparing => (Phase::Preparing, String::new()),
            State::Running => (Phase::Running, String::new()),
            State::Done(_) => (Phase::Done, String::new()),
            State::Failed(message) => (Phase::Failed, message.clone()),
        }
    }

    /// How far it is, and what it waits for.
    fn describe(&self) -> String {
        let progress = self.watched.describe();
        if self.credentials.have_expired() {
            format!("{progress}; waiting for other credentials: the session token has expired")
        } else {
            progress
        }
    }

    async fn run(self: Arc<Self>, config: Arc<Config>, turns: Arc<Turns>, ledger: Arc<Ledger>) {
        let name = &self.request.name;
        let ended = match without_panic(self.back_up(&config, &turns)).await {
            Ok(message) => {
                tracing::info!(backup = name, path = %self.request.source.backup, message, "backup complete");
                State::Done(message)
            }
            Err(failure) => {
                tracing::warn!(backup = name, path = %self.request.source.backup, error = %failure, "backup failed");
                State::Failed(failure.message)
            }
        };
        let is_done = matches!(ended, State::Done(_));
        ledger.end(Kind::Backup, &self.watched, is_done);
        self.state.send_replace(ended);
        self.watched.over.cancel();
    }

    async fn back_up(&self, config: &Config, turns: &Turns) -> Result<String, Failure> {
        let stop = &self.watched.stop;
        let prepared = stop.unless_asked(self.prepare(config, turns));
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
        let mut message = result?;
        released?;
        if let Some(warning) = warning {
            message = format!("{message}; {warning}");
        }
        Ok(message)
    }

    /// Asks the store whether there is anything to do, waits for a turn, takes the snapshot.
    async fn prepare<'a>(
        &self,
        config: &Config,
        turns: &'a Turns,
    ) -> Result<Prepared<'a>, Failure> {
        let path: &BackupPath = &self.request.source.backup;
        let store = repository::connect(
            config,
            path.repository(),
            &self.store,
            &self.credentials,
            JOB_PATIENCE,
        )
        .await;
        let store: Arc<dyn ringback_datapath::store::ObjectStore> = Arc::new(store);
        self.watched.set_store(Arc::clone(&store));
        let size = repository::chunk_size(&repository::settings(&config.datapath));
        let passphrase = self.request.source.encryption_key.as_ref();
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
        let name = &self.located.volume.name;
        let snapshot = self.located.group.freeze_for_backup(name).await?;
        if let Some(warning) = &snapshot.warning {
            tracing::warn!(volume = %name, warning, "snapshot");
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
            self.request.source.backup.repository().to_string(),
            self.store.endpoint.as_ref().map(Endpoint::as_url),
        )
    }

    fn subject(&self, snapshot: &BackupSnapshot) -> Subject {
        let since_1970 = snapshot.created_at.duration_since(UNIX_EPOCH);
        Subject {
            name: self.request.source.backup.name().to_owned(),
            request_name: self.request.name.clone(),
            volume_handle: self.request.volume_handle.as_str().to_owned(),
            volume_identity: self.located.volume.identity.clone(),
            created_ms: since_1970.map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
        }
    }

    /// Whether the commit at this path is the backup that was asked for.
    fn judge(&self, commit: &Commit) -> Result<String, Failure> {
        let path = &self.request.source.backup;
        let refuse = |what: String| {
            Err(Failure::new(
                Code::AlreadyExists,
                format!("{path} is taken by a backup {what}; choose another path"),
            ))
        };
        if commit.request_name != self.request.name {
            return refuse(format!("named {:?}", commit.request_name));
        }
        if commit.volume_handle != self.request.volume_handle.as_str() {
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

fn is_of_request(commit: &Commit, request: &CreateBackup) -> bool {
    commit.request_name == request.name && commit.volume_handle == request.volume_handle.as_str()
}

/// What a backup took: `64.0 MiB backed up: 2.0 MiB (compressed to 1.0 MiB) new, 62.0 MiB zero or never
/// written; 1.1 MiB sent`.
pub(crate) fn describe_commit(commit: &Commit) -> String {
    let statistics = commit.statistics.unwrap_or_default();
    let new = (statistics.new_bytes, describe_new(&statistics), "new");
    let others = [
        (statistics.unchanged_bytes, "unchanged"),
        (statistics.duplicate_bytes, "deduplicated"),
        (
            statistics.zero_bytes + statistics.hole_bytes,
            "zero or never written",
        ),
    ];
    let others = others.map(|(bytes, what)| (bytes, Bytes(bytes).to_string(), what));
    let told: Vec<String> = std::iter::once(new)
        .chain(others)
        .filter(|(bytes, ..)| *bytes > 0)
        .map(|(_, bytes, what)| format!("{bytes} {what}"))
        .collect();
    format!(
        "{} backed up: {}; {} sent",
        Bytes(commit.volume_bytes),
        told.join(", "),
        Bytes(statistics.sent_bytes),
    )
}

/// What was new in a backup, and what became of it: `2.0 MiB (compressed to 1.0 MiB)`.
pub(crate) fn describe_new(statistics: &Statistics) -> String {
    let Statistics {
        new_bytes,
        packed_bytes,
        ..
    } = *statistics;
    let new = Bytes(new_bytes);
    // Not counted, or nothing gained: raw records are a little longer than their chunks.
    if (1..new_bytes).contains(&packed_bytes) {
        format!("{new} (compressed to {})", Bytes(packed_bytes))
    } else {
        new.to_string()
    }
}
