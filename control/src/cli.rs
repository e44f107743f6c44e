//! The command line: the daemon, the demo, and a client of the daemon.
//!
//! Results go to standard output, as text or with `--json` as JSON; progress and errors go to
//! standard error. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod backups;
mod client;
mod demo;
mod lv;
mod output;
mod progress;
mod serve;
mod store;

use client::Client;
use progress::follow;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

/// An lvmd that sends logical volumes to S3 and brings them back.
#[derive(Parser)]
#[command(name = "ringback", version, about)]
struct Cli {
    /// The daemon's socket.
    #[arg(
        long,
        global = true,
        env = "RINGBACK_SOCKET",
        default_value = "/run/topolvm/lvmd.sock"
    )]
    socket: PathBuf,

    /// Print results as JSON.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon.
    Serve(serve::Serve),
    /// Show the whole way in a temporary place: create, fill, back up, change, restore, compare.
    Demo(demo::Demo),
    /// Manage logical volumes.
    #[command(subcommand)]
    Lv(lv::Lv),
    /// Back a volume up to S3.
    Backup(backups::Backup),
    /// Make a volume that holds a backup.
    Restore(backups::Restore),
    /// List the backups of a repository.
    List(backups::List),
    /// Show one backup.
    Show(backups::Show),
}

/// A sentence for the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CliError(pub(crate) String);

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        Self(format!("{} ({:?})", status.message(), status.code()))
    }
}

/// What every command is told beside its own arguments.
pub(crate) struct Context {
    socket: PathBuf,
    json: bool,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli.command);
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ringback: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli));
    // A blocking call of a cancelled task must not hold the exit up.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringback: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let context = Context {
        socket: cli.socket,
        json: cli.json,
    };
    match cli.command {
        Command::Serve(command) => command.run().await,
        Command::Demo(command) => command.run(context.json).await,
        Command::Lv(command) => command.run(&context).await,
        Command::Backup(command) => command.run(&context).await,
        Command::Restore(command) => command.run(&context).await,
        Command::List(command) => command.run(&context).await,
        Command::Show(command) => command.run(&context).await,
    }
}

/// Modules of the AWS SDK that log access key ids, at debug and trace. No credential is logged,
/// whatever `RINGBACK_LOG` says.
const NAMING_KEYS: [&str; 5] = [
    "aws_runtime::auth",
    "aws_sdk_s3",
    "aws_sigv4",
    "aws_smithy_runtime::client::orchestrator::auth",
    "aws_smithy_runtime::client::orchestrator::endpoints",
];

/// The daemon tells what it does; the demo and the client only what is wrong. `RINGBACK_LOG`
/// overrides.
fn start_log(command: &Command) {
    let default = match command {
        Command::Serve(_) => "info,s3s=off",
        Command::Demo(_) => "error,s3s=off",
        _ => "warn",
    };
    let wanted = EnvFilter::try_from_env("RINGBACK_LOG").unwrap_or_else(|_| default.into());
    let filter = NAMING_KEYS.iter().fold(wanted, |filter, module| {
        let without = format!("{module}=error");
        filter.add_directive(without.parse().expect("a module and a level"))
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
