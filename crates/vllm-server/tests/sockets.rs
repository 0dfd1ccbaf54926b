//! HTTPS and Unix sockets.

mod support;

use std::sync::Arc;

use support::{mock, read_answer, serve};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use vllm_server::{
    BoundSocket, ClientCertificates, ExitCause, Listen, Server, ServerConfig, Shutdown, TlsConfig,
};

const VERSION: &[u8] = b"GET /version HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn https_is_served_to_those_who_trust_the_certificate() {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let mut config = ServerConfig::default();
    config.http.tls = Some(TlsConfig {
        certificate,
        key,
        client_authorities: None,
        client_certificates: ClientCertificates::None,
    });
    config.validate().unwrap();
    let server = serve(config).await;

    let mut trusted = RootCertStore::empty();
    trusted.add(issued.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    let mut stream = connector
        .connect(name, server.connect().await)
        .await
        .unwrap();
    stream.write_all(VERSION).await.unwrap();
    let answer = read_answer(stream).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, r#"{"version":"0.32.0"}"#)
    );
}

#[tokio::test]
async fn a_unix_socket_is_served_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut config = ServerConfig::default();
    config.http.listen = Listen::Unix(path.clone());
    let socket = BoundSocket::bind(&config.http.listen).await.unwrap();
    assert_eq!(socket.local_addr(), None);
    let shutdown = Shutdown::new();
    let server = Server::new(&config, Arc::new(mock()), shutdown.clone()).unwrap();
    let ended = tokio::spawn(server.serve(socket));
    let mut stream = loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    stream.write_all(VERSION).await.unwrap();
    assert_eq!(read_answer(stream).await.status, 200);
    shutdown.trigger();
    assert_eq!(ended.await.unwrap().unwrap(), ExitCause::Stopped);
    assert!(!path.exists());
}

#[test]
fn what_cannot_be_served_is_known_before_a_model_is_loaded() {
    let check = |change: fn(&mut ServerConfig), mention: &str| {
        let mut config = ServerConfig::default();
        change(&mut config);
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains(mention), "{message}");
    };
    check(
        |config| config.api.tool_call_parser = Some("mystery".to_owned()),
        "mystery",
    );
    check(
        |config| config.api.chat_template = Some("{% if".to_owned()),
        "--chat-template",
    );
    ServerConfig::default().validate().unwrap();
}
