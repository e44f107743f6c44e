//! Which proxy a request goes through.
//!
//! A request that names proxies goes through them and through none else: neither the
//! environment's proxies nor its `NO_PROXY` concern it. One that names none goes through those of
//! the environment, unless `NO_PROXY` excepts the host, or it is this host.

use std::net::IpAddr;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

use super::location::{Proxy, StoreConfig};

/// Where a cloud gives credentials away, to this host and no other.
const GIVE_CREDENTIALS: [&str; 5] = [
    "169.254.169.254",
    "[fd00:ec2::254]",
    "169.254.170.2",
    "169.254.170.23",
    "[fd00:ec2::23]",
];

/// The proxies of a request.
pub(super) enum Proxies {
    Own {
        http: Option<Proxy>,
        https: Option<Proxy>,
    },
    Environment(Matcher),
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
            (None, None) => Self::of_environment(),
            (http, https) => Self::Own {
                http: http.clone(),
                https: https.clone(),
            },
        }
    }

    /// For all requests that are none of a request's traffic to its store.
    pub(super) fn of_environment() -> Self {
        Self::Environment(Matcher::from_env())
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
            Self::Environment(_) if is_of_this_host(to.host()?) => None,
            Self::Environment(matcher) => matcher.intercept(to).map(|found| Via {
                proxy: found.uri().clone(),
                authorization: found.basic_auth().cloned(),
            }),
        }
    }
}

/// Whether no proxy can reach it: another host that asked would reach itself.
fn is_of_this_host(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost"
        || address.is_ok_and(|address| address.is_loopback())
        || GIVE_CREDENTIALS.contains(&host)
}
