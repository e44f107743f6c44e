//! `ringback demo`: the whole way in a temporary place, with the real daemon over real gRPC.
//!
//! Nothing is left behind, whether it ends well, fails or is interrupted.

mod content;
mod report;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use clap::Args;
use prost::Message;
use ringback_endpoint::{Endpoint, Options};
use ringback_proto::{
    control::{BackupInfo, ShowBackupRequest},
    lvmd::{self, CreateLvRequest, LogicalVolume, RemoveLvRequest},
};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::task::TaskTracker;

use self::{
    content::{Content, Hash},
    report::{Report, Step},
};
use super::{
    Client,
    backup::back_up,
    exit::{CliError, Exit},
    interrupt::{end_at_signal, interrupted},
    progress::is_watched,
    restore::restore,
    serve::{keep_to_ourselves, playground_config, told_to_stop},
};
use crate::{
    daemon::Daemon,
    jobs::Bytes,
    serve::{ServeError, Socket, serve},
};

const BUCKET: &str = "demo";
const REPOSITORY: &str = "s3://demo/volumes";
/// Room for the data, and as much again of holes.
const HOLES_FACTOR: u64 = 2;

/// Show the whole way in a temporary place: create, fill, back up, change, restore, compare.
#[derive(Args)]
pub(crate) struct Demo {
    /// How much of this machine's files to fill the volume with, in MiB.
    #[arg(long, default_value_t = 384, value_parser = clap::value_parser!(u64).range(16..=65536))]
    data_mib: u64,
}

impl Demo {
    pub(crate) async fn run(self, json: bool) -> Result<(), CliError> {
        keep_to_ourselves();
        // Before there is anything that an end by the signal itself would leave behind.
        let stop = told_to_stop();
        let stage = Stage::set_up().await?;
        let result = tokio::select! {
            result = perform(&stage, self.data_mib << 20, json) => result,
            () = stop => {
                let folder = stage.folder.path().to_owned();
                end_at_signal(json, move || left_behind(&folder));
                Err(interrupted())
            }
        };
        stage.take_down().await?;
        result
    }
}

/// What a second signal leaves, which waits for nothing.
fn left_behind(folder: &Path) -> CliError {
    let left = folder.display();
    CliError::new(
        Exit::Interrupted,
        format!("interrupted; {left} is left behind"),
    )
}

/// A daemon, a store and a folder for both.
struct Stage {
    folder: TempDir,
    endpoint: Endpoint,
    daemon: Arc<Daemon>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ServeError>>,
    client: Client,
    /// What reads and writes files meanwhile; it cannot be stopped, only waited for.
    work: TaskTracker,
}

impl Stage {
    async fn set_up() -> Result<Self, CliError> {
        let folder = tempfile::Builder::new()
            .prefix("ringback-demo-")
            .tempdir()
            .map_err(sentence)?;
        let endpoint = Endpoint::start(Options {
            buckets: vec![BUCKET.to_owned()],
            ..Options::default()
        })
        .await
        .map_err(sentence)?;
        let config = playground_config(folder.path())?;
        let socket = Socket::bind(&config.socket_name).map_err(sentence)?;
        let socket_path = config.socket_name.clone();
        let daemon = Arc::new(Daemon::open(config).await.map_err(sentence)?);
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(Arc::clone(&daemon), socket, async {
            // Dropped or told, the answer is the same.
            let _ = stopped.await;
        }));
        let client = Client::connect(&socket_path).await?;
        Ok(Self {
            folder,
            endpoint,
            daemon,
            stop,
            server,
            client,
            work: TaskTracker::new(),
        })
    }

    async fn take_down(self) -> Result<(), CliError> {
        self.work.close();
        self.work.wait().await;
        drop(self.client);
        drop(self.stop);
        self.server.await.map_err(sentence)?.map_err(sentence)?;
        self.daemon.groups.detach_all().await.map_err(sentence)?;
        drop(self.daemon);
        self.endpoint.shutdown().await;
        self.folder.close().map_err(sentence)
    }

    /// The store's part of a request: nothing of it is the environment's.
    fn s3(&self, name: &str) -> lvmd::data_source::S3 {
        lvmd::data_source::S3 {
            path: format!("{REPOSITORY}/{name}"),
            endpoint: self.endpoint.url(),
            verify_tls: true,
            access_key_id: self.endpoint.access_key_id().to_owned(),
            secret_access_key: self.endpoint.secret_access_key().to_owned(),
            ..lvmd::data_source::S3::default()
        }
    }

    fn source(&self, name: &str) -> lvmd::DataSource {
        lvmd::DataSource {
            synchronous_restore: true,
            r#type: Some(lvmd::data_source::Type::S3(self.s3(name))),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
    ) -> Result<T, CliError> {
        self.work.spawn_blocking(work).await.map_err(sentence)?
    }

    fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn info(&self, name: &str) -> Result<BackupInfo, CliError> {
        let request = ShowBackupRequest {
            backup: Some(self.s3(name)),
        };
        let answer = self.client.clone().own.show_backup(request).await?;
        Ok(answer.into_inner().backup.unwrap_or_default())
    }

    async fn back_up(&self, volume: &str, name: &str) -> Result<BackupInfo, CliError> {
        let backup = lvmd::Backup {
            name: name.to_owned(),
            volume_handle: volume.to_owned(),
            data_source: Some(self.source(name)),
        };
        back_up(&self.client, backup, name, is_watched()).await?;
        self.info(name).await
    }
}

fn sentence(error: impl std::fmt::Display) -> CliError {
    CliError::failed(error.to_string())
}

async fn perform(stage: &Stage, data_bytes: u64, json: bool) -> Result<(), CliError> {
    let mut report = Report::new(json);
    let volume_gib = (data_bytes * HOLES_FACTOR).div_ceil(1 << 30);
    report.begin(stage.folder.path(), &stage.endpoint.url());

    let volume = create(stage, volume_gib, &mut report).await?;
    let device = PathBuf::from(&volume.path);
    let content = fill(stage, &device, data_bytes, &mut report).await?;
    step_backup(stage, "monday", &mut report).await?;
    change(stage, &content, &device, &mut report).await?;
    step_backup(stage, "tuesday", &mut report).await?;
    let copy = step_restore(stage, "tuesday", volume_gib, &mut report).await?;
    compare(stage, &content, &device, Path::new(&copy.path), &mut report).await?;
    for name in [volume.name, copy.name] {
        let request = RemoveLvRequest {
            name,
            device_class: String::new(),
        };
        stage.client.clone().lv.remove_lv(request).await?;
    }
    report.end();
    Ok(())
}

async fn create(
    stage: &Stage,
    volume_gib: u64,
    report: &mut Report,
) -> Result<LogicalVolume, CliError> {
    let started = Instant::now();
    let request = CreateLvRequest {
        name: "data".to_owned(),
        size_gb: volume_gib,
        ..CreateLvRequest::default()
    };
    let answer = stage.client.clone().lv.create_lv(request).await?;
    let volume = answer.into_inner().volume.unwrap_or_default();
    report.step(&Step {
        what: "create a volume",
        time: started.elapsed(),
        volume_bytes: None,
        wire_bytes: None,
        note: format!("{volume_gib} GiB, thin as a sparse image is"),
    });
    Ok(volume)
}

async fn fill(
    stage: &Stage,
    device: &Path,
    data_bytes: u64,
    report: &mut Report,
) -> Result<Content, CliError> {
    let started = Instant::now();
    let (scratch, device) = (stage.scratch("files"), device.to_owned());
    let (content, written) = stage
        .blocking(move || content::fill(&device, &scratch, data_bytes))
        .await?;
    report.step(&Step {
        what: "fill it",
        time: started.elapsed(),
        volume_bytes: Some(written),
        wire_bytes: None,
        note: content.describe(),
    });
    Ok(content)
}

async fn change(
    stage: &Stage,
    content: &Content,
    device: &Path,
    report: &mut Report,
) -> Result<(), CliError> {
    let started = Instant::now();
    let (moved, device) = (content.clone(), device.to_owned());
    let (written, note) = stage.blocking(move || moved.change(&device)).await?;
    report.step(&Step {
        what: "change a little",
        time: started.elapsed(),
        volume_bytes: Some(written),
        wire_bytes: None,
        note,
    });
    Ok(())
}

async fn step_backup(
    stage: &Stage,
    name: &'static str,
    report: &mut Report,
) -> Result<(), CliError> {
    let wire_before = stage.endpoint.counters().bytes_received;
    let started = Instant::now();
    let info = stage.back_up("data", name).await?;
    let time = started.elapsed();
    let stats = info.stats.unwrap_or_default();
    let parts = [
        (stats.new_bytes, "new"),
        (stats.unchanged_bytes, "unchanged"),
        (stats.duplicate_bytes, "deduplicated"),
        (stats.zero_bytes, "zero"),
    ];
    let note: Vec<String> = parts
        .iter()
        .filter(|(bytes, _)| *bytes > 0)
        .map(|(bytes, what)| format!("{} {what}", Bytes(*bytes)))
        .collect();
    report.step(&Step {
        what: if name == "monday" {
            "back up"
        } else {
            "back up again"
        },
        time,
        volume_bytes: Some(info.size_bytes - stats.hole_bytes),
        wire_bytes: Some(stage.endpoint.counters().bytes_received - wire_before),
        note: note.join(", "),
    });
    Ok(())
}

async fn step_restore(
    stage: &Stage,
    name: &str,
    volume_gib: u64,
    report: &mut Report,
) -> Result<LogicalVolume, CliError> {
    let wire_before = stage.endpoint.counters().bytes_sent;
    let request = CreateLvRequest {
        name: "data-again".to_owned(),
        size_gb: volume_gib,
        data_source_or_option_class: Some(stage.source(name).encode_to_vec().into()),
        ..CreateLvRequest::default()
    };
    let started = Instant::now();
    let volume = restore(&stage.client, request, "restore", is_watched()).await?;
    let time = started.elapsed();
    let stats = stage.info(name).await?.stats.unwrap_or_default();
    report.step(&Step {
        what: "restore",
        time,
        volume_bytes: Some(stats.new_bytes + stats.unchanged_bytes + stats.duplicate_bytes),
        wire_bytes: Some(stage.endpoint.counters().bytes_sent - wire_before),
        note: "into a new volume, every chunk verified".to_owned(),
    });
    Ok(volume)
}

async fn compare(
    stage: &Stage,
    content: &Content,
    left: &Path,
    right: &Path,
    report: &mut Report,
) -> Result<(), CliError> {
    let started = Instant::now();
    let (left, right) = (left.to_owned(), right.to_owned());
    let check = right.clone();
    let (hash, bytes) = stage
        .blocking(move || content::compare(&left, &right))
        .await?;
    let content = content.clone();
    let checked = stage.blocking(move || content.check(&check)).await?;
    let Hash(hash) = hash;
    report.step(&Step {
        what: "compare",
        time: started.elapsed(),
        volume_bytes: Some(bytes),
        wire_bytes: None,
        note: format!("all bytes equal, BLAKE3 {}{checked}", &hash[..16]),
    });
    Ok(())
}
