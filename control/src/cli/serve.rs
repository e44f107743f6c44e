//! `ringback serve`: the daemon, as configured or as a playground.

use std::{
    fs,
    future::{Future, pending},
    path::PathBuf,
    pin::pin,
    sync::Arc,
};

use clap::Args;
use nix::sys::{
    signal::Signal,
    stat::{Mode, umask},
};
use ringback_endpoint::{Backing, Endpoint, Options};
use tokio::signal::unix::{SignalKind, signal};

use super::{exit::CliError, output};
use crate::{
    config::{self, Config, DeviceClass},
    daemon::Daemon,
    metrics,
    serve::{Socket, serve},
    service_manager,
};

const BUCKET: &str = "backups";
const METRICS_ADDRESS: &str = ":8080";
const SOCKET: &str = "lvmd.sock";

/// Run the daemon.
#[derive(Args)]
pub(crate) struct Serve {
    /// The configuration file.
    #[arg(long, default_value = "/etc/topolvm/lvmd.yaml", conflicts_with = "dev")]
    config: PathBuf,

    /// Keep a playground in this folder: volumes, an S3 endpoint, a socket; prints commands to
    /// try.
    #[arg(long, value_name = "DIR")]
    dev: Option<PathBuf>,

    /// Where to answer GET /metrics: [HOST]:PORT, port 0 for any, or empty or 0 for nowhere.
    /// By default :8080, and nowhere with --dev.
    #[arg(long, value_name = "ADDRESS", env = "RINGBACK_METRICS_BIND_ADDRESS")]
    metrics_bind_address: Option<String>,
}

impl Serve {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        match self.dev {
            Some(folder) => {
                let address = self.metrics_bind_address.unwrap_or_default();
                run_playground(folder, &address).await
            }
            None => {
                let config = Config::load(&self.config).map_err(sentence)?;
                let address = self.metrics_bind_address;
                let address = address.as_deref().unwrap_or(METRICS_ADDRESS);
                run_daemon(config, address).await.map(drop)
            }
        }
    }
}

fn sentence(error: impl std::fmt::Display) -> CliError {
    CliError::failed(error.to_string())
}

/// Runs the daemon until it is told to stop; the daemon then, if it has come so far.
async fn run_daemon(
    config: Config,
    metrics_address: &str,
) -> Result<Option<Arc<Daemon>>, CliError> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // Before there is a socket, for a signal then would leave it behind.
    let mut stop = pin!(told_to_stop());
    let socket = Socket::bind(&config.socket_name).map_err(sentence)?;
    tracing::info!(socket = %config.socket_name.display(), "serving");
    let metrics = metrics::Listener::bind(metrics_address).await;
    let metrics = metrics.map_err(sentence)?;
    // Folders are opened soon, and what is attached by that is to be detached.
    let is_lvm = |it: &DeviceClass| !matches!(it.backing, config::Backing::Directory { .. });
    let may_take_long = config.device_classes.iter().any(is_lvm);
    let daemon = tokio::select! {
        biased;
        () = &mut stop, if may_take_long => {
            // A command of LVM that it waits for goes on, and the next start waits for that.
            tracing::info!("stopping before the volume groups have answered");
            return Ok(None);
        }
        opened = Daemon::open(config) => Arc::new(opened.map_err(sentence)?),
    };
    let _metrics = metrics.map(|listener| listener.serve(&daemon));
    service_manager::tell("READY=1");
    let stop = async {
        stop.await;
        service_manager::tell("STOPPING=1");
    };
    serve(Arc::clone(&daemon), socket, stop)
        .await
        .map_err(sentence)?;
    Ok(Some(daemon))
}

/// Resolves on SIGTERM, SIGINT or SIGHUP, also on one that came since the call: from then on none of them
/// ends the process by itself. SIGHUP, a terminal's last word, is ignored where the caller wants that (nohup).
pub(crate) fn told_to_stop() -> impl Future<Output = ()> {
    let told = told_by_somebody();
    let mut hangup =
        (!ignores_hangup()).then(|| signal(SignalKind::hangup()).expect("SIGHUP can be handled"));
    let hung_up = async move {
        match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => pending().await,
        }
    };
    async move {
        tokio::select! {
            () = told => {}
            _ = hung_up => {}
        }
    }
}

/// The same for SIGTERM and SIGINT alone. A terminal has several last words: its shell's, and the kernel's.
pub(crate) fn told_by_somebody() -> impl Future<Output = ()> {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
    async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (Signal::SIGHUP as u32 - 1) != 0)
}

/// Volumes and backups are parts of disks: files that are made from now on are for their owner alone.
pub(super) fn keep_to_ourselves() {
    umask(Mode::from_bits_truncate(0o077));
}

async fn run_playground(folder: PathBuf, metrics_address: &str) -> Result<(), CliError> {
    keep_to_ourselves();
    let folder = std::path::absolute(folder).map_err(sentence)?;
    fs::create_dir_all(&folder).map_err(|error| {
        CliError::failed(format!(
            "cannot make the folder {}: {error}",
            folder.display()
        ))
    })?;
    let endpoint = Endpoint::start(Options {
        buckets: vec![BUCKET.to_owned()],
        backing: Backing::Folder(folder.join("s3")),
        ..Options::default()
    })
    .await
    .map_err(sentence)?;
    let config = playground_config(&folder)?;
    print_instructions(&config, &endpoint);
    if let Some(daemon) = run_daemon(config, metrics_address).await? {
        daemon.groups.detach_all().await.map_err(sentence)?;
    }
    endpoint.shutdown().await;
    Ok(())
}

/// One Directory class in the folder, all its room given away.
pub(super) fn playground_config(folder: &std::path::Path) -> Result<Config, CliError> {
    let quoted = |path: PathBuf| serde_json::Value::from(path.display().to_string());
    Config::parse(&format!(
        "socket-name: {}\n\
         s3: {{ region: us-east-1 }}\n\
         datapath: {{ cache-directory: {} }}\n\
         device-classes:\n\
         - name: dev\n\
         \x20 default: true\n\
         \x20 spare-gb: 0\n\
         \x20 directory: {}\n",
        quoted(folder.join(SOCKET)),
        quoted(folder.join("cache")),
        quoted(folder.join("volumes")),
    ))
    .map_err(sentence)
}

fn print_instructions(config: &Config, endpoint: &Endpoint) {
    let url = endpoint.url();
    output::line(&format!(
        "A daemon with volumes, and an S3 endpoint, until Ctrl-C. In another terminal:\n\n  \
         export RINGBACK_SOCKET={}\n  \
         export AWS_ENDPOINT_URL_S3={url}\n  \
         export AWS_ACCESS_KEY_ID={}\n  \
         export AWS_SECRET_ACCESS_KEY={}\n\n  \
         ringback lv create data --size 1GiB\n  \
         ringback lv list\n  \
         ringback backup data s3://{BUCKET}/repo/monday\n  \
         ringback list s3://{BUCKET}/repo\n  \
         ringback restore s3://{BUCKET}/repo/monday data-again\n  \
         ringback show s3://{BUCKET}/repo/monday\n",
        shell_word(&config.socket_name.display().to_string()),
        endpoint.access_key_id(),
        endpoint.secret_access_key(),
    ));
}

/// The text as a shell reads it as one word.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
