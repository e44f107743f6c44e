//! Whom TLS trusts: the system's authorities, those of the configuration, or anybody.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};

/// Certificates of authorities that are trusted beside the system's, such as a company's own.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Authorities(Vec<CertificateDer<'static>>);

/// Why a file of certificates cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct InvalidCaFile {
    path: PathBuf,
    reason: String,
}

impl Authorities {
    /// Reads a bundle of certificates in PEM form, at least one.
    pub fn read(path: &Path) -> Result<Self, InvalidCaFile> {
        let refuse = |reason: String| InvalidCaFile {
            path: path.to_owned(),
            reason,
        };
        let broken = |error: pem::Error| match error {
            pem::Error::Io(error) => refuse(format!("cannot be read: {error}")),
            other => refuse(format!("is not in PEM form: {other}")),
        };
        let certificates = CertificateDer::pem_file_iter(path)
            .map_err(broken)?
            .collect::<Result<Vec<_>, _>>()
            .map_err(broken)?;
        if certificates.is_empty() {
            return Err(refuse(
                "has no certificate; it should have those of one or more authorities in PEM form \
                 (-----BEGIN CERTIFICATE-----)"
                    .into(),
            ));
        }
        let mut store = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            store.add(certificate.clone()).map_err(|error| {
                refuse(format!(
                    "certificate {} in it cannot be used: {error}",
                    index + 1
                ))
            })?;
        }
        Ok(Self(certificates))
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

/// What this host trusts by itself.
pub(super) struct System {
    store: RootCertStore,
    /// Sentences about what could not be read.
    problems: Vec<String>,
}

impl System {
    /// How many there are, and what is wrong with them.
    pub(super) fn describe(&self) -> String {
        let mut text = match self.store.len() {
            0 => "the system has no authorities".to_owned(),
            count => format!("the system has {count}"),
        };
        for problem in &self.problems {
            text.push_str("; ");
            text.push_str(problem);
        }
        text
    }
}

/// The certificates of `AWS_CA_BUNDLE` where that is set, as for AWS's own tools; else those of
/// `SSL_CERT_FILE` and `SSL_CERT_DIR`; else the system's. Read once.
pub(super) fn system() -> &'static System {
    static SYSTEM: OnceLock<System> = OnceLock::new();
    SYSTEM.get_or_init(|| {
        let bundle = env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty());
        let (certificates, problems) = match bundle {
            Some(path) => match Authorities::read(Path::new(&path)) {
                Ok(authorities) => (authorities.0, Vec::new()),
                Err(error) => (Vec::new(), vec![format!("AWS_CA_BUNDLE {error}")]),
            },
            None => {
                let found = rustls_native_certs::load_native_certs();
                let problems = found.errors.iter().map(ToString::to_string).collect();
                (found.certs, problems)
            }
        };
        for problem in &problems {
            tracing::warn!(problem, "cannot read some of the certificates to trust");
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates);
        System { store, problems }
    })
}

/// TLS with the system's authorities and these, or with any certificate.
pub(super) fn client_config(verify: bool, authorities: &Authorities) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3");
    if verify {
        let mut trusted = system().store.clone();
        trusted.add_parsable_certificates(authorities.0.iter().cloned());
        builder
            .with_root_certificates(trusted)
            .with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth()
    }
}

/// What `verify_tls` false means: any certificate will do, signatures must still be right.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
