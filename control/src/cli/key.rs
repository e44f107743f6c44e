//! `ringback key`: which passphrases open an encrypted repository.

use clap::{Args, Subcommand};
use ringback_datapath::{
    crypt::Passphrase,
    keys::{KeyError, KeySlots, SlotId, SlotInfo},
    repository::Repository,
};
use serde_json::{Value, json};

use super::{
    Context,
    exit::{CliError, EXIT_CODES},
    output,
    passphrase::NewPassphraseArgs,
    path,
    store::{CREDENTIALS, StoreArgs},
};
use crate::{config::DatapathSettings, direct::store::Store, failure::Failure};

/// List, add, remove and change the passphrases of an encrypted repository.
///
/// A repository is encrypted when its first backup is made with a passphrase. It has one pair of
/// keys for ever; each passphrase has a slot that holds them. All commands take one of the
/// passphrases in RINGBACK_PASSPHRASE or --passphrase-file.
#[derive(Subcommand)]
pub(crate) enum Key {
    List(List),
    Add(Add),
    Remove(Remove),
    Passwd(Passwd),
}

/// List the key slots of a repository.
#[derive(Args)]
#[command(after_help = CREDENTIALS, after_long_help = long_help("key list s3://backups/vms"))]
pub(crate) struct List {
    #[command(flatten)]
    place: Place,
}

/// Let another passphrase open a repository.
#[derive(Args)]
#[command(
    after_help = CREDENTIALS,
    after_long_help = long_help(
        "key add s3://backups/vms --label laptop --new-passphrase-file ./laptop.txt"
    )
)]
pub(crate) struct Add {
    #[command(flatten)]
    place: Place,
    /// What `key list` calls the new slot. The store does not see it.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    label: String,
    #[command(flatten)]
    new: NewPassphraseArgs,
}

/// Take a passphrase out of use.
///
/// Who has opened the repository with it before may have kept its keys, which stay the same. In a
/// bucket with versions the removed slot stays as an old version until that is removed, too.
#[derive(Args)]
#[command(
    after_help = CREDENTIALS,
    after_long_help = long_help("key remove s3://backups/vms 3f0c6a4be1d24f5e8f7fd90c8d5e1a27")
)]
pub(crate) struct Remove {
    #[command(flatten)]
    place: Place,
    /// The slot, as `key list` shows it.
    #[arg(value_name = "SLOT")]
    slot: SlotId,
    /// Remove the slot even of the passphrase that is given now.
    #[arg(long)]
    force: bool,
}

/// Change the passphrase that is given: a new slot in place of its slot.
#[derive(Args)]
#[command(
    after_help = CREDENTIALS,
    after_long_help = long_help("key passwd s3://backups/vms --new-passphrase-file ./new.txt")
)]
pub(crate) struct Passwd {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    new: NewPassphraseArgs,
}

/// A repository that these commands deal with by themselves.
#[derive(Args)]
struct Place {
    /// The repository: s3://bucket/repository or file:///repository.
    #[arg(value_name = "REPOSITORY")]
    path: String,
    #[command(flatten)]
    store: StoreArgs,
}

fn long_help(example: &str) -> String {
    format!("Example:\n  ringback {example}\n\n{CREDENTIALS}\n\n{EXIT_CODES}")
}

impl Key {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::List(command) => command.run(context).await,
            Self::Add(command) => command.run(context).await,
            Self::Remove(command) => command.run(context).await,
            Self::Passwd(command) => command.run(context).await,
        }
    }
}

impl Place {
    /// The repository, and the passphrase that opened it. Without one, what opens is not encrypted.
    async fn open(&self) -> Result<(Repository, Passphrase), CliError> {
        let path = path::repository(&self.path)?;
        let way = self.store.way_to(&path)?;
        let store = Store::connect(&way, DatapathSettings::default()).await?;
        let repository = store.open_alone().await?;
        let not_encrypted = || KeyError::NotEncrypted {
            repository: repository.store().describe(),
        };
        let passphrase = way.passphrase.ok_or_else(not_encrypted)?;
        Ok((repository, passphrase))
    }
}

impl List {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let (repository, _) = self.place.open().await?;
        let slots = KeySlots::of(&repository)?.list().await?;
        if context.json {
            output::json(&slots.iter().map(to_json).collect());
            return Ok(());
        }
        let rows: Vec<[String; 3]> = slots.iter().map(row).collect();
        output::table(["SLOT", "MADE", "LABEL"], &[], &rows);
        Ok(())
    }
}

impl Add {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let new = self.new.get()?;
        let (repository, _) = self.place.open().await?;
        let slot = KeySlots::of(&repository)?.add(&new, &self.label).await?;
        let done = format!(
            "the new passphrase opens {}; its slot is {slot}",
            self.place.path
        );
        tell(context, &json!({ "slot": slot.to_string() }), &done);
        Ok(())
    }
}

impl Remove {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let (repository, passphrase) = self.place.open().await?;
        let slots = KeySlots::of(&repository)?;
        let removed = slots.remove(self.slot, &passphrase, self.force).await;
        removed.map_err(|error| {
            let in_use = matches!(error, KeyError::InUse { .. });
            let mut error = CliError::from(error);
            if in_use {
                error
                    .message
                    .push_str("; pass --force to remove it all the same");
            }
            error
        })?;
        let slot = self.slot;
        let done = format!("slot {slot} is gone from {}", self.place.path);
        tell(context, &json!({ "removed": slot.to_string() }), &done);
        Ok(())
    }
}

impl Passwd {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let new = self.new.get()?;
        let (repository, _) = self.place.open().await?;
        let slot = KeySlots::of(&repository)?.change(&new).await?;
        let done = format!(
            "the passphrase of {} is changed; its slot is {slot}",
            self.place.path
        );
        tell(context, &json!({ "slot": slot.to_string() }), &done);
        Ok(())
    }
}

fn tell(context: &Context, result: &Value, done: &str) {
    if context.json {
        output::json(result);
    } else if !context.quiet {
        output::line(done);
    }
}

fn row(slot: &SlotInfo) -> [String; 3] {
    let id = slot.id.to_string();
    match &slot.about {
        None => [id, String::new(), "(opens nothing)".to_owned()],
        Some(about) => {
            let own = if slot.is_own { "  (in use now)" } else { "" };
            let label = format!("{}{own}", about.label);
            [
                id,
                output::moment(about.created_ms),
                label.trim_start().to_owned(),
            ]
        }
    }
}

fn to_json(slot: &SlotInfo) -> Value {
    let about = slot.about.as_ref();
    json!({
        "slot": slot.id.to_string(),
        "label": about.map(|about| &about.label),
        "created_ms": about.map(|about| about.created_ms),
        "opens": about.is_some(),
        "in_use": slot.is_own,
    })
}

impl From<KeyError> for CliError {
    fn from(error: KeyError) -> Self {
        Failure::from(error).into()
    }
}
