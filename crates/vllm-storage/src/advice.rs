//! What went wrong between here and a store, and what to do about it.

use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};

use crate::provider::Provider;
use crate::store::Direction;

/// Paths at which machines in a cloud are given credentials; who is asked there has none.
const METADATA_SERVICES: [&str; 4] = [
    "/latest/api/token",
    "/latest/meta-data/iam/",
    "/computeMetadata/",
    "/metadata/identity/",
];

/// One sentence, and behind it what the store or the network said.
pub(crate) fn explain(provider: Provider, direction: Direction, error: &StoreError) -> String {
    let said = chain(error);
    let place = provider.place();
    let credentials = provider.credentials();
    let elsewhere = provider.endpoint().map_or(String::new(), |variable| {
        format!(", or {variable} where it is a server of your own")
    });
    let advice = if METADATA_SERVICES.iter().any(|path| said.contains(path)) {
        let public = provider.anonymous().map_or(String::new(), |setting| {
            format!(", or {setting} for what everybody may read")
        });
        format!("no credentials were found; set {credentials}{public}")
    } else if is_bare_redirect(&said) {
        "the bucket is in another region; set AWS_REGION to it".to_owned()
    } else {
        match (error, direction) {
            (StoreError::NotFound { .. }, Direction::Fetch) => {
                format!("there is no such object; check its name and the {place}{elsewhere}")
            }
            (StoreError::NotFound { .. }, Direction::Send) => {
                format!("there is no such {place}; make it, or check its name{elsewhere}")
            }
            (StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. }, _) => {
                let deed = match direction {
                    Direction::Fetch => "read",
                    Direction::Send => "write",
                };
                format!("the store refuses; check {credentials}, and that they may {deed} there")
            }
            (StoreError::Precondition { .. }, _) => {
                "the object has changed meanwhile; give the command again".to_owned()
            }
            _ if is_unreachable(error) => format!(
                "the store cannot be reached; check the network, proxies (HTTPS_PROXY) and the \
                 address{elsewhere}, then give the command again"
            ),
            _ => format!(
                "the store cannot be used; check the {place}, {credentials} and the other settings \
                 in the environment"
            ),
        }
    };
    format!("{advice} ({said})")
}

/// What the library says of S3's answer to requests in the wrong region.
fn is_bare_redirect(said: &str) -> bool {
    said.contains("redirect without LOCATION")
}

/// Whether no answer came.
pub(crate) fn is_unreachable(error: &StoreError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(next) = cause {
        if let Some(http) = next.downcast_ref::<HttpError>() {
            return !matches!(http.kind(), HttpErrorKind::Decode | HttpErrorKind::Unknown);
        }
        cause = next.source();
    }
    false
}

/// An error with its causes, as far as they say something new.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let message = next.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = next.source();
    }
    text
}
