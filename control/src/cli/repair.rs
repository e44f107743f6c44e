//! `ringback repair`: makes good what can be, and lists what is lost.

use clap::Args;
use ringback_datapath::{
    error::Error,
    log::Log,
    repair::{self, Repaired, Standing},
    repository::Repository,
    stop::Stop,
    verify::{Counts, Finding, Severity},
};
use serde_json::{Value, json};

use super::{
    Context,
    exit::{CliError, EXIT_CODES, Exit},
    interrupt::{interrupted, unless_interrupted},
    output, path,
    progress::Display,
    store::{CREDENTIALS, StoreArgs, TransferArgs},
    verify::{DepthArgs, lost_bytes, number_of, scope, to_json},
};
use crate::{direct::store::Store, jobs::Bytes};

/// Make good what is damaged in a repository, and list what is lost.
///
/// Verifies all backups. Packs with damaged chunks are marked, so that the next backup which meets
/// the same data stores it again; older backups are restored from that copy then. Index segments that
/// are missing or damaged are made anew from the packs. What no other copy heals is listed, with the
/// backup and the bytes of the volume. Backups may run meanwhile, and no backup is removed.
#[derive(Args)]
#[command(after_help = CREDENTIALS, after_long_help = long_help())]
pub(crate) struct Repair {
    /// The repository: s3://bucket/repository or file:///repository.
    #[arg(value_name = "REPOSITORY")]
    path: String,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    depth: DepthArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    transfers: TransferArgs,
}

fn long_help() -> String {
    format!(
        "Examples:
  ringback repair s3://backups/vms --dry-run    # what would be done
  ringback repair s3://backups/vms              # what all metadata tells
  ringback repair s3://backups/vms --data       # what all data tells, which takes as long as reading it

{CREDENTIALS}

{EXIT_CODES}"
    )
}

/// What a repair came to.
struct Report {
    backups: usize,
    counts: Counts,
    repaired: Repaired,
}

impl Repair {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let repository = path::repository(&self.path)?;
        let way = self.store.way_to(&repository)?;
        let store = Store::connect(&way, self.transfers.settings()).await?;
        let (repository, log) = store.open().await?;
        let stop = Stop::default();
        let work = stop.unless_asked(self.repair(&repository, log, context));
        let report = unless_interrupted(context, &store, &stop, interrupted, work).await?;
        self.conclude(context, &report)
    }

    async fn repair(
        &self,
        repository: &Repository,
        mut log: Log,
        context: &Context,
    ) -> Result<Report, CliError> {
        let (backups, counts) = (log.commits().len(), Counts::default());
        let mut display = Display::new("repair", context.shows_progress());
        let lines = display.lines();
        let mut found = |finding: &Finding| {
            if !context.json {
                lines.print(&finding.to_string());
            }
        };
        let depth = self.depth.depth();
        let work = repair::run(
            repository,
            &mut log,
            depth,
            self.dry_run,
            &counts,
            &mut found,
        );
        let repaired: Result<Repaired, Error> =
            display.follow(work, |display| display.count(&counts)).await;
        let repaired = repaired?;
        Ok(Report {
            backups,
            counts,
            repaired,
        })
    }

    fn conclude(&self, context: &Context, report: &Report) -> Result<(), CliError> {
        let repaired = &report.repaired;
        if context.json {
            output::json(&self.to_json(report));
        } else if !context.quiet {
            self.tell(repaired);
        }
        let scope = scope(report.backups, &report.counts);
        let (exit, sum) = match repaired.standing() {
            Standing::Whole => (None, "all can be restored".to_owned()),
            Standing::Damaged => {
                let left = number_of(repaired.left().count() as u64, "case");
                (
                    Some(Exit::Damaged),
                    format!("{left} of damage cannot be repaired; no data is known to be lost"),
                )
            }
            Standing::Lost => (
                Some(Exit::Lost),
                format!(
                    "{} of volumes cannot be restored; a backup of the same data would heal them",
                    Bytes(lost_bytes(&repaired.findings))
                ),
            ),
        };
        let message = format!("{}: {scope}: {sum}", self.path);
        match exit {
            Some(exit) => Err(CliError::new(exit, message)),
            None => {
                if !context.json && !context.quiet {
                    output::line(&message);
                }
                Ok(())
            }
        }
    }

    /// What was done, a line each.
    fn tell(&self, repaired: &Repaired) {
        let would = if self.dry_run { "would be " } else { "" };
        for pack in &repaired.marked {
            output::line(&format!(
                "object {pack} {would}marked: the next backup of its data stores it again"
            ));
        }
        for segment in &repaired.segments_dropped {
            output::line(&format!("object {segment} {would}dropped from the index"));
        }
        for object in &repaired.log_replaced {
            output::line(&format!(
                "object {object} {would}replaced by another checkpoint of the log"
            ));
        }
        if repaired.packs_listed > 0 {
            let packs = number_of(repaired.packs_listed as u64, "pack");
            output::line(&format!("{packs} {would}listed in the index again"));
        }
    }

    fn to_json(&self, report: &Report) -> Value {
        let Report {
            backups,
            counts,
            repaired,
        } = report;
        let of = |severity: Severity| -> Vec<Value> {
            let findings = repaired.findings.iter();
            let findings = findings.filter(|it| it.severity() == severity);
            findings.map(to_json).collect()
        };
        json!({
            "path": self.path,
            "dry_run": self.dry_run,
            "backups": backups,
            "packs": counts.packs(),
            "data_percent": self.depth.percent(),
            "marked": repaired.marked,
            "segments_dropped": repaired.segments_dropped,
            "segments_added": repaired.segments_added,
            "packs_listed": repaired.packs_listed,
            "log_replaced": repaired.log_replaced,
            "entries": repaired.entries,
            "lost": of(Severity::Lost),
            "healed": of(Severity::Healed),
            "harmless": of(Severity::Harmless),
        })
    }
}
