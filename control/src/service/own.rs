//! `ringback.v1.Ringback`: what the command line asks beyond the lvmd protocol.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream};
use ringback_datapath::{
    log::Committed,
    store::location::{BackupPath, RepositoryPath},
};
use ringback_proto::{
    control::{
        BackupInfo, BackupStats, JobKind, JobPhase, JobProgress, ListBackupsRequest,
        ListBackupsResponse, ShowBackupRequest, ShowBackupResponse, WatchJobRequest,
        ringback_server,
    },
    lvmd::data_source::S3,
};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, async_trait};

use super::OwnService;
use crate::{
    daemon::Daemon,
    dialect,
    failure::Failure,
    jobs::{Phase, Watched, backup::BackupJob, restore::RestoreJob},
    names::{Invalid, VolumeName},
    request::ClassRef,
};

/// How often a watcher hears of a running job.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How long a watcher waits for its job to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);

#[async_trait]
impl ringback_server::Ringback for OwnService {
    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Result<Response<ListBackupsResponse>, Status> {
        let s3 = present(request.into_inner().repository, "repository")?;
        let path = RepositoryPath::parse(&s3.path).map_err(|e| invalid(e.into(), "repository"))?;
        let (store, key) = dialect::store(s3).map_err(|e| invalid(e, "repository"))?;
        let backups = self.0.backups_in(&path, &store, key.as_ref()).await?;
        Ok(Response::new(ListBackupsResponse {
            backups: backups.iter().map(info).collect(),
        }))
    }

    async fn show_backup(
        &self,
        request: Request<ShowBackupRequest>,
    ) -> Result<Response<ShowBackupResponse>, Status> {
        let s3 = present(request.into_inner().backup, "backup")?;
        let path = BackupPath::parse(&s3.path).map_err(|e| invalid(e.into(), "backup"))?;
        let (store, key) = dialect::store(s3).map_err(|e| invalid(e, "backup"))?;
        let found = self.0.backup_at(&path, &store, key.as_ref()).await?;
        Ok(Response::new(ShowBackupResponse {
            backup: Some(info(&found)),
        }))
    }

    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<JobProgress, Status>> + Send>>;

    async fn watch_job(
        &self,
        request: Request<WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let job = find(&self.0, &request.into_inner()).await?;
        let states = stream::unfold(Some(job), |job| async move {
            let job = job?;
            tokio::time::sleep(PROGRESS_INTERVAL).await;
            let progress = job.progress();
            let is_over = matches!(progress.phase(), JobPhase::Done | JobPhase::Failed);
            Some((Ok(progress), (!is_over).then_some(job)))
        });
        Ok(Response::new(Box::pin(states)))
    }
}

fn present(s3: Option<S3>, field: &str) -> Result<S3, Status> {
    s3.ok_or_else(|| {
        let absent = Invalid::of_field(field, "is absent; it should say where in S3");
        Failure::from(absent).into()
    })
}

fn invalid(invalid: Invalid, field: &str) -> Status {
    Failure::from(invalid.within(field)).into()
}

fn info(committed: &Committed) -> BackupInfo {
    let commit = &committed.commit;
    let statistics = commit.statistics.unwrap_or_default();
    BackupInfo {
        name: commit.name.clone(),
        request_name: commit.request_name.clone(),
        volume_handle: commit.volume_handle.clone(),
        volume_identity: commit.volume_identity.clone(),
        slot: committed.slot.0,
        commit_id: hex::encode(&commit.id),
        created_ms: commit.created_ms,
        size_bytes: commit.volume_bytes,
        chunk_bytes: commit.chunk_bytes.into(),
        stats: Some(BackupStats {
            hole_bytes: statistics.hole_bytes,
            zero_bytes: statistics.zero_bytes,
            unchanged_bytes: statistics.unchanged_bytes,
            duplicate_bytes: statistics.duplicate_bytes,
            new_bytes: statistics.new_bytes,
            sent_bytes: statistics.sent_bytes,
            packed_bytes: statistics.packed_bytes,
        }),
    }
}

enum Job {
    Backup(Arc<BackupJob>),
    Restore(Arc<RestoreJob>),
}

async fn find(daemon: &Daemon, request: &WatchJobRequest) -> Result<Job, Status> {
    let deadline = Instant::now() + BEGIN_TIMEOUT;
    loop {
        if let Some(job) = find_now(daemon, request)? {
            return Ok(job);
        }
        if Instant::now() >= deadline {
            let absent = format!(
                "no job for {:?} began within {BEGIN_TIMEOUT:?}",
                request.name
            );
            return Err(Failure::new(Code::NotFound, absent).into());
        }
        if daemon.stopping().is_cancelled() {
            return Err(Failure::new(Code::Unavailable, "the daemon is stopping").into());
        }
        tokio::time::sleep(PROGRESS_INTERVAL / 10).await;
    }
}

fn find_now(daemon: &Daemon, request: &WatchJobRequest) -> Result<Option<Job>, Failure> {
    match request.kind() {
        JobKind::Backup => Ok(daemon.backups.get(&request.name).map(Job::Backup)),
        JobKind::Restore => {
            let class = daemon
                .groups
                .class(&ClassRef::from(request.device_class.clone()))?;
            let name = VolumeName::parse(&request.name)?;
            let job = daemon.restores.get(&class.config.volume_group, &name);
            Ok(job.map(Job::Restore))
        }
    }
}

impl Job {
    fn watched(&self) -> &Watched {
        match self {
            Self::Backup(job) => &job.watched,
            Self::Restore(job) => &job.watched,
        }
    }

    fn progress(&self) -> JobProgress {
        let (phase, error) = match self {
            Self::Backup(job) => job.phase(),
            Self::Restore(job) => job.phase(),
        };
        let watched = self.watched();
        let is_copying = phase == Phase::Running && watched.progress.total_bytes() == 0;
        let progress = if is_copying {
            &watched.copying
        } else {
            &watched.progress
        };
        let moved_all =
            progress.total_bytes() > 0 && progress.done_bytes() >= progress.total_bytes();
        let phase = match phase {
            Phase::Preparing => JobPhase::Preparing,
            Phase::Running if is_copying => JobPhase::Preparing,
            Phase::Running if moved_all => JobPhase::Finishing,
            Phase::Running => JobPhase::Running,
            Phase::Done => JobPhase::Done,
            Phase::Failed => JobPhase::Failed,
        };
        JobProgress {
            phase: phase.into(),
            done_bytes: progress.done_bytes(),
            total_bytes: progress.total_bytes(),
            volume_io_bytes: progress.volume_io_bytes(),
            wire_bytes: watched.wire_bytes(),
            elapsed_ms: u64::try_from(watched.moving_for().as_millis()).unwrap_or(u64::MAX),
            error,
            store_trouble: watched.store_trouble().unwrap_or_default(),
        }
    }
}
