//! `ringback backup`, `restore`, `list` and `show`.

use std::time::Duration;

use clap::Args;
use prost::Message;
use ringback_proto::{
    control::{BackupInfo, JobKind, ListBackupsRequest, ShowBackupRequest, WatchJobRequest},
    lvmd::{self, CreateBackupRequest, CreateLvRequest, LogicalVolume, StateType},
};
use serde_json::{Value, json};

use super::{CliError, Client, Context, follow, lv, output, store::StoreArgs};
use crate::jobs::Bytes;

/// Between two polls where no job can be followed.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Back a volume up to S3.
#[derive(Args)]
pub(crate) struct Backup {
    /// The volume: lv or vg/lv.
    volume: String,
    /// Where to: s3://bucket/repository/backup-name.
    path: String,
    /// Name to ask for the backup by; without it the last component of the path.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

impl Backup {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let client = Client::connect(&context.socket).await?;
        let name = self.name.unwrap_or_else(|| last_component(&self.path));
        let request = lvmd::Backup {
            name: name.clone(),
            volume_handle: self.volume,
            data_source: Some(self.store.data_source(&self.path, true)),
        };
        let message = back_up(&client, request, "backup").await?;
        if context.json {
            output::json(&json!({ "name": name, "path": self.path, "message": message }));
        } else {
            output::line(&format!("{}: {message}", self.path));
        }
        Ok(())
    }
}

/// Starts a backup and follows it to its end; its summary.
pub(crate) async fn back_up(
    client: &Client,
    backup: lvmd::Backup,
    label: &str,
) -> Result<String, CliError> {
    let name = backup.name.clone();
    let request = CreateBackupRequest {
        backup: Some(backup),
    };
    let mut is_followed = false;
    loop {
        let answer = client.clone().lv.create_backup(request.clone()).await?;
        let state = answer.into_inner().backup_state.unwrap_or_default();
        match state.state() {
            StateType::Complete => return Ok(state.msg),
            StateType::Error => return Err(CliError(state.msg)),
            StateType::Inprogress if is_followed => tokio::time::sleep(POLL_INTERVAL).await,
            StateType::Inprogress => {
                let job = WatchJobRequest {
                    kind: JobKind::Backup.into(),
                    name: name.clone(),
                    device_class: String::new(),
                };
                follow(client, job, label).await?;
                is_followed = true;
            }
        }
    }
}

/// Make a volume that holds a backup.
#[derive(Args)]
pub(crate) struct Restore {
    /// The backup: s3://bucket/repository/backup-name.
    path: String,
    /// The new volume's name.
    volume: String,
    /// Its size in whole GiB, such as 10GiB; without it the backup's, rounded up.
    #[arg(long, short, value_parser = lv::parse_size)]
    size: Option<i64>,
    /// Tags to put on it.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Device class; without it the default one.
    #[arg(long, default_value = "", hide_default_value = true)]
    class: String,
    /// Do not wait: the volume appears in `lv list` when it can be read correctly.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl Restore {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let client = Client::connect(&context.socket).await?;
        let size_gb = match self.size {
            Some(bytes) => whole_gib(bytes)?,
            None => {
                let info = show_backup(&client, &self.store, &self.path).await?;
                info.size_bytes.div_ceil(1 << 30).max(1)
            }
        };
        let source = self.store.data_source(&self.path, !self.no_wait);
        let request = CreateLvRequest {
            name: self.volume,
            size_gb,
            tags: self.tags,
            device_class: self.class,
            data_source_or_option_class: Some(source.encode_to_vec().into()),
            ..CreateLvRequest::default()
        };
        let volume = restore(&client, request, "restore").await?;
        if context.json {
            output::json(&lv::to_json(&volume));
        } else if self.no_wait {
            output::line(&format!("{} is being restored", volume.name));
        } else {
            let size = Bytes(volume.size_bytes.unsigned_abs());
            output::line(&format!("{}: {size} at {}", volume.name, volume.path));
        }
        Ok(())
    }
}

fn whole_gib(bytes: i64) -> Result<u64, CliError> {
    let bytes = bytes.unsigned_abs();
    if bytes.is_multiple_of(1 << 30) {
        Ok(bytes >> 30)
    } else {
        Err(CliError(format!(
            "--size is {bytes} bytes; a restored volume's size should be whole GiB"
        )))
    }
}

/// Makes a volume from a backup and shows how far it is meanwhile.
pub(crate) async fn restore(
    client: &Client,
    request: CreateLvRequest,
    label: &str,
) -> Result<LogicalVolume, CliError> {
    let job = WatchJobRequest {
        kind: JobKind::Restore.into(),
        name: request.name.clone(),
        device_class: request.device_class.clone(),
    };
    let mut caller = client.clone();
    let call = caller.lv.create_lv(request);
    let shown = async {
        // A restore that fails early, or is very fast, cannot be followed; the call tells all.
        let _ = follow(client, job, label).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = call => Ok(answer?.into_inner().volume.unwrap_or_default()),
        () = shown => unreachable!("pending for ever"),
    }
}

/// List the backups of a repository.
#[derive(Args)]
pub(crate) struct List {
    /// The repository: s3://bucket/repository.
    path: String,
    #[command(flatten)]
    store: StoreArgs,
}

impl List {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut client = Client::connect(&context.socket).await?;
        let request = ListBackupsRequest {
            repository: Some(self.store.s3(&self.path)),
        };
        let backups = client.own.list_backups(request).await?.into_inner().backups;
        if context.json {
            let all: Vec<Value> = backups.iter().map(to_json).collect();
            output::json(&Value::Array(all));
            return Ok(());
        }
        let rows: Vec<[String; 6]> = backups
            .iter()
            .map(|it| {
                let stats = it.stats.unwrap_or_default();
                [
                    it.name.clone(),
                    output::moment(it.created_ms),
                    it.volume_handle.clone(),
                    Bytes(it.size_bytes).to_string(),
                    Bytes(stats.new_bytes).to_string(),
                    Bytes(stats.sent_bytes).to_string(),
                ]
            })
            .collect();
        let heading = ["NAME", "TAKEN", "VOLUME", "SIZE", "NEW", "SENT"];
        output::table(heading, &[3, 4, 5], &rows);
        Ok(())
    }
}

/// Show one backup.
#[derive(Args)]
pub(crate) struct Show {
    /// The backup: s3://bucket/repository/backup-name.
    path: String,
    #[command(flatten)]
    store: StoreArgs,
}

impl Show {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let client = Client::connect(&context.socket).await?;
        let info = show_backup(&client, &self.store, &self.path).await?;
        if context.json {
            output::json(&to_json(&info));
            return Ok(());
        }
        let stats = info.stats.unwrap_or_default();
        for (name, value) in [
            ("name", info.name),
            ("requested as", info.request_name),
            ("volume", info.volume_handle),
            ("identity", info.volume_identity),
            ("taken", output::moment(info.created_ms)),
            ("log slot", info.slot.to_string()),
            ("commit", info.commit_id),
            ("size", Bytes(info.size_bytes).to_string()),
            ("chunk size", Bytes(info.chunk_bytes).to_string()),
            ("new", Bytes(stats.new_bytes).to_string()),
            ("unchanged", Bytes(stats.unchanged_bytes).to_string()),
            ("deduplicated", Bytes(stats.duplicate_bytes).to_string()),
            ("zero", Bytes(stats.zero_bytes).to_string()),
            ("never written", Bytes(stats.hole_bytes).to_string()),
            ("sent", Bytes(stats.sent_bytes).to_string()),
        ] {
            output::line(&format!("{name:>13}  {value}"));
        }
        Ok(())
    }
}

async fn show_backup(
    client: &Client,
    store: &StoreArgs,
    path: &str,
) -> Result<BackupInfo, CliError> {
    let request = ShowBackupRequest {
        backup: Some(store.s3(path)),
    };
    let answer = client.clone().own.show_backup(request).await?;
    Ok(answer.into_inner().backup.unwrap_or_default())
}

fn to_json(info: &BackupInfo) -> Value {
    let stats = info.stats.unwrap_or_default();
    json!({
        "name": info.name,
        "request_name": info.request_name,
        "volume_handle": info.volume_handle,
        "volume_identity": info.volume_identity,
        "slot": info.slot,
        "commit_id": info.commit_id,
        "created_ms": info.created_ms,
        "size_bytes": info.size_bytes,
        "chunk_bytes": info.chunk_bytes,
        "hole_bytes": stats.hole_bytes,
        "zero_bytes": stats.zero_bytes,
        "unchanged_bytes": stats.unchanged_bytes,
        "duplicate_bytes": stats.duplicate_bytes,
        "new_bytes": stats.new_bytes,
        "sent_bytes": stats.sent_bytes,
    })
}

fn last_component(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}
