//! `ringback repair`: what is damaged is written down, so that later backups heal it, and the index
//! is made whole.

use clap::Args;
use ringback_datapath::{repair::Repair as Plan, stop::Stop};
use serde_json::{Value, json};

use super::{
    Context,
    exit::{CliError, EXIT_CODES, Exit},
    interrupt::unless_interrupted,
    output, path,
    store::{CREDENTIALS, StoreArgs, WorkArgs},
    verify::{Extent, Opened, Report, number_of, to_json},
};

/// Make a repository heal.
///
/// Verifies it first, as `verify` does. Then packs with damage are marked, so that the next backup
/// that meets data which lies in them stores it again: from then on restores of every backup take it
/// from there. What of the index is lost is made again from the packs. Nothing is removed, and
/// backups may run meanwhile.
#[derive(Args)]
#[command(after_help = CREDENTIALS, after_long_help = long_help())]
pub(crate) struct Repair {
    /// The repository: s3://bucket/repository or file:///repository.
    #[arg(value_name = "REPOSITORY")]
    path: String,
    #[command(flatten)]
    extent: Extent,
    /// Say what there is to do, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    work: WorkArgs,
}

fn long_help() -> String {
    format!(
        "Examples:
  ringback repair s3://backups/vms --dry-run    # what there is to do, by metadata
  ringback repair s3://backups/vms --data       # read all data, mark what is damaged
  ringback backup ./disk.img s3://backups/vms/disk-tuesday    # heals what it meets

The exit code is 6 as long as anything is damaged that is whole nowhere else.

{CREDENTIALS}

{EXIT_CODES}"
    )
}

impl Repair {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let way = self.store.way_to(&path::repository(&self.path)?)?;
        let (store, mut opened) = Opened::all(&way, self.work.settings()).await?;
        // Cut off between two steps, it has done the first.
        let stop = Stop::default();
        let repaired = stop.unless_asked(self.repair(&mut opened, context));
        let (report, plan) = unless_interrupted(&store, &stop, repaired).await?;
        self.conclude(context, &opened, &report, &plan)
    }

    async fn repair(
        &self,
        opened: &mut Opened,
        context: &Context,
    ) -> Result<(Report, Plan), CliError> {
        let report = opened.verify(&self.extent, context).await?;
        let Opened {
            repository, log, ..
        } = opened;
        let plan = Plan::plan(repository, log, &report.findings).await?;
        if !self.dry_run {
            plan.carry_out(repository, log).await?;
        }
        Ok((report, plan))
    }

    fn conclude(
        &self,
        context: &Context,
        opened: &Opened,
        report: &Report,
        plan: &Plan,
    ) -> Result<(), CliError> {
        let lasting = |finding: &&_| !is_mended(finding, self.dry_run);
        let lasting: Vec<_> = report.findings.iter().filter(lasting).collect();
        if context.json {
            output::json(&json!({
                "path": self.path,
                "dry_run": self.dry_run,
                "marked_packs": plan.marked_packs(),
                "dropped_segments": plan.dropped_segments(),
                "indexed_packs": plan.indexed_packs(),
                "findings": report.findings.iter().map(to_json).collect::<Vec<Value>>(),
                "lasting": lasting.len(),
            }));
        }
        let scope = format!("{}: {}", self.path, report.scope(opened.backups.len()));
        if !context.json && !context.quiet {
            output::line(&format!("{scope}: {}", self.deeds(plan)));
        }
        if lasting.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{}: {}; back the volumes up again to heal what they still hold",
            self.path,
            report.damage()
        );
        Err(CliError::new(Exit::Damaged, message))
    }

    fn deeds(&self, plan: &Plan) -> String {
        if plan.is_empty() {
            return "nothing to repair".to_owned();
        }
        let to = if self.dry_run { "to be " } else { "" };
        format!(
            "{} {to}marked as damaged, {} {to}replaced, {} {to}indexed",
            number_of(plan.marked_packs() as u64, "pack"),
            number_of(plan.dropped_segments() as u64, "index segment"),
            number_of(plan.indexed_packs() as u64, "pack"),
        )
    }
}

/// Whether nothing is damaged any more by what this tells of: a whole copy is there, or the index was
/// made again.
fn is_mended(finding: &ringback_datapath::verify::Finding, dry_run: bool) -> bool {
    finding.is_healed || !dry_run && finding.object.starts_with("index/")
}
