//! The store that an address names, with the settings of the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{ClientConfigKey, ClientOptions, ObjectStore, Result, RetryConfig};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use url::{Position, Url};

use crate::provider::Provider;

/// Environment variables that may name an endpoint without encryption, such as a store of one's
/// own. Naming one is permission enough.
const ENDPOINTS: [&str; 5] = [
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AZURE_STORAGE_ENDPOINT",
    "GOOGLE_BASE_URL",
];

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Fetch,
    Send,
}

impl Direction {
    /// How long to wait for one request, and for the next bytes of an answer. An answer may be
    /// as long as a data set, so only silence ends it; nothing shows whether the bytes of
    /// a request move, so it has a time that does for its size on a slow line.
    fn timeouts(self, provider: Provider) -> [(ClientConfigKey, &'static str); 2] {
        let (request, silence) = match (self, provider) {
            (Self::Fetch, _) => ("30 days", "60 seconds"),
            (Self::Send, Provider::Web) => ("1 hour", "1 hour"),
            (Self::Send, _) => ("5 minutes", "5 minutes"),
        };
        [
            (ClientConfigKey::Timeout, request),
            (ClientConfigKey::ReadTimeout, silence),
        ]
    }
}

/// Requests that fail for now are sent again, but not for so long that a wrong name seems to hang;
/// longer where the results of a night are at stake.
fn retries(direction: Direction) -> RetryConfig {
    RetryConfig {
        max_retries: match direction {
            Direction::Fetch => 6,
            Direction::Send => 10,
        },
        retry_timeout: Duration::from_secs(600),
        ..RetryConfig::default()
    }
}

/// Opens the store and tells the object's place in it.
pub(crate) fn open(url: &Url, direction: Direction) -> Result<(Arc<dyn ObjectStore>, ObjectPath)> {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have been first, with the same one.
        let _ = ring::default_provider().install_default();
    }
    let provider = Provider::of(url);
    let plain_endpoint = ENDPOINTS
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .any(|endpoint| endpoint.starts_with("http://"));
    let mut settings = direction.timeouts(provider).to_vec();
    if plain_endpoint || url.scheme() == "http" {
        settings.push((ClientConfigKey::AllowHttp, "true"));
    }
    let text = url.as_str();
    let store: Arc<dyn ObjectStore> = match provider {
        Provider::S3 => {
            let builder = AmazonS3Builder::from_env()
                .with_url(text)
                .with_retry(retries(direction));
            let set = |builder: AmazonS3Builder, (key, value): (ClientConfigKey, &str)| {
                builder.with_config(AmazonS3ConfigKey::Client(key), value)
            };
            Arc::new(settings.into_iter().fold(builder, set).build()?)
        }
        Provider::Google => {
            let builder = GoogleCloudStorageBuilder::from_env()
                .with_url(text)
                .with_retry(retries(direction));
            let set = |builder: GoogleCloudStorageBuilder,
                       (key, value): (ClientConfigKey, &str)| {
                builder.with_config(GoogleConfigKey::Client(key), value)
            };
            Arc::new(settings.into_iter().fold(builder, set).build()?)
        }
        Provider::Azure => {
            let builder = MicrosoftAzureBuilder::from_env()
                .with_url(text)
                .with_retry(retries(direction));
            let set = |builder: MicrosoftAzureBuilder, (key, value): (ClientConfigKey, &str)| {
                builder.with_config(AzureConfigKey::Client(key), value)
            };
            Arc::new(settings.into_iter().fold(builder, set).build()?)
        }
        Provider::Web => {
            let set = |options: ClientOptions, (key, value): (ClientConfigKey, &str)| {
                options.with_config(key, value)
            };
            let options = settings.into_iter().fold(ClientOptions::new(), set);
            let builder = HttpBuilder::new()
                .with_url(&url[..Position::BeforePath])
                .with_client_options(options)
                .with_retry(retries(direction));
            Arc::new(builder.build()?)
        }
    };
    Ok((store, ObjectPath::from_url_path(url.path())?))
}

/// What transfers run on. They are few and long, so one thread is enough.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
