//! The command line: the daemon, the demo, a client of the daemon, and the same work without one.
//!
//! Results go to standard output, as text or with `--json` as JSON; progress, on a terminal, and
//! errors go to standard error. Exit codes are in [`exit`].

mod backup;
mod cache;
mod client;
mod demo;
mod exit;
mod health;
mod interrupt;
mod key;
mod list;
mod lv;
mod output;
mod pages;
mod passphrase;
mod path;
mod place;
mod progress;
mod repair;
mod restore;
mod serve;
mod stats;
mod store;
mod verify;

use client::Client;

use std::{env, io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, LevelFilter, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use self::exit::{CliError, EXIT_CODES};
use crate::core_dumps;

/// Sends volumes to S3 and brings them back: block devices and files by itself, logical volumes as
/// an lvmd.
#[derive(Parser)]
#[command(name = "ringback", version, after_help = EXIT_CODES, after_long_help = long_help())]
struct Cli {
    /// The daemon's socket, for `lv`, and for backups and restores of its volumes.
    #[arg(
        long,
        global = true,
        env = "RINGBACK_SOCKET",
        default_value = "/run/topolvm/lvmd.sock"
    )]
    socket: PathBuf,

    /// Print results, and errors, as JSON.
    #[arg(long, global = true)]
    json: bool,

    /// Print no progress and no results of backup, restore, verify and repair, only what is wrong.
    #[arg(long, short, global = true)]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

fn long_help() -> String {
    format!(
        "\
Examples:
  ringback backup ./disk.img s3://backups/vms/disk-monday
  ringback list s3://backups/vms
  ringback verify s3://backups/vms
  ringback restore s3://backups/vms/disk-monday ./disk-again.img

`ringback demo` shows the whole way without root, S3 account or configuration.

{EXIT_CODES}"
    )
}

#[derive(Subcommand)]
enum Command {
    Backup(backup::Backup),
    Restore(restore::Restore),
    List(list::List),
    Show(list::Show),
    Verify(verify::Verify),
    Repair(repair::Repair),
    #[command(subcommand)]
    Key(key::Key),
    #[command(subcommand)]
    Lv(lv::Lv),
    Serve(serve::Serve),
    Health(health::Health),
    Demo(demo::Demo),
    Completions(pages::Completions),
    Man(pages::Man),
}

/// What every command is told beside its own arguments.
pub(crate) struct Context {
    socket: PathBuf,
    json: bool,
    quiet: bool,
}

impl Context {
    /// Whether to show how far work is.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.json && !self.quiet && progress::is_watched()
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse_usage(&error),
    };
    start_log(&cli);
    if let Err(error) = core_dumps::forbid() {
        tracing::warn!(%error, "a crash may write secrets into a core dump");
    }
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("ringback: cannot start threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let json = cli.json;
    let result = runtime.block_on(run(cli));
    // A blocking call of a cancelled task must not hold the exit up.
    runtime.shutdown_background();
    match result.and_then(|()| output::check()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print(json);
            error.exit.into()
        }
    }
}

/// What clap has to say, as everything else is said.
fn refuse_usage(error: &clap::Error) -> ExitCode {
    let wants_json = env::args_os().any(|argument| argument == "--json");
    if wants_json && error.use_stderr() {
        let rendered = error.render().to_string();
        let message = rendered.trim().trim_start_matches("error: ");
        CliError::usage(message).print(true);
        return exit::Exit::Usage.into();
    }
    error.exit()
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let context = Context {
        socket: cli.socket,
        json: cli.json,
        quiet: cli.quiet,
    };
    match cli.command {
        Command::Backup(command) => command.run(&context).await,
        Command::Restore(command) => command.run(&context).await,
        Command::List(command) => command.run(&context).await,
        Command::Show(command) => command.run(&context).await,
        Command::Verify(command) => command.run(&context).await,
        Command::Repair(command) => command.run(&context).await,
        Command::Key(command) => command.run(&context).await,
        Command::Lv(command) => command.run(&context).await,
        Command::Serve(command) => command.run().await,
        Command::Health(command) => command.run(&context).await,
        Command::Demo(command) => command.run(context.json).await,
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
    }
}

/// Modules of the AWS SDK that log access key ids below errors. No credential is logged, whatever
/// `RINGBACK_LOG` says.
const NAMING_KEYS: [&str; 5] = [
    "aws_config",
    "aws_runtime::auth",
    "aws_sdk_s3",
    "aws_sigv4",
    "aws_smithy_runtime::client::orchestrator",
];

/// The daemon tells what it does, other commands only what is wrong, and not beside JSON.
/// `RINGBACK_LOG` overrides.
fn start_log(cli: &Cli) {
    let default = match cli.command {
        Command::Serve(_) => "info,s3s=off",
        _ if cli.json || cli.quiet => "error,s3s=off",
        Command::Demo(_) => "error,s3s=off",
        _ => "warn",
    };
    let wanted = EnvFilter::try_from_env("RINGBACK_LOG").unwrap_or_else(|_| default.into());
    let most = wanted.max_level_hint().unwrap_or(LevelFilter::TRACE);
    let no_keys = filter_fn(|about| {
        let is_from = |module: &&str| about.target().starts_with(*module);
        *about.level() == Level::ERROR || !NAMING_KEYS.iter().any(is_from)
    });
    let no_keys = no_keys.with_max_level_hint(most);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would say that standard error is broken on standard error, and panic.
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(lines.with_filter(wanted.and(no_keys)))
        .init();
}
