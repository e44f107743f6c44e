//! The address of a proxy, and the login that it wants.

use std::{fmt, str::Utf8Error};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::location::{InvalidLocation, Secret, http_uri, without_user_info};

/// A proxy: `http(s)://[user:password@]host[:port]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    address: Uri,
    /// `user:password`, as basic authentication has it.
    login: Option<Secret>,
}

impl Proxy {
    /// Parses a proxy's address; the empty text is `None`. `field` is named in errors. User and
    /// password are percent-encoded, as everywhere in URLs.
    pub fn parse(field: &'static str, proxy: &str) -> Result<Option<Self>, InvalidLocation> {
        if proxy.is_empty() {
            return Ok(None);
        }
        let refuse = |reason: &str| InvalidLocation {
            field,
            value: without_user_info(proxy),
            reason: reason.to_owned(),
        };
        const PARTS: &str = "has a path, query or fragment; it should be \
                             http(s)://[user:password@]host:port, where '/', '?', '#', '@' and '%' \
                             in user and password are written %2F, %3F, %23, %40 and %25";
        let (login, without_login) = split_login(proxy);
        if without_login.contains(['@', '?', '#']) {
            return Err(refuse(PARTS));
        }
        let wants = "http(s)://[user:password@]host:port";
        let address =
            http_uri(field, &without_login, wants).map_err(|invalid| refuse(&invalid.reason))?;
        if !matches!(address.path(), "" | "/") {
            return Err(refuse(PARTS));
        }
        Ok(Some(Self {
            address,
            login: login
                .map(decode_login)
                .transpose()
                .map_err(|_| refuse("has a user or password that is not UTF-8"))?,
        }))
    }

    /// Where it is, without user and password.
    pub(crate) fn address(&self) -> &Uri {
        &self.address
    }

    /// What it is told, if it wants to know who comes.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        let login = self.login.as_ref()?;
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(login.reveal()));
        let basic = Zeroizing::new(format!("Basic {}", *encoded));
        let mut value = HeaderValue::from_str(&basic).expect("base64 fits into a header");
        value.set_sensitive(true);
        Some(value)
    }
}

/// Shows neither user nor password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.address)
    }
}

/// What stands before the host of a URL, and the URL without it.
fn split_login(url: &str) -> (Option<&str>, String) {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let (scheme, rest) = url.split_at(host);
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((login, host)) => (Some(login), format!("{scheme}{host}{tail}")),
        None => (None, url.to_owned()),
    }
}

fn decode_login(login: &str) -> Result<Secret, Utf8Error> {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let user = percent_decode_str(user).decode_utf8()?;
    let password = Zeroizing::new(percent_decode_str(password).decode_utf8()?.into_owned());
    Ok(Secret::new(format!("{user}:{}", *password)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Proxy>, InvalidLocation> {
        Proxy::parse("http_proxy", text)
    }

    #[test]
    fn user_and_password_are_taken_out_of_the_address_and_decoded() {
        for (text, address, login) in [
            ("http://proxy:3128", "http://proxy:3128/", None),
            ("https://u:p@proxy", "https://proxy/", Some("u:p")),
            ("http://u@[::1]:1/", "http://[::1]:1/", Some("u:")),
            (
                "http://u%3A:p%2F%40%20%C3%A9@p:1",
                "http://p:1/",
                Some("u::p/@ \u{e9}"),
            ),
            ("http://u:a:b@p", "http://p/", Some("u:a:b")),
        ] {
            let proxy = parse(text).expect(text).expect("not empty");
            assert_eq!(proxy.address().to_string(), address);
            assert_eq!(proxy.login.as_ref().map(Secret::reveal), login);
            let authorization = proxy.authorization();
            let encoded = login.map(|login| format!("Basic {}", BASE64_STANDARD.encode(login)));
            let sent = authorization
                .as_ref()
                .map(|value| value.to_str().expect("ASCII"));
            assert_eq!(sent, encoded.as_deref());
            assert!(authorization.is_none_or(|value| value.is_sensitive()));
        }
        assert_eq!(parse(""), Ok(None));
    }

    #[test]
    fn neither_secrets_nor_proxy_passwords_print() {
        let proxy = parse("http://user:pass@proxy:3128").expect("valid");
        let shown = format!("{proxy:?} {:?}", Secret::new("hunter2"));
        assert!(
            !shown.contains("pass") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
