//! The HTTP client below the SDK: proxies of one request only, and TLS with or without
//! verification, neither of which the SDK's own client offers.

use std::{fmt, sync::Arc, time::Duration};

use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpConnector as SmithyConnector, HttpConnectorFuture, SharedHttpClient,
            SharedHttpConnector, http_client_fn,
        },
        orchestrator::HttpRequest,
        result::ConnectorError,
    },
    http::Response,
};
use aws_smithy_types::body::SdkBody;
use http::{StatusCode, Uri, header::PROXY_AUTHORIZATION, uri::Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};

use super::{
    dial::Dialer,
    location::StoreConfig,
    proxies::{Proxies, Via},
    tls,
    trouble::Trouble,
};

type HyperClient = Client<HttpsConnector<Dialer>, SdkBody>;

/// Shorter than what load balancers in front of stores allow, so that we close first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// What carries requests to the store as `config` asks for it.
pub(super) fn to_store(config: &StoreConfig) -> SharedHttpConnector {
    connector(config, config.verify_tls, Proxies::to_store(config))
}

/// What carries the default chain's requests. A request's proxies and its leave to accept any
/// certificate are for the store alone.
pub(super) fn to_credentials(config: &StoreConfig) -> SharedHttpConnector {
    connector(config, true, Proxies::of_environment())
}

fn connector(config: &StoreConfig, verify: bool, proxies: Proxies) -> SharedHttpConnector {
    let proxies = Arc::new(proxies);
    let tls = tls::client_config(verify, &config.authorities);
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_or_http()
        .enable_http1()
        .wrap_connector(Dialer::new(Arc::clone(&proxies), tls));
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .build(https);
    SharedHttpConnector::new(Connector { client, proxies })
}

/// The connector as the SDK takes it.
pub(super) fn http_client(connector: SharedHttpConnector) -> SharedHttpClient {
    http_client_fn(move |_settings, _components| connector.clone())
}

#[derive(Clone)]
struct Connector {
    client: HyperClient,
    proxies: Arc<Proxies>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl SmithyConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?;
            let response = this.send(request).await.map_err(|trouble| {
                tracing::debug!(%trouble, "no answer");
                if trouble.lasting {
                    ConnectorError::user(trouble.into())
                } else {
                    ConnectorError::io(trouble.into())
                }
            })?;
            Response::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

impl Connector {
    async fn send(
        &self,
        mut request: http::Request<SdkBody>,
    ) -> Result<http::Response<SdkBody>, Trouble> {
        let via = self.plain_proxy(request.uri());
        if let Some(authorization) = via.as_ref().and_then(|via| via.authorization.clone()) {
            request
                .headers_mut()
                .insert(PROXY_AUTHORIZATION, authorization);
        }
        let sent = self.client.request(request).await;
        let response = sent.map_err(|error| Trouble::behind(&error))?;
        match (via, response.status()) {
            (Some(via), status @ StatusCode::PROXY_AUTHENTICATION_REQUIRED) => {
                Err(Trouble::refused_by_proxy(&via.proxy, status))
            }
            _ => Ok(response.map(SdkBody::from_body_1_x)),
        }
    }

    /// A tunnel is authorised when it is dug; a request through a plain proxy, each by itself.
    fn plain_proxy(&self, uri: &Uri) -> Option<Via> {
        if uri.scheme() != Some(&Scheme::HTTP) {
            return None;
        }
        self.proxies.on_the_way(uri)
    }
}
