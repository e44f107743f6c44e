//! Which proxy a request goes through.
//!
//! A request that names proxies goes through them and through none else: neither the
//! environment's proxies nor its `NO_PROXY` concern it. One that names none goes through those of
//! the environment, unless `NO_PROXY` excepts the host.

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

use super::location::{Proxy, StoreConfig};

/// Where this host and its cloud give credentials away. No proxy can reach them, or should.
const GIVE_CREDENTIALS: [&str; 7] = [
    "localhost",
    "127.0.0.1",
    "[::1]",
    "169.254.169.254",
    "[fd00:ec2::254]",
    "169.254.170.2",
    "169.254.170.23",
];

/// The proxies of a request.
pub(super) enum Proxies {
    Own {
        http: Option<Proxy>,
        https: Option<Proxy>,
    },
    Environment {
        matcher: Matcher,
        direct: &'static [&'static str],
    },
}

/// A proxy on the way to somewhere.
pub(super) struct Via {
    pub(super) proxy: Uri,
    pub(super) authorization: Option<HeaderValue>,
}

impl Proxies {
    /// For requests to the store.
    pub(super) fn to_store(config: &StoreConfig) -> Self {
        match (&config.http_proxy, &config.https_proxy) {
            (None, None) => Self::Environment {
                matcher: Matcher::from_env(),
                direct: &[],
            },
            (http, https) => Self::Own {
                http: http.clone(),
                https: https.clone(),
            },
        }
    }

    /// For requests of the default chain, which are none of the store's traffic.
    pub(super) fn to_credentials() -> Self {
        Self::Environment {
            matcher: Matcher::from_env(),
            direct: &GIVE_CREDENTIALS,
        }
    }

    /// The proxy on the way to this address.
    pub(super) fn on_the_way(&self, to: &Uri) -> Option<Via> {
        match self {
            Self::Own { http, https } => {
                let proxy = match to.scheme_str() {
                    Some("https") => https,
                    _ => http,
                };
                proxy.as_ref().map(|proxy| Via {
                    proxy: proxy.address().clone(),
                    authorization: proxy.authorization(),
                })
            }
            Self::Environment { direct, .. } if direct.contains(&to.host()?) => None,
            Self::Environment { matcher, .. } => matcher.intercept(to).map(|found| Via {
                proxy: found.uri().clone(),
                authorization: found.basic_auth().cloned(),
            }),
        }
    }
}
