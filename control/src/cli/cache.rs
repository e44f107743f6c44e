//! Where a command keeps copies of index segments.

use std::{
    env,
    path::{Path, PathBuf},
};

use clap::Args;
use ringback_datapath::settings::CacheSettings;

use super::exit::CliError;
use crate::config::CACHE_MIB;

/// Copies of index segments, which save fetching them again.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Work")]
pub(crate) struct CacheArgs {
    /// Folder for copies of index segments, which tell what the repository holds; it must be this
    /// user's alone [default: $XDG_CACHE_HOME/ringback, else ~/.cache/ringback]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache_directory: Option<PathBuf>,

    /// Keep no copies of index segments; fetch them all from the store.
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    /// Where copies are kept; `None`: nowhere.
    pub(crate) fn settings(&self) -> Result<Option<CacheSettings>, CliError> {
        let folder = match &self.cache_directory {
            _ if self.no_cache => None,
            Some(folder) => Some(std::path::absolute(folder).map_err(|error| {
                CliError::usage(format!("--cache-directory {}: {error}", folder.display()))
            })?),
            None => usual_folder(|name| env::var_os(name).map(PathBuf::from)),
        };
        Ok(folder.map(|folder| CacheSettings {
            folder,
            bytes_max: u64::from(CACHE_MIB) << 20,
        }))
    }

    pub(crate) fn given(&self) -> [(&'static str, bool); 2] {
        [
            ("--cache-directory", self.cache_directory.is_some()),
            ("--no-cache", self.no_cache),
        ]
    }
}

/// As the XDG base directory specification has it; nowhere for a user without a home.
fn usual_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let folder = |name: &str| variable(name).filter(|path| Path::is_absolute(path));
    let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Some(caches?.join("ringback"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_lie_where_the_desktops_of_the_host_want_caches() {
        let found = |xdg: Option<&str>, home: Option<&str>| {
            let folder = usual_folder(|name| match name {
                "XDG_CACHE_HOME" => xdg.map(PathBuf::from),
                _ => home.map(PathBuf::from),
            });
            folder.map(|path| path.display().to_string())
        };
        let home = Some("/home/ann");
        assert_eq!(
            found(Some("/fast"), home).as_deref(),
            Some("/fast/ringback")
        );
        for none in [None, Some(""), Some("relative")] {
            let folder = found(none, home);
            assert_eq!(folder.as_deref(), Some("/home/ann/.cache/ringback"));
        }
        assert_eq!(found(None, None), None);
    }
}
