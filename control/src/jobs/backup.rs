//! Backup jobs: started by a call, asked about by the next ones.
//!
//! The store is the truth about backups. What is kept here is what runs, and, within bounds, what a
//! caller was not yet told and, to answer polls, what has lately been completed.

mod job;
pub(crate) mod summary;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::join_all;
use ringback_datapath::{
    log::{self, Committed},
    store::{SharedCredentials, location::StoreConfig},
};
use ringback_proto::repository::Commit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;

pub use self::job::BackupJob;
use self::{job::State, summary::describe_commit};
use super::{
    ASK_PATIENCE, Access, forget_some,
    ledger::{Kind, Ledger},
    repository,
    turns::Turns,
};
use crate::{
    config::Config,
    failure::Failure,
    groups::{Groups, Located},
    names::VolumeName,
    request::CreateBackup,
    volume::{Changes, Soon},
};

/// All backup jobs.
pub struct BackupJobs {
    config: Arc<Config>,
    groups: Arc<Groups>,
    turns: Arc<Turns>,
    ledger: Arc<Ledger>,
    changes: Changes,
    stopping: CancellationToken,
    jobs: Mutex<Jobs>,
}

/// By their names.
type Jobs = HashMap<String, Arc<BackupJob>>;

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
        if let Some(state) = self.under_way(&self.jobs(), &request)? {
            return Ok(state);
        }
        let located = self.locate(&request).await?;
        if let Some(state) = self.known_or_begun(&request, &store, located)? {
            return Ok(state);
        }
        tokio::select! {
            () = self.stopping.cancelled() => Ok(goes_on_later()),
            answer = self.ask_the_store(&request, &store) => answer,
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

    /// Waits for the ends of the backups of this volume that have a snapshot, or are about to take one;
    /// whether there were any.
    pub async fn end_on(&self, group_name: &str, volume: &VolumeName) -> bool {
        let mut concerned = self.running_on(group_name, volume);
        concerned.retain(|job| job.has_snapshot());
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

    /// What a caller is told of a job that runs.
    fn under_way(
        &self,
        jobs: &Jobs,
        request: &CreateBackup,
    ) -> Result<Option<BackupState>, Failure> {
        if self.stopping.is_cancelled() {
            return Ok(Some(goes_on_later()));
        }
        let job = jobs.get(&request.name).filter(|job| !job.is_over());
        let Some(job) = job else {
            return Ok(None);
        };
        // A passphrase may be changed while a job runs, which goes on with the one that it began with.
        if !job.is_of(request) {
            return Err(Failure::new(
                Code::Aborted,
                format!(
                    "backup.name {:?} belongs to a running backup of {:?} to {}; choose another \
                     name, or wait for its end",
                    request.name,
                    job.volume_handle.as_str(),
                    job.place.backup
                ),
            ));
        }
        job.credentials
            .replace(request.source.store.credentials.clone());
        Ok(Some(BackupState::InProgress(job.describe())))
    }

    /// The volume. How a job ended can be told when no group can be asked, too: unless its volume is known to have
    /// gone, it is that, and then there is another one if a group says so soon.
    async fn locate(&self, request: &CreateBackup) -> Result<Option<Located>, Failure> {
        let found = self.groups.find(&request.volume_handle);
        let job = self.get(&request.name);
        let Some(job) = job.filter(|job| job.is_over() && job.is_of(request)) else {
            return found.await;
        };
        let Located { group, volume, .. } = &job.located;
        match timeout(ASK_PATIENCE, group.get_soon(&volume.name)).await {
            Ok(Ok(Soon::Found(there))) if there.identity != volume.identity => {}
            Ok(Ok(Soon::Absent | Soon::Unknown)) => {}
            Ok(Ok(Soon::Found(_)) | Err(_)) | Err(_) => return Ok(Some(job.located.clone())),
        }
        let found = timeout(ASK_PATIENCE, found).await;
        Ok(found.ok().and_then(Result::ok).flatten())
    }

    /// What is known here of the backup of this volume; else it is begun, if there is a volume.
    fn known_or_begun(
        &self,
        request: &CreateBackup,
        store: &StoreConfig,
        located: Option<Located>,
    ) -> Result<Option<BackupState>, Failure> {
        let mut jobs = self.jobs();
        if let Some(state) = self.under_way(&jobs, request)? {
            // Another call was faster.
            return Ok(Some(state));
        }
        if let Some(state) = ended(&mut jobs, request, located.as_ref()) {
            return Ok(Some(state));
        }
        Ok(located.map(|located| self.begin(&mut jobs, request.clone(), store.clone(), located)))
    }

    fn begin(
        &self,
        jobs: &mut Jobs,
        request: CreateBackup,
        store: StoreConfig,
        located: Located,
    ) -> BackupState {
        forget_some(jobs, BackupJob::is_over);
        let access = Access::of(store);
        let (credentials, changes) = (access.credentials.downgrade(), self.changes.clone());
        let job = Arc::new(BackupJob::new(request, credentials, located, changes));
        jobs.insert(job.name.clone(), Arc::clone(&job));
        self.ledger.begin(Kind::Backup, &job.watched);
        let message = job.watched.describe();
        let (config, turns) = (Arc::clone(&self.config), Arc::clone(&self.turns));
        tokio::spawn(job.run(access, config, turns, Arc::clone(&self.ledger)));
        BackupState::InProgress(message)
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
        let found = timeout(ASK_PATIENCE, asked).await.map_err(|_| {
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

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What callers are told by a daemon that is stopping: an error would be final to them; asked after
/// the restart, the job is begun again.
fn goes_on_later() -> BackupState {
    let message = "the daemon is stopping; the backup goes on when it is back";
    BackupState::InProgress(message.to_owned())
}

/// What a caller is told of a job that has ended. One of another volume, passphrase or path, or of an earlier
/// volume of that name, is forgotten: what is asked for now is another backup.
fn ended(
    jobs: &mut Jobs,
    request: &CreateBackup,
    located: Option<&Located>,
) -> Option<BackupState> {
    let job = Arc::clone(jobs.get(&request.name)?);
    let identity = &job.located.volume.identity;
    let is_of_it = job.is_of(request)
        // Who has another passphrase is told of a backup only when the store has taken that, too.
        && job.place.encryption_key == request.source.encryption_key
        && located.is_none_or(|it| it.volume.identity == *identity);
    let state = is_of_it.then(|| job.state.borrow().clone());
    if let Some(State::Done(message)) = state {
        return Some(BackupState::Complete(message));
    }
    jobs.remove(&request.name);
    match state {
        Some(State::Failed(message)) => Some(BackupState::Error(message)),
        _ => None,
    }
}

fn is_of_request(commit: &Commit, request: &CreateBackup) -> bool {
    commit.request_name == request.name && commit.volume_handle == request.volume_handle.as_str()
}
