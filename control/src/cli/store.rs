//! How a command reaches a store, and with what credentials.

use std::{env, path::PathBuf};

use clap::Args;
use ringback_datapath::store::{
    location::{Credentials, StoreConfig},
    url::RepositoryUrl,
};
use ringback_proto::lvmd::{DataSource, data_source};

use super::{exit::CliError, passphrase::PassphraseArgs};
use crate::{
    config::DatapathSettings,
    dialect,
    direct::store::{Place, Way},
    failure::Failure,
};

/// How to reach a store in S3.
///
/// Credentials are never arguments, which everybody on the host can read.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Store (s3://)")]
pub(crate) struct StoreArgs {
    /// The store, http(s)://host[:port] [default: AWS's own endpoint of the region] [env:
    /// AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL]
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,

    /// Take credentials and region from this profile of the AWS shared config and credentials
    /// files, whatever the environment says.
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,

    /// Accept any certificate of the store.
    #[arg(long)]
    pub(crate) no_verify_tls: bool,

    /// Proxy for http endpoints [env: RINGBACK_HTTP_PROXY, which may have user:password@].
    #[arg(long, value_name = "URL")]
    pub(crate) http_proxy: Option<String>,

    /// Proxy for https endpoints [env: RINGBACK_HTTPS_PROXY, which may have user:password@].
    #[arg(long, value_name = "URL")]
    pub(crate) https_proxy: Option<String>,

    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
}

/// Where credentials come from, for `--help`.
pub(crate) const CREDENTIALS: &str = "\
Credentials for s3:// are those that AWS tools use: the profile of --profile in ~/.aws/credentials
and ~/.aws/config; else AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; else the
profile of AWS_PROFILE; else a web identity, the container's or the instance's role. The region is
AWS_REGION, else the profile's, else what the store says. The passphrase of an encrypted
repository is RINGBACK_PASSPHRASE, or in the file that --passphrase-file names.";

impl StoreArgs {
    /// The store's part of a request to a daemon, for this path.
    pub(crate) fn s3(&self, path: &str) -> Result<data_source::S3, CliError> {
        let from_environment = |name| env::var(name).unwrap_or_default();
        Ok(data_source::S3 {
            path: path.to_owned(),
            endpoint: self.endpoint().unwrap_or_default(),
            verify_tls: !self.no_verify_tls,
            http_proxy: proxy(
                self.http_proxy.as_deref(),
                "http-proxy",
                "RINGBACK_HTTP_PROXY",
            )?,
            https_proxy: proxy(
                self.https_proxy.as_deref(),
                "https-proxy",
                "RINGBACK_HTTPS_PROXY",
            )?,
            access_key_id: from_environment("AWS_ACCESS_KEY_ID"),
            secret_access_key: from_environment("AWS_SECRET_ACCESS_KEY"),
            session_token: from_environment("AWS_SESSION_TOKEN"),
            encryption_key: self
                .passphrase
                .get()?
                .map_or_else(String::new, |it| it.reveal().to_owned()),
        })
    }

    /// A data source for this path.
    pub(crate) fn data_source(
        &self,
        path: &str,
        synchronous: bool,
    ) -> Result<DataSource, CliError> {
        Ok(DataSource {
            synchronous_restore: synchronous,
            r#type: Some(data_source::Type::S3(self.s3(path)?)),
        })
    }

    /// How this process reaches a repository itself.
    pub(crate) fn way_to(&self, repository: &RepositoryUrl) -> Result<Way, CliError> {
        let passphrase = self.passphrase.get()?;
        let place = match repository {
            RepositoryUrl::Bucket(path) => Place::S3(path.clone(), Box::new(self.config()?)),
            RepositoryUrl::Folder(path) => {
                self.refuse_for_folder(repository)?;
                Place::Folder(path.clone())
            }
        };
        Ok(Way { place, passphrase })
    }

    fn refuse_for_folder(&self, folder: &RepositoryUrl) -> Result<(), CliError> {
        let given = [
            ("--endpoint", self.endpoint.is_some()),
            ("--profile", self.profile.is_some()),
            ("--no-verify-tls", self.no_verify_tls),
            ("--http-proxy", self.http_proxy.is_some()),
            ("--https-proxy", self.https_proxy.is_some()),
        ];
        if let Some((option, _)) = given.iter().find(|(_, is_given)| *is_given) {
            return Err(CliError::usage(format!(
                "{option} is for places in S3 (s3://...), which {folder} is not; leave it out"
            )));
        }
        Ok(())
    }

    fn config(&self) -> Result<StoreConfig, CliError> {
        let (mut store, _) = dialect::store(self.s3("")?).map_err(Failure::from)?;
        if let Some(profile) = &self.profile {
            store.credentials = Credentials::Profile(profile.clone());
        }
        Ok(store)
    }

    fn endpoint(&self) -> Option<String> {
        let from_environment = |name| env::var(name).ok().filter(|url| !url.is_empty());
        self.endpoint
            .clone()
            .or_else(|| from_environment("AWS_ENDPOINT_URL_S3"))
            .or_else(|| from_environment("AWS_ENDPOINT_URL"))
    }
}

/// A proxy's address: the argument, else the environment's, which alone may have a password.
fn proxy(argument: Option<&str>, option: &str, variable: &str) -> Result<String, CliError> {
    match argument {
        Some(address) if address.contains('@') => Err(CliError::usage(format!(
            "--{option} has a user or password in it, and everybody on this host can read \
             arguments; set {variable} instead"
        ))),
        Some(address) => Ok(address.to_owned()),
        None => Ok(env::var(variable).unwrap_or_default()),
    }
}

/// Buffers of one job, unless told otherwise.
const BUFFERS_MIB: u32 = 96;

/// How much of this host the work may take.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Work")]
pub(crate) struct WorkArgs {
    /// Memory for buffers, in MiB; a backup takes up to two thirds as much again for its index
    /// [default: 96]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(32..=65536))]
    pub(crate) memory: Option<u32>,

    #[command(flatten)]
    transfers: TransferArgs,

    /// Write where the time goes to this file, ten times a second, as lines of JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) stats: Option<PathBuf>,
}

/// How much of the line it may take.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Work")]
pub(crate) struct TransferArgs {
    /// Parts, or ranges of objects, under way to or from the store at once [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    transfers: Option<u32>,
}

impl TransferArgs {
    pub(crate) fn settings(&self) -> DatapathSettings {
        let defaults = DatapathSettings::default();
        DatapathSettings {
            backups_max: 1,
            restores_max: 1,
            parts_in_flight: self.transfers.unwrap_or(defaults.parts_in_flight),
            ..defaults
        }
    }

    fn is_given(&self) -> bool {
        self.transfers.is_some()
    }
}

impl WorkArgs {
    pub(crate) fn settings(&self) -> DatapathSettings {
        DatapathSettings {
            // One job: the settings share three quarters out to a backup and a restore.
            memory_mib: (self.memory.unwrap_or(BUFFERS_MIB) * 8).div_ceil(3),
            ..self.transfers.settings()
        }
    }

    pub(crate) fn given(&self) -> [(&'static str, bool); 3] {
        [
            ("--memory", self.memory.is_some()),
            ("--transfers", self.transfers.is_given()),
            ("--stats", self.stats.is_some()),
        ]
    }
}
