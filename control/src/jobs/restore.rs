//! Restore jobs: volumes that come into being from a backup.
//!
//! Ordering rule: the backup is opened and checked before a volume is made; the volume has no
//! name until all its bytes are durable.

use std::{
    collections::HashMap,
    future::pending,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::join_all;
use ringback_datapath::{
    crypt::Passphrase,
    error::Error as DatapathError,
    repository::Repository,
    restore::{self, Backup, Target},
    store::{WeakCredentials, location::StoreConfig, s3::S3Store},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{
    Access, JOB_PATIENCE, OPEN_PATIENCE, Phase, Place, Watched, forget_some,
    ledger::{Kind, Ledger},
    repository,
    turns::Turns,
    wait_for, without_panic,
};
use crate::{
    config::Config,
    failure::Failure,
    groups::Class,
    names::VolumeName,
    planted,
    request::{CreateVolume, DataSource, VolumeInfo},
    volume::{Changes, Error as VolumeError, LayoutOptions, NewVolume, PendingVolume},
};

/// All restore jobs, by group and volume name.
pub struct RestoreJobs {
    config: Arc<Config>,
    turns: Arc<Turns>,
    ledger: Arc<Ledger>,
    changes: Changes,
    stopping: CancellationToken,
    jobs: Mutex<HashMap<Key, Arc<RestoreJob>>>,
}

type Key = (String, VolumeName);

/// One restore job. One that has failed is remembered until somebody asks for it, and holds nothing then that
/// is large or secret but the passphrase.
pub struct RestoreJob {
    request: CreateVolume,
    place: Place,
    class: Class,
    layout: LayoutOptions,
    credentials: WeakCredentials,
    /// What may be looked at while it runs.
    pub watched: Arc<Watched>,
    changes: Changes,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone)]
enum State {
    /// The backup is being opened and checked; no volume was made.
    Opening,
    /// The volume is being filled.
    Running,
    Done(VolumeInfo),
    Failed(Failure),
}

impl RestoreJobs {
    /// No jobs yet; `turns` are shared by all jobs that move data, `changes` are told when a
    /// volume appears, finished or not, or goes. Once `stopping` is cancelled no job is begun.
    pub fn new(
        config: &Arc<Config>,
        turns: &Arc<Turns>,
        ledger: &Arc<Ledger>,
        changes: &Changes,
        stopping: &CancellationToken,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            turns: Arc::clone(turns),
            ledger: Arc::clone(ledger),
            changes: changes.clone(),
            stopping: stopping.clone(),
            jobs: Mutex::default(),
        }
    }

    /// Makes a volume that holds a backup: answers when it does, or, asynchronously, when it is
    /// sure to be tried.
    pub async fn create(
        self: &Arc<Self>,
        request: CreateVolume,
        source: DataSource,
        class: &Class,
        layout: LayoutOptions,
    ) -> Result<VolumeInfo, Failure> {
        let store = repository::admit(&self.config, &source.store)?;
        let synchronous = source.synchronous;
        let job = self.start_or_join(request, source, store, class, layout)?;
        let state = wait_for(&job.state, |state| match state {
            State::Opening => false,
            State::Running => !synchronous,
            State::Done(_) | State::Failed(_) => true,
        })
        .await;
        match state {
            State::Opening | State::Running => Ok(job.pending_info()),
            State::Done(volume) => Ok(volume),
            State::Failed(failure) => {
                // Told: the next call starts anew.
                self.forget(&job);
                Err(failure)
            }
        }
    }

    /// The job that fills this volume.
    pub fn get(&self, group_name: &str, name: &VolumeName) -> Option<Arc<RestoreJob>> {
        let key = (group_name.to_owned(), name.clone());
        self.jobs().get(&key).cloned()
    }

    /// Cancels the restore of this volume and waits until nothing is left of it; whether there
    /// was one.
    pub async fn cancel_on(&self, group_name: &str, name: &VolumeName) -> bool {
        let Some(job) = self.get(group_name, name) else {
            return false;
        };
        let was_running = !job.is_over();
        job.watched.halt().await;
        self.forget(&job);
        was_running
    }

    /// Cancels every job and waits for their ends.
    pub async fn cancel_all(&self) {
        let all: Vec<_> = self.jobs().values().cloned().collect();
        join_all(all.iter().map(|job| job.watched.halt())).await;
    }

    fn start_or_join(
        self: &Arc<Self>,
        request: CreateVolume,
        source: DataSource,
        store: StoreConfig,
        class: &Class,
        layout: LayoutOptions,
    ) -> Result<Arc<RestoreJob>, Failure> {
        let key = (class.config.volume_group.clone(), request.name.clone());
        let mut jobs = self.jobs();
        if self.stopping.is_cancelled() {
            return Err(Failure::new(Code::Unavailable, "the daemon is stopping"));
        }
        if let Some(job) = jobs.get(&key) {
            if job.is_same(&request, &source) {
                job.credentials.replace(source.store.credentials);
                return Ok(Arc::clone(job));
            }
            if !job.is_over() {
                return Err(Failure::new(
                    Code::AlreadyExists,
                    format!(
                        "name {:?}: a volume of that name is being restored from {}",
                        request.name.as_str(),
                        job.place.backup
                    ),
                ));
            }
        }
        forget_some(&mut jobs, RestoreJob::is_over);
        let access = Access::of(store);
        let job = Arc::new(RestoreJob {
            credentials: access.credentials.downgrade(),
            place: Place::from(&source),
            request,
            class: class.clone(),
            layout,
            watched: Watched::new(),
            changes: self.changes.clone(),
            state: watch::Sender::new(State::Opening),
        });
        jobs.insert(key, Arc::clone(&job));
        self.ledger.begin(Kind::Restore, &job.watched);
        tokio::spawn(Arc::clone(self).run(Arc::clone(&job), access));
        Ok(job)
    }

    async fn run(self: Arc<Self>, job: Arc<RestoreJob>, access: Access) {
        let result = without_panic(job.restore(access, &self.config, &self.turns)).await;
        self.ledger.end(Kind::Restore, &job.watched, &result);
        if result.is_ok() {
            // The volume speaks for itself now.
            self.forget(&job);
        }
        job.state.send_replace(match &result {
            Ok(volume) => State::Done(volume.clone()),
            Err(failure) => State::Failed(failure.clone()),
        });
        self.changes.tell();
        job.watched.end();
        let (volume, backup) = (job.request.name.as_str(), job.place.backup.to_string());
        match result {
            Ok(_) => tracing::info!(volume, backup, "restore complete"),
            Err(failure) => tracing::warn!(volume, backup, error = %failure, "restore failed"),
        }
    }

    fn forget(&self, job: &Arc<RestoreJob>) {
        let key = (
            job.class.config.volume_group.clone(),
            job.request.name.clone(),
        );
        let mut jobs = self.jobs();
        if jobs.get(&key).is_some_and(|known| Arc::ptr_eq(known, job)) {
            jobs.remove(&key);
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<Key, Arc<RestoreJob>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RestoreJob {
    /// Where it is.
    pub fn phase(&self) -> (Phase, String) {
        match &*self.state.borrow() {
            State::Opening => (Phase::Preparing, String::new()),
            State::Running => (Phase::Running, String::new()),
            State::Done(_) => (Phase::Done, String::new()),
            State::Failed(failure) => (Phase::Failed, failure.message.clone()),
        }
    }

    /// The same name, size, backup and passphrase; credentials may have been renewed.
    fn is_same(&self, request: &CreateVolume, source: &DataSource) -> bool {
        self.request.name == request.name
            && self.request.size == request.size
            && self.place == Place::from(source)
    }

    fn is_over(&self) -> bool {
        matches!(*self.state.borrow(), State::Done(_) | State::Failed(_))
    }

    /// The volume as an asynchronous caller is told of it: without a device, for it has none yet.
    fn pending_info(&self) -> VolumeInfo {
        VolumeInfo {
            name: self.request.name.as_str().to_owned(),
            size_bytes: self.request.size.bytes(),
            tags: self.tags(),
            ..VolumeInfo::default()
        }
    }

    fn tags(&self) -> Vec<String> {
        let tags = self.request.tags.iter();
        tags.map(|tag| tag.as_str().to_owned()).collect()
    }

    async fn restore(
        &self,
        access: Access,
        config: &Config,
        turns: &Turns,
    ) -> Result<VolumeInfo, Failure> {
        let Opened {
            repository,
            backup,
            volume,
        } = self
            .watched
            .stop
            .unless_asked(self.open(&access, config))
            .await?;
        if planted::rename_first() {
            let volume = volume.publish().await?;
            let target = Target::from(&volume.path);
            self.fill(config, turns, &repository, &backup, target, pending())
                .await?;
            return Ok((&volume).into());
        }
        let target = Target {
            path: volume.path(),
            ground: planted::ground(volume.ground()),
        };
        self.changes.tell();
        let must_go = volume.must_go();
        let filled = self.fill(config, turns, &repository, &backup, target, must_go);
        match filled.await {
            Ok(()) => Ok((&volume.publish().await?).into()),
            Err(failure) => {
                if let Err(error) = volume.discard().await {
                    tracing::warn!(volume = %self.request.name, %error, "cannot remove an unfinished volume");
                }
                Err(failure)
            }
        }
    }

    /// Opens and checks the backup, then makes the volume.
    async fn open(&self, access: &Access, config: &Config) -> Result<Opened, Failure> {
        let name = &self.request.name;
        if self.class.group.get(name).await?.is_some() {
            return Err(VolumeError::AlreadyExists(name.clone()).into());
        }
        let path = &self.place.backup;
        let store: S3Store = repository::connect(
            config,
            path.repository(),
            &access.store,
            &access.credentials,
            OPEN_PATIENCE,
        )
        .await;
        let passphrase = self.place.encryption_key.as_ref();
        let impatient = open_repository(store.clone(), passphrase, path.name()).await?;
        let backup = Backup::open(&impatient, path.name()).await?;
        self.check_size(backup.volume_bytes()).await?;
        let repository = impatient.through(Arc::new(store.with_patience(JOB_PATIENCE)));
        self.watched.set_store(Arc::clone(repository.store()));
        let volume = self
            .class
            .group
            .create_pending(NewVolume {
                name: name.clone(),
                size_bytes: self.request.size.bytes(),
                tags: self.request.tags.clone(),
                layout: self.layout.clone(),
            })
            .await?;
        Ok(Opened {
            repository,
            backup,
            volume,
        })
    }

    /// Refuses a volume that would be smaller than the backup. What the group rounds up counts: the
    /// backup may be of a volume that came by its size in the same way.
    async fn check_size(&self, backup_bytes: u64) -> Result<(), Failure> {
        let asked_bytes = self.request.size.bytes();
        let group = &self.class.group;
        if asked_bytes >= backup_bytes
            || group.granted_bytes(asked_bytes, &self.layout).await? >= backup_bytes
        {
            return Ok(());
        }
        Err(DatapathError::TooSmall {
            volume_bytes: asked_bytes,
            backup_bytes,
        }
        .into())
    }

    /// Fills the volume when it is its turn, unless the volume has to be discarded before it is full.
    async fn fill(
        &self,
        config: &Config,
        turns: &Turns,
        repository: &Repository,
        backup: &Backup,
        target: Target<'_>,
        must_go: impl Future<Output = String>,
    ) -> Result<(), Failure> {
        self.state.send_replace(State::Running);
        let stop = &self.watched.stop;
        let turn = self.watched.wait_for_turn(turns.restore());
        let turn = async { Ok::<_, Failure>(turn.await) };
        let _turn = stop.unless_asked(turn).await?;
        let settings = repository::settings(&config.datapath);
        let progress = &self.watched.progress;
        self.watched.move_data();
        let mut filled = pin!(restore::run(
            repository, backup, target, &settings, progress, stop
        ));
        tokio::select! {
            biased;
            result = &mut filled => result.map_err(Into::into),
            why = must_go => {
                let is_cancelled = stop.is_asked();
                stop.halt();
                // Then nothing writes to it any more. It may have become whole, or failed for itself.
                match filled.await {
                    Err(DatapathError::Stopped) if !is_cancelled => Err(VolumeError::Full(why).into()),
                    result => result.map_err(Into::into),
                }
            }
        }
    }
}

struct Opened {
    repository: Repository,
    backup: Backup,
    volume: Box<dyn PendingVolume>,
}

/// A missing repository is a missing backup to those who want to restore it.
async fn open_repository(
    store: S3Store,
    passphrase: Option<&Passphrase>,
    backup: &str,
) -> Result<Repository, Failure> {
    match Repository::open(Arc::new(store), passphrase).await {
        Err(DatapathError::NoRepository { repository }) => Err(DatapathError::NoBackup {
            backup: backup.to_owned(),
            repository,
        }
        .into()),
        opened => opened.map_err(Into::into),
    }
}
