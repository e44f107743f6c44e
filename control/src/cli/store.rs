//! How the client says where in S3, and with what credentials.

use std::env;

use clap::Args;
use ringback_proto::lvmd::{DataSource, data_source};

/// How the daemon is to reach the store. Credentials are taken from AWS_ACCESS_KEY_ID,
/// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; without them the daemon uses its own. They are
/// never arguments, which everybody on the host can read.
#[derive(Args, Clone, Default)]
#[command(
    after_help = "Credentials are taken from the environment: AWS_ACCESS_KEY_ID, \
                        AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. Without them the daemon uses \
                        its own."
)]
pub(crate) struct StoreArgs {
    /// The store, http(s)://host[:port]; without it AWS's own endpoint of the region.
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_S3")]
    pub(crate) endpoint: Option<String>,

    /// Accept any certificate of the store.
    #[arg(long)]
    pub(crate) no_verify_tls: bool,

    /// Proxy for http endpoints.
    #[arg(long, value_name = "URL")]
    pub(crate) http_proxy: Option<String>,

    /// Proxy for https endpoints.
    #[arg(long, value_name = "URL")]
    pub(crate) https_proxy: Option<String>,
}

impl StoreArgs {
    /// The store's part of a request, for this path.
    pub(crate) fn s3(&self, path: &str) -> data_source::S3 {
        let from_environment = |name| env::var(name).unwrap_or_default();
        data_source::S3 {
            path: path.to_owned(),
            endpoint: self.endpoint.clone().unwrap_or_default(),
            verify_tls: !self.no_verify_tls,
            http_proxy: self.http_proxy.clone().unwrap_or_default(),
            https_proxy: self.https_proxy.clone().unwrap_or_default(),
            access_key_id: from_environment("AWS_ACCESS_KEY_ID"),
            secret_access_key: from_environment("AWS_SECRET_ACCESS_KEY"),
            session_token: from_environment("AWS_SESSION_TOKEN"),
            encryption_key: from_environment("RINGBACK_ENCRYPTION_KEY"),
        }
    }

    /// A data source for this path.
    pub(crate) fn data_source(&self, path: &str, synchronous: bool) -> DataSource {
        DataSource {
            synchronous_restore: synchronous,
            r#type: Some(data_source::Type::S3(self.s3(path))),
        }
    }
}
