//! The store that an address names, with the settings of the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{
    ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreScheme, Result, RetryConfig,
};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use url::{Position, Url};

/// Environment variables that may name an endpoint without encryption, such as a store of one's
/// own. Naming one is permission enough.
const ENDPOINTS: [&str; 5] = [
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AZURE_STORAGE_ENDPOINT",
    "GOOGLE_BASE_URL",
];

/// Requests that fail for now are sent again, but not for so long that a wrong name seems to hang.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 5,
        retry_timeout: Duration::from_secs(60),
        ..RetryConfig::default()
    }
}

/// Opens the store and tells the object's place in it.
pub(crate) fn open(url: &Url) -> Result<(Arc<dyn ObjectStore>, ObjectPath)> {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have been first, with the same one.
        let _ = ring::default_provider().install_default();
    }
    let plain_endpoint = ENDPOINTS
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .any(|endpoint| endpoint.starts_with("http://"));
    let (scheme, path) = ObjectStoreScheme::parse(url)?;
    let text = url.as_str();
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let mut builder = AmazonS3Builder::from_env()
                .with_url(text)
                .with_retry(retries());
            if plain_endpoint {
                builder = builder.with_allow_http(true);
            }
            Arc::new(builder.build()?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let mut builder = GoogleCloudStorageBuilder::from_env()
                .with_url(text)
                .with_retry(retries());
            if plain_endpoint {
                let key = object_store::gcp::GoogleConfigKey::Client(ClientConfigKey::AllowHttp);
                builder = builder.with_config(key, "true");
            }
            Arc::new(builder.build()?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let mut builder = MicrosoftAzureBuilder::from_env()
                .with_url(text)
                .with_retry(retries());
            if plain_endpoint {
                builder = builder.with_allow_http(true);
            }
            Arc::new(builder.build()?)
        }
        _ => {
            let options = ClientOptions::new().with_allow_http(url.scheme() == "http");
            let builder = HttpBuilder::new()
                .with_url(&url[..Position::BeforePath])
                .with_client_options(options)
                .with_retry(retries());
            Arc::new(builder.build()?)
        }
    };
    Ok((store, path))
}

/// What transfers run on. They are few and long, so one thread is enough.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
