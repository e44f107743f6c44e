//! Which region a bucket lies in, when neither the configuration nor the request says.

use std::{env, time::Duration};

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, SharedHttpConnector},
    orchestrator::HttpRequest,
};

use super::location::{RepositoryPath, StoreConfig};

/// What AWS assumes, and what most stores elsewhere take.
const DEFAULT: &str = "us-east-1";
/// Not worth waiting for: a store that is slow now is asked for real soon enough.
const PATIENCE: Duration = Duration::from_secs(2);

/// From the environment, else what the store says of the bucket, else `us-east-1`.
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
    let asked = tokio::time::timeout(PATIENCE, ask(path, config, connector)).await;
    asked.ok().flatten().unwrap_or_else(|| DEFAULT.to_owned())
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
