//! Passphrases, from where not everybody on the host can read them.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use ringback_datapath::{crypt::Passphrase, store::location::Secret};
use zeroize::Zeroizing;

use super::exit::{CliError, Exit};

/// Far more than a passphrase has, and little enough to read whatever file was named.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The passphrase of a repository.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct PassphraseArgs {
    /// Read the repository's passphrase from this file; one newline at its end is not part of it
    /// [env: RINGBACK_PASSPHRASE, the passphrase itself].
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// `None`: the repository is not encrypted.
    pub(crate) fn get(&self) -> Result<Option<Passphrase>, CliError> {
        given(
            self.passphrase_file.as_deref(),
            "passphrase-file",
            "RINGBACK_PASSPHRASE",
        )
    }
}

/// The passphrase that is to open a repository from now on.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Encryption")]
pub(crate) struct NewPassphraseArgs {
    /// Read the new passphrase from this file; one newline at its end is not part of it [env:
    /// RINGBACK_NEW_PASSPHRASE, the passphrase itself].
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

impl NewPassphraseArgs {
    pub(crate) fn get(&self) -> Result<Passphrase, CliError> {
        let given = given(
            self.new_passphrase_file.as_deref(),
            "new-passphrase-file",
            "RINGBACK_NEW_PASSPHRASE",
        );
        given?.ok_or_else(|| {
            CliError::usage(
                "there is no new passphrase; set RINGBACK_NEW_PASSPHRASE, or name a file with \
                 --new-passphrase-file",
            )
        })
    }
}

/// The file's, else the environment's.
fn given(
    file: Option<&Path>,
    option: &str,
    variable: &str,
) -> Result<Option<Passphrase>, CliError> {
    let (text, source) = match file {
        Some(path) => (read(path)?, format!("--{option} {}", path.display())),
        None => match env::var(variable) {
            Ok(text) => (Secret::new(text), variable.to_owned()),
            Err(env::VarError::NotPresent) => return Ok(None),
            Err(env::VarError::NotUnicode(_)) => return Err(not_text(variable)),
        },
    };
    if file.is_none() && text.reveal().is_empty() {
        return Ok(None);
    }
    let passphrase = Passphrase::new(text);
    let passphrase = passphrase.map_err(|odd| CliError::usage(format!("{source} {odd}")))?;
    Ok(Some(passphrase))
}

fn read(path: &Path) -> Result<Secret, CliError> {
    let shown = path.display();
    // All of it at once: a buffer that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            io::ErrorKind::PermissionDenied => Exit::Denied,
            _ => Exit::Failed,
        };
        CliError::new(
            exit,
            format!("cannot read the passphrase in {shown}: {error}"),
        )
    })?;
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let text = std::str::from_utf8(text).map_err(|_| not_text(&shown.to_string()))?;
    Ok(Secret::new(text))
}

fn not_text(source: &str) -> CliError {
    CliError::usage(format!("{source} is not UTF-8 text; a passphrase is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(content: &[u8]) -> Result<Passphrase, CliError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("passphrase");
        std::fs::write(&path, content).expect("written");
        let args = PassphraseArgs {
            passphrase_file: Some(path),
        };
        args.get().map(|given| given.expect("a file is named"))
    }

    #[test]
    fn one_newline_at_the_end_of_a_file_is_not_part_of_the_passphrase() {
        for (content, passphrase) in [
            (&b"hush"[..], "hush"),
            (b"hush\n", "hush"),
            (b"hush\n\n", "hush\n"),
            (b" hu\nsh \n", " hu\nsh "),
            ("h\u{fc}sh\n".as_bytes(), "h\u{fc}sh"),
        ] {
            let read = of_file(content).expect("a passphrase");
            assert_eq!(read.reveal(), passphrase);
        }
    }

    #[test]
    fn what_is_no_passphrase_is_refused_and_not_shown() {
        let long = "hush".repeat(300);
        for (content, says) in [
            (&b""[..], "has 0 bytes"),
            (b"\n", "has 0 bytes"),
            (
                long.as_bytes(),
                "has 1200 bytes; a passphrase has 1 to 1024",
            ),
            (b"hush\xff", "is not UTF-8 text"),
        ] {
            let error = of_file(content).expect_err("no passphrase");
            assert_eq!(error.exit, Exit::Usage);
            assert!(error.message.contains(says), "{error}");
            assert!(!error.message.contains("hush"), "{error}");
        }
    }
}
