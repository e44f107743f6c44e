//! `ringback list` and `show`: what a repository holds. They ask the store and no daemon.

use clap::Args;
use ringback_datapath::log::{Committed, Log};
use ringback_datapath::store::url::RepositoryUrl;
use serde_json::{Value, json};
use tonic::Code;

use super::{
    Context,
    exit::{CliError, EXIT_CODES},
    output, path,
    store::{CREDENTIALS, StoreArgs},
};
use crate::{
    config::DatapathSettings,
    direct::store::Store,
    failure::Failure,
    jobs::{Bytes, backup::summary::describe_new},
};

/// List the backups of a repository.
#[derive(Args)]
#[command(after_help = CREDENTIALS, after_long_help = long_help("list s3://backups/vms"))]
pub(crate) struct List {
    /// The repository: s3://bucket/repository or file:///repository.
    #[arg(value_name = "REPOSITORY")]
    path: String,
    #[command(flatten)]
    store: StoreArgs,
}

fn long_help(example: &str) -> String {
    format!("Example:\n  ringback {example}\n\n{CREDENTIALS}\n\n{EXIT_CODES}")
}

async fn log_of(path: &RepositoryUrl, store: &StoreArgs) -> Result<Log, CliError> {
    let store = Store::connect(&store.way_to(path)?, DatapathSettings::default()).await?;
    let (_, log) = store.open().await?;
    Ok(log)
}

impl List {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let path = path::repository(&self.path)?;
        let log = log_of(&path, &self.store).await?;
        if context.json {
            let all: Vec<Value> = log.commits().iter().map(to_json).collect();
            output::json(&Value::Array(all));
            return Ok(());
        }
        let rows: Vec<[String; 6]> = log.commits().iter().map(row).collect();
        let heading = ["NAME", "TAKEN", "VOLUME", "SIZE", "NEW", "SENT"];
        output::table(heading, &[3, 4, 5], &rows);
        Ok(())
    }
}

fn row(backup: &Committed) -> [String; 6] {
    let commit = &backup.commit;
    let stats = commit.statistics.unwrap_or_default();
    [
        commit.name.clone(),
        output::moment(commit.created_ms),
        commit.volume_handle.clone(),
        Bytes(commit.volume_bytes).to_string(),
        Bytes(stats.new_bytes).to_string(),
        Bytes(stats.sent_bytes).to_string(),
    ]
}

/// Show one backup.
#[derive(Args)]
#[command(after_help = CREDENTIALS, after_long_help = long_help("show s3://backups/vms/disk-monday"))]
pub(crate) struct Show {
    /// The backup: s3://bucket/repository/backup-name or file:///repository/backup-name.
    #[arg(value_name = "BACKUP")]
    path: String,
    #[command(flatten)]
    store: StoreArgs,
}

impl Show {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let path = path::backup(&self.path)?;
        let log = log_of(path.repository(), &self.store).await?;
        let backup = log.find(path.name()).ok_or_else(|| {
            let (name, repository) = (path.name(), path.repository());
            let message = format!("there is no backup {name:?} in {repository}");
            Failure::new(Code::NotFound, message)
        })?;
        if context.json {
            output::json(&to_json(backup));
            return Ok(());
        }
        let commit = &backup.commit;
        let stats = commit.statistics.unwrap_or_default();
        for (name, value) in [
            ("name", commit.name.clone()),
            ("requested as", commit.request_name.clone()),
            ("volume", commit.volume_handle.clone()),
            ("identity", commit.volume_identity.clone()),
            ("taken", output::moment(commit.created_ms)),
            ("log slot", backup.slot.to_string()),
            ("commit", hex::encode(&commit.id)),
            ("size", Bytes(commit.volume_bytes).to_string()),
            ("chunk size", Bytes(commit.chunk_bytes.into()).to_string()),
            ("new", describe_new(&stats)),
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

/// A backup as `--json` shows it.
pub(crate) fn to_json(backup: &Committed) -> Value {
    let commit = &backup.commit;
    let stats = commit.statistics.unwrap_or_default();
    json!({
        "name": commit.name,
        "request_name": commit.request_name,
        "volume_handle": commit.volume_handle,
        "volume_identity": commit.volume_identity,
        "slot": backup.slot.0,
        "commit_id": hex::encode(&commit.id),
        "created_ms": commit.created_ms,
        "size_bytes": commit.volume_bytes,
        "chunk_bytes": commit.chunk_bytes,
        "hole_bytes": stats.hole_bytes,
        "zero_bytes": stats.zero_bytes,
        "unchanged_bytes": stats.unchanged_bytes,
        "duplicate_bytes": stats.duplicate_bytes,
        "new_bytes": stats.new_bytes,
        "packed_bytes": stats.packed_bytes,
        "sent_bytes": stats.sent_bytes,
    })
}
