//! `ringback backup`: of a device or a file by this process, of a volume by the daemon.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use ringback_datapath::{codec::Compression, store::url::BackupUrl};
use ringback_proto::{
    control::{JobKind, WatchJobRequest},
    lvmd::{self, CreateBackupRequest, StateType},
};
use serde_json::json;

use super::{
    Client, Context,
    cache::CacheArgs,
    exit::{CliError, EXIT_CODES, Exit},
    interrupt::{interrupted, unless_interrupted},
    list, output, path,
    place::{Place, check_order, hint_at_path, refuse_folder, refuse_options},
    progress::{follow, follow_direct},
    stats,
    store::{CREDENTIALS, StoreArgs, WorkArgs},
};
use crate::{
    config::DatapathSettings,
    direct::{self, Motion, Watched, store::Store},
    jobs::backup::summary::describe_commit,
};

/// Between two polls where no job can be followed.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Back up a device, a file, or a volume of the daemon to S3 or, without the daemon, to a folder.
///
/// What begins with /, ./ or ../ is the path of a block device or a regular file: this process
/// backs it up by itself. Anything else is a volume, lv or vg/lv, of the daemon at --socket, which
/// takes a snapshot of it first.
///
/// A device or a file must stand still while it is read: one that is mounted, or part of another
/// device, or open for writing, is refused without --live.
#[derive(Args)]
#[command(after_help = CREDENTIALS, after_long_help = long_help())]
pub(crate) struct Backup {
    /// What to back up: the path of a device or a file, or a volume of the daemon.
    #[arg(value_name = "DEVICE|FILE|VOLUME")]
    source: Place,
    /// Where to: s3://bucket/repository/backup-name, or file:///repository/backup-name in a folder
    /// that is there. All before the last / is the repository, whose backups share data.
    #[arg(value_name = "BACKUP")]
    path: String,
    /// Name to ask for the backup by; without it the last component of the path.
    #[arg(long)]
    name: Option<String>,
    /// Back up a path that is in use. Its backup may be torn: parts of it older than others.
    #[arg(long)]
    live: bool,
    /// What the volume at a path is called in the backup; without it the path.
    #[arg(long, value_name = "NAME")]
    handle: Option<String>,
    /// What the volume at a path is, so that a backup finds the one before it; without it what the
    /// host says of the device or the file. Give it for snapshots, which are new devices each time.
    #[arg(long, value_name = "ID")]
    identity: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// How hard to compress what is new: auto, none, lz4, or zstd-1 (fast) to zstd-19 (small). auto
    /// compresses harder while the store is slow, and lightly or not at all while the processors
    /// are [default: auto]
    #[arg(long, value_name = "HOW", help_heading = "Work")]
    compression: Option<Compression>,
}

fn long_help() -> String {
    format!(
        "Examples:
  ringback backup ./disk.img s3://backups/vms/disk-monday
  ringback backup /dev/sdb s3://backups/disks/sdb-monday
  ringback backup /dev/sdb file:///mnt/usb/backups/sdb-monday

  # A logical volume that is in use: of a snapshot, as one volume each time.
  lvcreate --snapshot --name data-snap --size 5G vg/data
  ringback backup /dev/vg/data-snap s3://backups/vg/data-monday \\
      --handle vg/data --identity vg/data
  lvremove --yes vg/data-snap

  # By the daemon, which takes the snapshot.
  ringback backup vg/data s3://backups/vg/data-monday

{CREDENTIALS}

{EXIT_CODES}"
    )
}

impl Backup {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.source.clone() {
            Place::Path(from) => self.run_direct(from, context).await,
            Place::Volume(volume) => {
                check_order(
                    &volume,
                    "backup",
                    "what to back up first, then s3://... or file:///...",
                )?;
                refuse_folder(&self.path, &volume)?;
                let asked = self.ask_daemon(volume.clone(), context).await;
                asked.map_err(|error| hint_at_path(error, &volume))
            }
        }
    }

    async fn run_direct(self, from: PathBuf, context: &Context) -> Result<(), CliError> {
        let to = path::backup(&self.path)?;
        let settings = DatapathSettings {
            compression: self.compression.unwrap_or_default(),
            index_cache: self.cache.settings()?,
            ..self.work.settings()
        };
        let way = self.store.way_to(to.repository())?;
        let store = Store::connect(&way, settings).await?;
        let watched = Watched::default();
        let request = direct::backup::Request {
            from,
            to: to.clone(),
            name: self.name,
            handle: self.handle,
            identity: self.identity,
            motion: if self.live {
                Motion::Accept
            } else {
                Motion::Refuse
            },
        };
        let work = async { Ok(direct::backup::run(&store, request, &watched).await?) };
        let work = stats::beside(self.work.stats.as_deref(), &store, &watched, work);
        let shown = follow_direct(context, "backup", &store, &watched, work);
        let made = unless_interrupted(context, &store, &watched.stop, interrupted, shown).await?;
        show(context, &to, &made);
        Ok(())
    }

    async fn ask_daemon(self, volume: String, context: &Context) -> Result<(), CliError> {
        let paths = "the path of a device or a file";
        let given = [
            ("--live", self.live),
            ("--handle", self.handle.is_some()),
            ("--identity", self.identity.is_some()),
            ("--profile", self.store.profile.is_some()),
            ("--compression", self.compression.is_some()),
        ];
        refuse_options(&given, &volume, paths)?;
        refuse_options(&self.work.given(), &volume, paths)?;
        refuse_options(&self.cache.given(), &volume, paths)?;
        let client = Client::connect(&context.socket).await?;
        let name = self.name.unwrap_or_else(|| last_component(&self.path));
        let request = lvmd::Backup {
            name: name.clone(),
            volume_handle: volume,
            data_source: Some(self.store.data_source(&self.path, true)?),
        };
        let message = back_up(&client, request, "backup", context.shows_progress()).await?;
        if context.json {
            output::json(&json!({ "name": name, "path": self.path, "message": message }));
        } else if !context.quiet {
            output::line(&format!("{}: {message}", self.path));
        }
        Ok(())
    }
}

fn show(context: &Context, to: &BackupUrl, made: &direct::backup::Made) {
    let message = describe_commit(&made.committed.commit);
    if context.json {
        output::json(&json!({
            "name": made.committed.commit.name,
            "path": to.to_string(),
            "message": message,
            "warnings": made.warnings,
            "backup": list::to_json(&made.committed),
        }));
        return;
    }
    for warning in &made.warnings {
        output::note(&format!("ringback: {warning}"));
    }
    if !context.quiet {
        output::line(&format!("{to}: {message}"));
    }
}

/// Starts a backup by the daemon and follows it to its end; its summary.
pub(crate) async fn back_up(
    client: &Client,
    backup: lvmd::Backup,
    label: &str,
    shows_progress: bool,
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
            StateType::Error => return Err(CliError::new(Exit::Failed, state.msg)),
            StateType::Inprogress if is_followed => tokio::time::sleep(POLL_INTERVAL).await,
            StateType::Inprogress => {
                let job = WatchJobRequest {
                    kind: JobKind::Backup.into(),
                    name: name.clone(),
                    device_class: String::new(),
                };
                follow(client, job, label, shows_progress).await?;
                is_followed = true;
            }
        }
    }
}

fn last_component(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}
