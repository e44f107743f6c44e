//! `ringback completions` and `man`: what packagers install beside the program.

use std::{fs, io, path::PathBuf};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, exit::CliError};

/// Print the completions of a shell.
#[derive(Args)]
#[command(after_help = "Example:\n  ringback completions bash >/etc/bash_completion.d/ringback")]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "ringback", &mut script);
        print(&script)
    }
}

/// Print the manual page, or write all of them to a folder.
#[derive(Args)]
#[command(after_help = "Examples:\n  ringback man | man -l -\n  ringback man /usr/share/man/man1")]
pub(crate) struct Man {
    /// Where to write the pages, one per command; without it the first is printed.
    folder: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> Result<(), CliError> {
        let failed = |error: io::Error| CliError::failed(format!("cannot write: {error}"));
        let cli = Cli::command().disable_help_subcommand(true);
        match self.folder {
            Some(folder) => {
                fs::create_dir_all(&folder).map_err(failed)?;
                clap_mangen::generate_to(cli, &folder).map_err(failed)
            }
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(cli)
                    .render(&mut page)
                    .map_err(failed)?;
                print(&page)
            }
        }
    }
}

/// A reader that has gone away is no failure of ours.
fn print(text: &[u8]) -> Result<(), CliError> {
    match io::Write::write_all(&mut io::stdout(), text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::failed(format!("cannot write: {error}")))
        }
        _ => Ok(()),
    }
}
