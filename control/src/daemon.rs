//! What the daemon does with a request that has been read and checked. It knows no gRPC but the
//! codes, and no dialects.

use std::sync::Arc;

use ringback_datapath::{
    crypt::Passphrase,
    log::{Committed, Log},
    repository::Repository,
    store::{
        SharedCredentials,
        location::{BackupPath, RepositoryPath, StoreConfig},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    config::Config,
    failure::Failure,
    groups::{Class, Groups},
    jobs::{
        OPEN_PATIENCE, backup::BackupJobs, ledger::Ledger, repository, restore::RestoreJobs,
        turns::Turns,
    },
    names::VolumeName,
    request::{
        ClassRef, CreateSnapshot, CreateVolume, RemoveVolume, ResizeVolume, ShrinkRule, VolumeInfo,
        VolumeSize,
    },
    rooms::Rooms,
    volume::{self, Changes, NewSnapshot, NewVolume, Volume},
};

/// A running daemon, apart from its socket.
pub struct Daemon {
    /// The device classes and their groups.
    pub groups: Arc<Groups>,
    /// Backups.
    pub backups: BackupJobs,
    /// Restores.
    pub restores: Arc<RestoreJobs>,
    /// What all jobs did.
    pub ledger: Arc<Ledger>,
    /// The room of all classes.
    pub rooms: Rooms,
    config: Arc<Config>,
    changes: Changes,
    stopping: CancellationToken,
}

impl Daemon {
    /// Opens the groups.
    pub async fn open(config: Config) -> Result<Self, Failure> {
        let changes = Changes::default();
        let groups = Arc::new(Groups::open(&config, &changes).await?);
        let config = Arc::new(config);
        let turns = Arc::new(Turns::new(&config.datapath));
        let ledger = Arc::default();
        let stopping = CancellationToken::new();
        Ok(Self {
            backups: BackupJobs::new(&config, &groups, &turns, &ledger, &changes, &stopping),
            restores: Arc::new(RestoreJobs::new(
                &config, &turns, &ledger, &changes, &stopping,
            )),
            rooms: Rooms::of(&groups),
            groups,
            ledger,
            config,
            changes,
            stopping,
        })
    }

    /// Makes a volume, empty or from a backup.
    pub async fn create(&self, mut request: CreateVolume) -> Result<VolumeInfo, Failure> {
        let class = self.groups.class(&request.device_class)?;
        class.check_name(&request.name)?;
        let layout = class.layout(&self.config, request.option_class.as_deref())?;
        if let Some(source) = request.source.take() {
            return self.restores.create(request, source, class, layout).await;
        }
        let created = class
            .group
            .create(NewVolume {
                name: request.name,
                size_bytes: request.size.bytes(),
                tags: request.tags,
                layout,
            })
            .await?;
        self.changes.tell();
        Ok((&created).into())
    }

    /// Removes a volume, or a restore before it became one.
    pub async fn remove(&self, request: &RemoveVolume) -> Result<(), Failure> {
        let class = self.groups.class(&request.device_class)?;
        let group_name = &class.config.volume_group;
        let was_restoring = self.restores.cancel_on(group_name, &request.name).await;
        self.backups.cancel_on(group_name, &request.name).await;
        match class.group.remove(&request.name).await {
            Err(volume::Error::NotFound(_)) if was_restoring => {}
            removed => removed?,
        }
        self.changes.tell();
        Ok(())
    }

    /// Grows a volume; its size then.
    pub async fn resize(&self, request: &ResizeVolume) -> Result<u64, Failure> {
        let class = self.groups.class(&request.device_class)?;
        let volume = existing(class, &request.name).await?;
        let wanted = request.size.bytes();
        if wanted <= volume.size_bytes {
            return large_enough(request, volume.size_bytes);
        }
        match self.grow(class, &request.name, wanted).await {
            Ok(grown) => {
                self.changes.tell();
                Ok(grown.size_bytes)
            }
            // Another call was faster.
            Err(volume::Error::TooSmall { size_bytes, .. }) => large_enough(request, size_bytes),
            Err(error) => Err(error.into()),
        }
    }

    /// Where a volume cannot grow during a backup, the backup is waited for.
    async fn grow(
        &self,
        class: &Class,
        name: &VolumeName,
        size_bytes: u64,
    ) -> Result<Volume, volume::Error> {
        loop {
            match class.group.resize(name, size_bytes).await {
                Err(volume::Error::BeingBackedUp(_))
                    if self.backups.end_on(&class.config.volume_group, name).await => {}
                resized => return resized,
            }
        }
    }

    /// Makes a snapshot that is a volume of its own.
    pub async fn snapshot(&self, request: CreateSnapshot) -> Result<VolumeInfo, Failure> {
        let class = self.groups.class(&request.device_class)?;
        class.group.require_snapshots()?;
        class.check_name(&request.name)?;
        let source = existing(class, &request.source).await?;
        let size_bytes = request.size.map(VolumeSize::bytes);
        if let Some(size_bytes) = size_bytes.filter(|it| *it < source.size_bytes) {
            return Err(Failure::new(
                Code::OutOfRange,
                format!(
                    "size_bytes is {size_bytes} and the source {} has {}; a snapshot is at least \
                     as large",
                    request.source, source.size_bytes
                ),
            ));
        }
        let snapshot = class
            .group
            .snapshot(NewSnapshot {
                name: request.name,
                source: request.source,
                size_bytes,
                tags: request.tags,
                writable: request.writable,
            })
            .await?;
        self.changes.tell();
        Ok((&snapshot).into())
    }

    /// The volumes of a class that can be read correctly.
    pub async fn list(&self, class: &ClassRef) -> Result<Vec<VolumeInfo>, Failure> {
        let class = self.groups.class(class)?;
        let volumes = class.group.list().await?;
        Ok(volumes.iter().map(Into::into).collect())
    }

    /// Free bytes of a class.
    pub async fn free_bytes(&self, class: &ClassRef) -> Result<u64, Failure> {
        let class = self.groups.class(class)?;
        Ok(class.free_bytes(&class.group.free_soon().await?))
    }

    /// Tells when anything changed that `rooms` show.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The backups of a repository, in the order of their commits.
    pub async fn backups_in(
        &self,
        path: &RepositoryPath,
        store: &StoreConfig,
        passphrase: Option<&Passphrase>,
    ) -> Result<Vec<Committed>, Failure> {
        let store = repository::admit(&self.config, store)?;
        let credentials = SharedCredentials::new(store.credentials.clone());
        let asked = async {
            let store =
                repository::connect(&self.config, path, &store, &credentials, OPEN_PATIENCE).await;
            let repository = Repository::open(Arc::new(store), passphrase).await?;
            Ok(Log::replay(&repository).await?.commits().to_vec())
        };
        tokio::select! {
            () = self.stopping.cancelled() => {
                Err(Failure::new(Code::Unavailable, "the daemon is stopping"))
            }
            answer = asked => answer,
        }
    }

    /// One backup.
    pub async fn backup_at(
        &self,
        path: &BackupPath,
        store: &StoreConfig,
        passphrase: Option<&Passphrase>,
    ) -> Result<Committed, Failure> {
        let all = self
            .backups_in(path.repository(), store, passphrase)
            .await?;
        let found = all.into_iter().find(|it| it.commit.name == path.name());
        found.ok_or_else(|| {
            Failure::new(
                Code::NotFound,
                format!(
                    "there is no backup {:?} in {}",
                    path.name(),
                    path.repository()
                ),
            )
        })
    }

    /// Resolves when the daemon is told to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Ends Watch streams and jobs; when it returns, no job runs. Backups are brought to a point
    /// that they can be gone on with from; half a restore is of no use to anybody.
    pub async fn stop(&self) {
        self.stopping.cancel();
        tokio::join!(self.backups.wind_up(), self.restores.cancel_all());
    }
}

/// The answer where a volume has at least what was asked for.
fn large_enough(request: &ResizeVolume, size_bytes: u64) -> Result<u64, Failure> {
    let wanted = request.size.bytes();
    match request.shrink {
        ShrinkRule::Keep => Ok(size_bytes),
        ShrinkRule::Refuse if wanted == size_bytes => Ok(wanted),
        ShrinkRule::Refuse => Err(Failure::new(
            Code::OutOfRange,
            format!(
                "size_gb asks for {wanted} bytes and volume {} has {size_bytes}; volumes only grow",
                request.name
            ),
        )),
    }
}

async fn existing(class: &Class, name: &VolumeName) -> Result<Volume, Failure> {
    let found = class.group.get(name).await?;
    found.ok_or_else(|| volume::Error::NotFound(name.clone()).into())
}
