//! Which region a bucket lies in, when neither the configuration nor the request says.

use std::{env, time::Duration};

use aws_config::{meta::region::ProvideRegion, profile::ProfileFileRegionProvider};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, SharedHttpConnector},
    orchestrator::HttpRequest,
};

use super::location::{Credentials, RepositoryPath, StoreConfig};

/// What AWS assumes, and what most stores elsewhere take.
const DEFAULT: &str = "us-east-1";
/// Not worth waiting for: a store that is slow now is asked for real soon enough.
const PATIENCE: Duration = Duration::from_secs(2);

/// From the environment, else from the profile that signs, else what the store says of the bucket,
/// else `us-east-1`.
pub(super) async fn find(
    path: &RepositoryPath,
    config: &StoreConfig,
    connector: &SharedHttpConnector,
) -> String {
    let from_environment = env::var("AWS_REGION").or_else(|_| env::var("AWS_DEFAULT_REGION"));
    if let Ok(region) = from_environment
        && !region.is_empty()
    {
        return region;
    }
    if let Some(region) = of_profile(&config.credentials).await {
        return region;
    }
    let asked = tokio::time::timeout(PATIENCE, ask(path, config, connector)).await;
    asked.ok().flatten().unwrap_or_else(|| DEFAULT.to_owned())
}

/// What the AWS shared config file says of the profile that the credentials may come from.
async fn of_profile(credentials: &Credentials) -> Option<String> {
    let profile = ProfileFileRegionProvider::builder();
    let profile = match credentials {
        Credentials::Static { .. } => return None,
        // Also the one that AWS_PROFILE names.
        Credentials::Chain => profile,
        Credentials::Profile(name) => profile.profile_name(name),
    };
    let region = profile.build().region().await?;
    Some(region.as_ref().to_owned())
}

/// An unsigned HEAD of the bucket: S3 names the region even where it denies access.
async fn ask(
    path: &RepositoryPath,
    config: &StoreConfig,
    connector: &SharedHttpConnector,
) -> Option<String> {
    let endpoint = config.endpoint.as_ref().map_or_else(
        || "https://s3.amazonaws.com".to_owned(),
        super::location::Endpoint::as_url,
    );
    let mut request = HttpRequest::get(format!("{endpoint}/{}", path.bucket())).ok()?;
    request.set_method("HEAD").ok()?;
    let answer = connector.call(request).await.ok()?;
    answer
        .headers()
        .get("x-amz-bucket-region")
        .map(str::to_owned)
}
