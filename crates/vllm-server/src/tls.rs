//! HTTPS: certificate and key files into a rustls acceptor.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::config::{ClientCertificates, TlsConfig};
use crate::error::{Error, Result};

/// Reads the files and prepares handshakes.
///
/// # Errors
/// [`Error::Tls`] naming the file that is missing, is no PEM file, or does not fit.
pub(crate) fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor> {
    let certificates = read_certificates(&config.certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(&config.key).map_err(|error| tls_error(&config.key, error))?;
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_error(&config.certificate, error))?;
    let builder = match client_verifier(config)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder
        .with_single_cert(certificates, key)
        .map_err(|error| tls_error(&config.key, error))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn client_verifier(config: &TlsConfig) -> Result<Option<Arc<dyn ClientCertVerifier>>> {
    if config.client_certificates == ClientCertificates::None {
        return Ok(None);
    }
    let path = config.client_authorities.as_deref().ok_or_else(|| {
        Error::Config("--ssl-cert-reqs 1 and 2 need --ssl-ca-certs to check against".to_owned())
    })?;
    let mut authorities = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        authorities
            .add(certificate)
            .map_err(|error| tls_error(path, error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(
        Arc::new(authorities),
        Arc::new(default_provider()),
    );
    let builder = match config.client_certificates {
        ClientCertificates::Optional => builder.allow_unauthenticated(),
        ClientCertificates::None | ClientCertificates::Required => builder,
    };
    Ok(Some(
        builder.build().map_err(|error| tls_error(path, error))?,
    ))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| tls_error(path, error))?;
    if certificates.is_empty() {
        return Err(tls_error(path, "it holds no certificate"));
    }
    Ok(certificates)
}

fn tls_error(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Tls {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let missing = folder.path().join("missing.pem");
        let check = |certificate: &Path, expected: &str| {
            let config = TlsConfig {
                certificate: certificate.to_owned(),
                key: missing.clone(),
                client_authorities: None,
                client_certificates: ClientCertificates::None,
            };
            let Err(error) = acceptor(&config) else {
                panic!("must fail")
            };
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(&missing, "missing.pem");
        check(&empty, "empty.pem for HTTPS: it holds no certificate");
    }
}
