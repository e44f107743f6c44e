//! `ringback restore`: to a device or a file by this process, into a new volume by the daemon.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use prost::Message;
use ringback_proto::{
    control::{JobKind, ShowBackupRequest, WatchJobRequest},
    lvmd::{CreateLvRequest, LogicalVolume},
};
use serde_json::json;

use super::{
    Client, Context,
    exit::{CliError, EXIT_CODES, Exit},
    interrupt::{interrupted, unless_interrupted},
    lv, output, path,
    place::{Place, check_order, hint_at_file, refuse_folder, refuse_options},
    progress::{follow, follow_direct},
    stats,
    store::{CREDENTIALS, StoreArgs, WorkArgs},
};
use crate::{
    direct::{self, Watched, restore::Restored, store::Store},
    jobs::Bytes,
};

/// Restore a backup to a device, a file, or a new volume of the daemon.
///
/// A target that begins with /, ./ or ../ is the path of a block device or a regular file: this
/// process writes it by itself. Anything else is the name of a volume, which the daemon at --socket
/// makes.
///
/// A device must not be in use, and a device or a file that holds data is refused without
/// --overwrite. A file appears under its name when it is whole. A device is filled with zeros
/// first; a restore to it that fails leaves it unusable, and says so.
#[derive(Args)]
#[command(after_help = CREDENTIALS, after_long_help = long_help())]
pub(crate) struct Restore {
    /// The backup: s3://bucket/repository/backup-name or file:///repository/backup-name.
    #[arg(value_name = "BACKUP")]
    path: String,
    /// Where to: the path of a device or a file, or the name of a new volume of the daemon.
    #[arg(value_name = "DEVICE|FILE|VOLUME")]
    target: Place,
    /// Write over a device or a file that holds data. What it holds is lost.
    #[arg(long)]
    overwrite: bool,
    /// The size of a file or a volume, such as 10GiB, of a volume in whole GiB; without it the
    /// backup's. What lies behind the backup's end reads as zeros.
    #[arg(long, short, value_parser = lv::parse_size)]
    size: Option<i64>,
    /// Tags to put on a volume.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Device class of a volume; without it the default one.
    #[arg(long, default_value = "", hide_default_value = true)]
    class: String,
    /// Do not wait for a volume: it appears in `lv list` when it can be read correctly.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    work: WorkArgs,
}

fn long_help() -> String {
    format!(
        "Examples:
  ringback restore s3://backups/vms/disk-monday ./disk.img
  ringback restore s3://backups/disks/sdb-monday /dev/sdc
  ringback restore file:///mnt/usb/backups/sdb-monday /dev/sdc
  ringback restore s3://backups/disks/sdb-monday /dev/sdb --overwrite
  ringback restore s3://backups/vg/data-monday data-again     # a volume of the daemon

{CREDENTIALS}

{EXIT_CODES}"
    )
}

impl Restore {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.target.clone() {
            Place::Path(to) => self.run_direct(to, context).await,
            Place::Volume(volume) => {
                check_order(
                    &volume,
                    "restore",
                    "s3://... or file:///... first, then the target",
                )?;
                refuse_folder(&self.path, &volume)?;
                self.ask_daemon(volume, context).await
            }
        }
    }

    async fn run_direct(self, to: PathBuf, context: &Context) -> Result<(), CliError> {
        let given = [
            ("--tag", !self.tags.is_empty()),
            ("--class", !self.class.is_empty()),
            ("--no-wait", self.no_wait),
        ];
        let shown = to.display().to_string();
        refuse_options(&given, &shown, "a volume of the daemon")?;
        let from = path::backup(&self.path)?;
        let way = self.store.way_to(from.repository())?;
        let store = Store::connect(&way, self.work.settings()).await?;
        let watched = Arc::new(Watched::default());
        let request = direct::restore::Request {
            from,
            to,
            overwrite: self.overwrite,
            size_bytes: self.size.map(i64::unsigned_abs),
        };
        let work = async { Ok(direct::restore::run(&store, request, &watched).await?) };
        let work = stats::beside(self.work.stats.as_deref(), &store, &watched, work);
        let followed = follow_direct(context, "restore", &store, &watched, work);
        let interrupted = {
            let watched = Arc::clone(&watched);
            move || {
                if !watched.is_spoiled() {
                    return interrupted();
                }
                let spoiled = direct::restore::spoiled(&shown);
                CliError::new(Exit::Interrupted, format!("interrupted. {spoiled}"))
            }
        };
        let stop = &watched.stop;
        let restored = unless_interrupted(context, &store, stop, interrupted, followed).await?;
        show(context, &restored);
        Ok(())
    }

    async fn ask_daemon(self, volume: String, context: &Context) -> Result<(), CliError> {
        let paths = "the path of a device or a file";
        let given = [
            ("--overwrite", self.overwrite),
            ("--profile", self.store.profile.is_some()),
        ];
        refuse_options(&given, &volume, paths)?;
        refuse_options(&self.work.given(), &volume, paths)?;
        let connected = Client::connect(&context.socket).await;
        let client = connected.map_err(|error| hint_at_file(error, &volume))?;
        let size_gb = match self.size {
            Some(bytes) => whole_gib(bytes)?,
            None => {
                let size_bytes = backup_bytes(&client, &self.store, &self.path).await?;
                size_bytes.div_ceil(1 << 30).max(1)
            }
        };
        let source = self.store.data_source(&self.path, !self.no_wait)?;
        let request = CreateLvRequest {
            name: volume,
            size_gb,
            tags: self.tags,
            device_class: self.class,
            data_source_or_option_class: Some(source.encode_to_vec().into()),
            ..CreateLvRequest::default()
        };
        let volume = restore(&client, request, "restore", context.shows_progress()).await?;
        if context.json {
            output::json(&lv::to_json(&volume));
        } else if !context.quiet {
            let size = Bytes(volume.size_bytes.unsigned_abs());
            output::line(&if self.no_wait {
                format!("{} is being restored", volume.name)
            } else {
                format!("{}: {size} at {}", volume.name, volume.path)
            });
        }
        Ok(())
    }
}

fn show(context: &Context, restored: &Restored) {
    let Restored {
        path,
        target_bytes,
        backup_bytes,
        stored_bytes,
    } = restored;
    if context.json {
        output::json(&json!({
            "path": path.display().to_string(),
            "size_bytes": target_bytes,
            "backup_bytes": backup_bytes,
            "stored_bytes": stored_bytes,
        }));
        return;
    }
    if context.quiet {
        return;
    }
    let rest = if target_bytes > backup_bytes {
        let rest = Bytes(target_bytes - backup_bytes);
        format!("; the {rest} behind it read as zeros")
    } else {
        String::new()
    };
    output::line(&format!(
        "{}: {} restored, {} of it data{rest}",
        path.display(),
        Bytes(*backup_bytes),
        Bytes(*stored_bytes)
    ));
}

fn whole_gib(bytes: i64) -> Result<u64, CliError> {
    let bytes = bytes.unsigned_abs();
    if bytes.is_multiple_of(1 << 30) {
        Ok(bytes >> 30)
    } else {
        Err(CliError::usage(format!(
            "--size is {bytes} bytes; a restored volume's size should be whole GiB"
        )))
    }
}

/// The size of a backup, as the daemon sees it.
async fn backup_bytes(client: &Client, store: &StoreArgs, path: &str) -> Result<u64, CliError> {
    let request = ShowBackupRequest {
        backup: Some(store.s3(path)?),
    };
    let answer = client.clone().own.show_backup(request).await?;
    Ok(answer.into_inner().backup.unwrap_or_default().size_bytes)
}

/// Makes a volume from a backup and shows how far it is meanwhile.
pub(crate) async fn restore(
    client: &Client,
    request: CreateLvRequest,
    label: &str,
    shows_progress: bool,
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
        let _ = follow(client, job, label, shows_progress).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = call => Ok(answer?.into_inner().volume.unwrap_or_default()),
        () = shown => unreachable!("pending for ever"),
    }
}
