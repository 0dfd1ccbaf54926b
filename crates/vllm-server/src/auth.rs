//! Bearer keys: which paths need one, and a comparison that tells nothing by its duration.

use axum::extract::Request;
use http::{Method, header};
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

/// Paths that start with one of these need a key. The rule is by plain prefix, before routing.
const GUARDED_PREFIXES: [&str; 4] = ["/v1", "/v2", "/inference", "/cohere"];

/// Digests of the accepted keys.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    digests: Vec<[u8; 32]>,
}

impl ApiKeys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self {
            digests: keys.iter().map(|key| sha256(key.as_bytes())).collect(),
        }
    }

    /// Whether the request may pass: no keys are configured, its path is free, it is an
    /// `OPTIONS`, or it carries one of the keys.
    pub(crate) fn admits(&self, request: &Request) -> bool {
        let path = request.uri().path();
        if self.digests.is_empty()
            || request.method() == Method::OPTIONS
            || !GUARDED_PREFIXES
                .iter()
                .any(|prefix| path.starts_with(prefix))
        {
            return true;
        }
        let Some(value) = request.headers().get(header::AUTHORIZATION) else {
            return false;
        };
        self.accepts(value.as_bytes())
    }

    /// Whether an `Authorization` value is `Bearer`, in any case, one space, and a known key.
    /// All keys are compared, whichever matches.
    fn accepts(&self, authorization: &[u8]) -> bool {
        let Some(space) = authorization.iter().position(|byte| *byte == b' ') else {
            return false;
        };
        let (scheme, key) = (&authorization[..space], &authorization[space + 1..]);
        if !scheme.eq_ignore_ascii_case(b"bearer") {
            return false;
        }
        let candidate = sha256(key);
        let matches = self.digests.iter().fold(0, |found, digest| {
            found | digest.ct_eq(&candidate).unwrap_u8()
        });
        matches == 1
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(digest(&SHA256, bytes).as_ref());
    array
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn check(method: &str, path: &str, authorization: Option<&str>, expected: bool) {
        let keys = ApiKeys::new(&["secret".to_owned(), "other".to_owned()]);
        let mut request = Request::builder().method(method).uri(path);
        if let Some(value) = authorization {
            request = request.header("Authorization", value);
        }
        let request = request.body(Body::empty()).unwrap();
        assert_eq!(
            keys.admits(&request),
            expected,
            "{method} {path} {authorization:?}"
        );
    }

    #[test]
    fn every_known_key_opens_a_guarded_path_and_nothing_else_does() {
        for good in ["Bearer secret", "bearer secret", "BEARER other"] {
            check("GET", "/v1/models", Some(good), true);
        }
        for bad in [
            "secret",
            "Basic secret",
            "Bearer  secret",
            "Bearer secret ",
            "Bearer",
            "Bearer ",
            "",
        ] {
            check("GET", "/v1/models", Some(bad), false);
        }
        check("GET", "/v1/models", None, false);
    }

    #[test]
    fn the_path_decides_by_prefix() {
        for guarded in [
            "/v1",
            "/v1x",
            "/v1/nothing",
            "/v2/embed",
            "/inference/v1",
            "/cohere",
        ] {
            check("POST", guarded, None, false);
        }
        for free in [
            "/health",
            "/tokenize",
            "/metrics",
            "/",
            "/V1/models",
            "/x/v1",
        ] {
            check("POST", free, None, true);
        }
    }

    #[test]
    fn options_is_never_checked() {
        check("OPTIONS", "/v1/models", None, true);
    }

    #[test]
    fn without_keys_everything_passes() {
        let request = Request::builder()
            .uri("/v1/models")
            .body(Body::empty())
            .unwrap();
        assert!(ApiKeys::new(&[]).admits(&request));
    }
}
