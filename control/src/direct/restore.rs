//! A restore to a path.

use std::{path::PathBuf, sync::Arc};

use ringback_datapath::{
    repository::Repository,
    restore::{self, Backup},
    store::url::BackupUrl,
};
use tonic::Code;

use super::{
    Watched, blocking,
    store::Store,
    target::{DeviceTarget, FileTarget, Target},
};
use crate::failure::Failure;

/// What to restore, and where to.
#[derive(Debug, Clone)]
pub struct Request {
    /// The backup.
    pub from: BackupUrl,
    /// A block device, or a file that may not be there yet.
    pub to: PathBuf,
    /// Whether a target that holds data is written over.
    pub overwrite: bool,
    /// Size of the file; `None`: the backup's.
    pub size_bytes: Option<u64>,
}

/// A restore that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The target, links followed.
    pub path: PathBuf,
    /// Its size. What lies behind the backup's end reads as zeros.
    pub target_bytes: u64,
    /// The size of the backup's volume.
    pub backup_bytes: u64,
    /// Bytes that were written.
    pub stored_bytes: u64,
}

/// A backup whose target may be written to.
struct Opened {
    repository: Repository,
    backup: Backup,
}

/// Restores a backup; when this returns, the target holds it and is durable.
pub async fn run(store: &Store, request: Request, watched: &Watched) -> Result<Restored, Failure> {
    let (path, overwrite) = (request.to, request.overwrite);
    let target = blocking(move || Target::judge(&path, overwrite)).await?;
    if let (Target::Device(device), Some(_)) = (&target, request.size_bytes) {
        let message = format!(
            "--size is the size of a file; the device {} has its own",
            device.path.display()
        );
        return Err(Failure::new(Code::InvalidArgument, message));
    }
    let (repository, log) = watched.stop.unless_asked(store.open()).await?;
    let name = request.from.name();
    let committed = log.find(name).ok_or_else(|| {
        let repository = repository.store().describe();
        Failure::new(
            Code::NotFound,
            format!("there is no backup {name:?} in {repository}"),
        )
    })?;
    let backup = Backup::read(&repository, committed).await?;
    let opened = Opened { repository, backup };
    match target {
        Target::Device(device) => opened.onto_device(store, device, watched).await,
        Target::File(file) => {
            opened
                .onto_file(store, file, request.size_bytes, watched)
                .await
        }
    }
}

impl Opened {
    async fn onto_device(
        self,
        store: &Store,
        device: DeviceTarget,
        watched: &Watched,
    ) -> Result<Restored, Failure> {
        let (path, bytes) = (device.path.clone(), device.bytes);
        self.check_size(bytes, &format!("the device {}", path.display()))?;
        watched.set_spoiled(true);
        let restored = self.fill_device(store, device, watched).await;
        restored.map_err(|failure| {
            let told = format!("{failure}. {}", spoiled(&path.display().to_string()));
            Failure::new(failure.code, told)
        })?;
        watched.set_spoiled(false);
        Ok(self.restored(path, bytes))
    }

    async fn fill_device(
        &self,
        store: &Store,
        device: DeviceTarget,
        watched: &Watched,
    ) -> Result<(), Failure> {
        let path = device.path.clone();
        let (zeroing, stop) = (Arc::clone(&watched.zeroing), watched.stop.clone());
        // It comes back, so that the device is ours until all is written.
        let zeroed = blocking(move || device.zero(&zeroing, &stop).map(|ground| (device, ground)));
        let (device, ground) = zeroed.await?;
        let target = restore::Target {
            path: &path,
            ground,
        };
        self.write(store, target, watched).await?;
        drop(device);
        Ok(())
    }

    async fn onto_file(
        self,
        store: &Store,
        file: FileTarget,
        size_bytes: Option<u64>,
        watched: &Watched,
    ) -> Result<Restored, Failure> {
        let (path, stored_bytes) = (file.path.clone(), self.backup.stored_bytes());
        let bytes = match size_bytes {
            Some(bytes) => bytes,
            None => self.backup.volume_bytes().max(file.made_bytes),
        };
        self.check_size(bytes, "the file that --size asks for")?;
        let unfinished = blocking(move || file.begin(bytes, stored_bytes)).await?;
        self.write(store, unfinished.path().into(), watched).await?;
        blocking(|| unfinished.publish()).await?;
        Ok(self.restored(path, bytes))
    }

    fn check_size(&self, bytes: u64, target: &str) -> Result<(), Failure> {
        let backup_bytes = self.backup.volume_bytes();
        if bytes >= backup_bytes {
            return Ok(());
        }
        let message = format!(
            "{target} has {bytes} bytes, the backup {backup_bytes}; it must be as large. Nothing \
             was written"
        );
        Err(Failure::new(Code::OutOfRange, message))
    }

    async fn write(
        &self,
        store: &Store,
        target: restore::Target<'_>,
        watched: &Watched,
    ) -> Result<(), Failure> {
        let settings = store.settings();
        let progress = &watched.progress;
        let Self { repository, backup } = self;
        let stop = &watched.stop;
        restore::run(repository, backup, target, &settings, progress, stop).await?;
        Ok(())
    }

    fn restored(&self, path: PathBuf, target_bytes: u64) -> Restored {
        Restored {
            path,
            target_bytes,
            backup_bytes: self.backup.volume_bytes(),
            stored_bytes: self.backup.stored_bytes(),
        }
    }
}

/// What to tell of a device that holds part of a backup.
pub fn spoiled(device: &str) -> String {
    format!(
        "{device} now holds neither what it held nor the backup, and must not be used: restore to \
         it again, with --overwrite"
    )
}
