//! Why no answer came from a store, in sentences that say what to do.
//!
//! Errors of TLS, sockets and proxies come up through several crates, each of which wraps what it
//! was given; here the cause is looked for and named.

use std::{error::Error, io};

use aws_smithy_types::date_time::{DateTime, Format};
use http::{StatusCode, Uri};
use rustls::{AlertDescription, CertificateError, InvalidMessage, pki_types::UnixTime};

use super::tls;

/// A sentence that goes on from "no success with ENDPOINT: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub(super) struct Trouble {
    sentence: String,
    /// Whether trying again is in vain until somebody changes something.
    pub(super) lasting: bool,
}

impl Trouble {
    pub(super) fn passing(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            lasting: false,
        }
    }

    pub(super) fn lasting(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            lasting: true,
        }
    }

    /// The trouble behind an error of the HTTP client or of a connection.
    pub(super) fn behind(error: &(dyn Error + 'static)) -> Self {
        let innermost = || causes(error).last().map(ToString::to_string);
        causes(error)
            .find_map(known)
            .unwrap_or_else(|| Self::passing(innermost().unwrap_or_default()))
    }

    /// The same trouble, had with this proxy.
    pub(super) fn of_proxy(self, proxy: &Uri) -> Self {
        Self {
            sentence: format!("the proxy {}: {}", bare(proxy), self.sentence),
            ..self
        }
    }

    /// A proxy that answers a request with this status instead of passing it on.
    pub(super) fn refused_by_proxy(proxy: &Uri, status: StatusCode) -> Self {
        let sentence = match status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                "it wants another user or password (status 407); the proxy's address should be \
                 http://user:password@host:port"
                    .to_owned()
            }
            status => format!("it does not pass the request on (status {status})"),
        };
        let lasting = status.is_client_error()
            && !matches!(
                status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            );
        Self { sentence, lasting }.of_proxy(proxy)
    }

    /// A server that answers a plain request in TLS.
    pub(super) fn speaks_tls() -> Self {
        Self::lasting("it speaks TLS; the endpoint should begin with https://")
    }
}

/// The address of a proxy as people write it.
fn bare(proxy: &Uri) -> String {
    proxy.to_string().trim_end_matches('/').to_owned()
}

/// An error and all that is behind it. What an I/O error holds is no source of it.
fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> + use<'a> {
    std::iter::successors(Some(error), |&error| {
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match held {
            Some(held) => Some(held as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

fn known(cause: &(dyn Error + 'static)) -> Option<Trouble> {
    if let Some(trouble) = cause.downcast_ref::<Trouble>() {
        return Some(trouble.clone());
    }
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return Some(of_tls(error));
    }
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        return of_http(error);
    }
    let error = cause.downcast_ref::<io::Error>()?;
    error.get_ref().is_none().then(|| of_socket(error))
}

fn of_http(error: &hyper::Error) -> Option<Trouble> {
    if error.is_parse() {
        Some(Trouble::passing("what it answers is not HTTP"))
    } else if error.is_incomplete_message() {
        Some(Trouble::passing(
            "it ended the connection without an answer",
        ))
    } else {
        None
    }
}

fn of_socket(error: &io::Error) -> Trouble {
    Trouble::passing(match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "the connection was refused; nobody listens there".to_owned()
        }
        io::ErrorKind::ConnectionReset => "the connection was reset".to_owned(),
        io::ErrorKind::TimedOut => "no connection could be made in time".to_owned(),
        io::ErrorKind::UnexpectedEof => "it ended the connection in the middle".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no route to it".to_owned()
        }
        _ => error.to_string(),
    })
}

fn of_tls(error: &rustls::Error) -> Trouble {
    match error {
        rustls::Error::InvalidCertificate(why) => of_certificate(why),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Trouble::lasting("it does not speak TLS; the endpoint should begin with http://")
        }
        rustls::Error::PeerIncompatible(why) => Trouble::lasting(format!(
            "it has no version or cipher of TLS in common with us ({why:?})"
        )),
        rustls::Error::AlertReceived(alert) => Trouble {
            sentence: format!("it refuses the TLS handshake ({alert:?})"),
            lasting: is_about_the_handshake(*alert),
        },
        other => Trouble::passing(format!("TLS failed: {other}")),
    }
}

fn is_about_the_handshake(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity
            | AlertDescription::CertificateRequired
            | AlertDescription::UnrecognisedName
    )
}

/// A certificate that does not verify now will not in a minute.
fn of_certificate(error: &CertificateError) -> Trouble {
    const OR: &str = "or set verify_tls to false, which accepts any certificate";
    Trouble::lasting(match error {
        // A bad signature: somebody of the same name as an authority that is trusted.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "its certificate is issued by no authority that is trusted here ({}); add the \
             authority's to s3.ca-file in the server's configuration, {OR}",
            tls::system().describe()
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "its certificate is for {} and not for {}; reach it by a name that the certificate \
             has, {OR}",
            names(presented),
            expected.to_str()
        ),
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "its certificate has expired ({}); renew it, {OR}",
            date(*not_after)
        ),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "its certificate is not valid before {}; check this host's clock, {OR}",
            date(*not_before)
        ),
        // webpki takes no certificate for a server's that says it is an authority's, which one
        // made by `openssl req -x509` does.
        CertificateError::Other(why) if format!("{why:?}").contains("CaUsedAsEndEntity") => {
            format!(
                "its certificate is an authority's own (CA:TRUE); give it one that such an \
                 authority issued, or one with CA:FALSE, {OR}"
            )
        }
        other => format!("its certificate cannot be accepted ({other}); replace it, {OR}"),
    })
}

/// They come as `DnsName("store.example")`.
fn names(presented: &[String]) -> String {
    let bare = presented
        .iter()
        .map(|name| name.split('"').nth(1).unwrap_or(name));
    bare.collect::<Vec<_>>().join(", ")
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    DateTime::from_secs(seconds)
        .fmt(Format::DateTime)
        .unwrap_or_else(|_| format!("{seconds} s after 1970"))
}
