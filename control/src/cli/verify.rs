//! `ringback verify`: whether backups could be restored.

use clap::Args;
use ringback_datapath::{
    error::Error,
    log::Committed,
    repository::Repository,
    stop::Stop,
    store::{StoreError, folder::FolderTrouble, url::BackupUrl},
    verify::{self, Counts, Depth, Finding, Severity},
};
use serde_json::{Value, json};
use tonic::Code;

use super::{
    Context,
    exit::{CliError, EXIT_CODES, Exit},
    interrupt::{interrupted, unless_interrupted},
    output, path,
    progress::Display,
    store::{CREDENTIALS, StoreArgs, TransferArgs},
};
use crate::{
    config::DatapathSettings,
    direct::store::{Store, Way},
    failure::Failure,
    jobs::Bytes,
};

/// Check that backups can be restored.
///
/// Reads the metadata of one backup, or of all in a repository: the log, roots, trees, ref sets and
/// index segments, and that every pack they name is there and has the chunks that they name. With
/// --data the chunks are read and hashed as well. What is damaged is named, with the bytes of the
/// volumes that cannot be restored for it, or with the copy that they are restored from.
#[derive(Args)]
#[command(after_help = CREDENTIALS, after_long_help = long_help())]
pub(crate) struct Verify {
    /// The repository, or one backup in it: s3://bucket/repository[/backup-name] or
    /// file:///repository[/backup-name].
    #[arg(value_name = "REPOSITORY|BACKUP")]
    path: String,
    #[command(flatten)]
    depth: DepthArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    transfers: TransferArgs,
}

/// How much is read.
#[derive(Args)]
pub(super) struct DepthArgs {
    /// Read and hash every chunk.
    #[arg(long)]
    data: bool,
    /// Read and hash the chunks of so many percent of the packs, others each time.
    #[arg(long, value_name = "N", conflicts_with = "data",
          value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: Option<u8>,
}

impl DepthArgs {
    pub(super) fn percent(&self) -> u8 {
        if self.data {
            100
        } else {
            self.percent.unwrap_or(0)
        }
    }

    pub(super) fn depth(&self) -> Depth {
        match self.percent() {
            0 => Depth::METADATA,
            percent => Depth::with_data(percent),
        }
    }
}

fn long_help() -> String {
    format!(
        "Examples:
  ringback verify s3://backups/vms                # all metadata
  ringback verify s3://backups/vms/disk-monday    # of one backup
  ringback verify s3://backups/vms --percent 5    # and a twentieth of the data, another each time
  ringback verify s3://backups/vms --data         # and all data, which takes as long as reading it

{CREDENTIALS}

{EXIT_CODES}"
    )
}

impl Verify {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let whole = path::repository(&self.path)?;
        let settings = self.transfers.settings();
        let way = self.store.way_to(&whole)?;
        let (store, opened) = match Opened::all(&way, settings.clone()).await {
            Err(error) if is_absent(&error) => {
                let one = self.open_one(settings).await?;
                one.ok_or_else(|| self.nothing_there(error))?
            }
            opened => opened?,
        };
        // Nothing is made by it, so it ends at once.
        let stop = Stop::default();
        let verified = stop.unless_asked(self.verify(&opened, context));
        let report = unless_interrupted(context, &store, &stop, interrupted, verified).await?;
        self.conclude(context, &opened, &report)
    }

    /// The last component as a backup's name, if there is a repository that could have it.
    async fn open_one(
        &self,
        settings: DatapathSettings,
    ) -> Result<Option<(Store, Opened)>, CliError> {
        let Some(path) = self.backup() else {
            return Ok(None);
        };
        let way = self.store.way_to(path.repository())?;
        let (store, mut opened) = match Opened::all(&way, settings).await {
            Err(Error::NoRepository { .. }) => return Ok(None),
            opened => opened?,
        };
        let name = path.name();
        opened.backups.retain(|it| it.commit.name == name);
        if opened.backups.is_empty() {
            return Err(absent(&path));
        }
        Ok(Some((store, opened)))
    }

    /// The whole path as a backup's.
    fn backup(&self) -> Option<BackupUrl> {
        path::backup(self.path.trim_end_matches('/')).ok()
    }

    /// That there is no repository, with what is wrong with its folder: a disk may not be mounted there.
    fn nothing_there(&self, error: Error) -> CliError {
        match (self.backup(), &error) {
            (None, _) => error.into(),
            (Some(path), Error::Store(_)) => {
                let mut nothing = absent(&path);
                nothing.message.push_str(&format!("; {error}"));
                nothing
            }
            (Some(path), _) => absent(&path),
        }
    }

    async fn verify(&self, opened: &Opened, context: &Context) -> Result<Report, CliError> {
        let depth = self.depth.depth();
        let counts = Counts::default();
        let mut findings = Vec::new();
        let mut display = Display::new("verify", context.shows_progress());
        let lines = display.lines();
        let mut found = |finding: Finding| {
            if !context.json {
                lines.print(&finding.to_string());
            }
            findings.push(finding);
        };
        let work = verify::run(
            &opened.repository,
            &opened.backups,
            depth,
            &counts,
            &mut found,
        );
        display
            .follow(work, |display| display.count(&counts))
            .await?;
        Ok(Report { counts, findings })
    }

    fn conclude(
        &self,
        context: &Context,
        opened: &Opened,
        report: &Report,
    ) -> Result<(), CliError> {
        let Report { counts, findings } = report;
        let looked_at = opened.backups.len();
        if context.json {
            output::json(&json!({
                "path": self.path,
                "backups": looked_at,
                "packs": counts.packs(),
                "leaves": counts.leaves(),
                "data_percent": self.depth.percent(),
                "chunks_read": counts.chunks_read(),
                "bytes_read": counts.bytes_read(),
                "findings": findings.iter().map(to_json).collect::<Vec<Value>>(),
            }));
        }
        let scope = scope(looked_at, counts);
        let damaged = findings
            .iter()
            .filter(|it| it.severity() != Severity::Healed)
            .count();
        if damaged == 0 {
            if !context.json && !context.quiet {
                let healed = match findings.len() as u64 {
                    0 => "nothing is damaged".to_owned(),
                    healed => format!(
                        "{} of damage, healed by other copies; no data is lost",
                        number_of(healed, "case")
                    ),
                };
                output::line(&format!("{}: {scope}: {healed}", self.path));
            }
            return Ok(());
        }
        let lost = match lost_bytes(findings) {
            0 => "no data is known to be lost".to_owned(),
            lost => format!("{} of volumes cannot be restored", Bytes(lost)),
        };
        let damaged = number_of(damaged as u64, "case");
        let message = format!("{}: {scope}: {damaged} of damage; {lost}", self.path);
        Err(CliError::new(Exit::Damaged, message))
    }
}

/// What was looked at, in words.
pub(super) fn scope(backups: usize, counts: &Counts) -> String {
    let read = match counts.chunks_read() {
        0 => String::new(),
        chunks => format!(
            ", {} of data ({})",
            number_of(chunks, "chunk"),
            Bytes(counts.bytes_read())
        ),
    };
    format!(
        "{}, {}{read}",
        number_of(backups as u64, "backup"),
        number_of(counts.packs(), "pack")
    )
}

/// Bytes of volumes that cannot be restored.
pub(super) fn lost_bytes(findings: &[Finding]) -> u64 {
    findings
        .iter()
        .filter(|it| it.severity() == Severity::Lost)
        .filter_map(|it| it.bytes.as_ref())
        .map(|bytes| bytes.end - bytes.start)
        .sum()
}

/// What is to be verified.
struct Opened {
    repository: Repository,
    backups: Vec<Committed>,
}

struct Report {
    counts: Counts,
    findings: Vec<Finding>,
}

impl Opened {
    async fn all(way: &Way, settings: DatapathSettings) -> Result<(Store, Self), Error> {
        let store = Store::connect(way, settings).await?;
        let (repository, log) = store.open().await?;
        let backups = log.commits().to_vec();
        let opened = Self {
            repository,
            backups,
        };
        Ok((store, opened))
    }
}

fn absent(path: &BackupUrl) -> CliError {
    let message = format!(
        "there is neither a repository at {path} nor a backup {:?} in {}",
        path.name(),
        path.repository()
    );
    Failure::new(Code::NotFound, message).into()
}

/// Whether there is nothing at all, where a repository would be.
fn is_absent(error: &Error) -> bool {
    match error {
        Error::NoRepository { .. } => true,
        Error::Store(StoreError::Folder(error)) => error.trouble() == FolderTrouble::Absent,
        _ => false,
    }
}

pub(super) fn number_of(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

pub(super) fn to_json(finding: &Finding) -> Value {
    let bytes = finding.bytes.as_ref();
    json!({
        "backup": finding.backup,
        "volume": finding.volume,
        "offset": bytes.map(|bytes| bytes.start),
        "bytes": bytes.map(|bytes| bytes.end - bytes.start),
        "object": finding.object,
        "reason": finding.reason,
        "healed_by": finding.healed_by,
        "message": finding.to_string(),
    })
}
