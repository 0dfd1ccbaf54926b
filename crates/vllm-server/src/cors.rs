//! Cross-origin access: pre-flight answers and the headers that let a browser read a response.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::config::CorsConfig;

/// Methods that `*` stands for.
const ALL_METHODS: [&str; 8] = [
    "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY",
];

/// Headers that browsers may always send.
const SAFE_HEADERS: [&str; 4] = [
    "Accept",
    "Accept-Language",
    "Content-Language",
    "Content-Type",
];

/// Seconds for which a browser may remember a pre-flight answer.
const MAX_AGE: &str = "600";

/// The rules, as configured.
#[derive(Debug)]
pub(crate) struct Cors {
    any_origin: bool,
    origins: Vec<String>,
    methods: Vec<String>,
    any_header: bool,
    headers: Vec<String>,
    credentials: bool,
}

/// What of a request is still needed when its answer is there.
#[derive(Debug)]
pub(crate) struct Origin {
    value: Option<HeaderValue>,
    has_cookie: bool,
}

impl Origin {
    pub(crate) fn of(request: &Request) -> Self {
        let headers = request.headers();
        Self {
            value: headers.get(header::ORIGIN).cloned(),
            has_cookie: headers.contains_key(header::COOKIE),
        }
    }
}

impl Cors {
    pub(crate) fn new(config: &CorsConfig) -> Self {
        let has_star = |list: &[String]| list.iter().any(|item| item == "*");
        let methods = if has_star(&config.methods) {
            ALL_METHODS.map(str::to_owned).to_vec()
        } else {
            config.methods.clone()
        };
        let mut headers = SAFE_HEADERS.map(str::to_owned).to_vec();
        headers.extend(config.headers.iter().cloned());
        headers.sort();
        headers.dedup();
        Self {
            any_origin: has_star(&config.origins),
            origins: config.origins.clone(),
            methods,
            any_header: has_star(&config.headers),
            headers,
            credentials: config.credentials,
        }
    }

    /// The answer to a pre-flight request; `None` for every other request.
    pub(crate) fn preflight(&self, request: &Request) -> Option<Response> {
        let headers = request.headers();
        let origin = headers.get(header::ORIGIN)?;
        if request.method() != Method::OPTIONS {
            return None;
        }
        let method = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let requested_headers = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);

        let mut refused = Vec::new();
        let mut answer = HeaderMap::new();
        if !self.allows(origin) {
            refused.push("origin");
        } else if self.any_origin && !self.credentials {
            answer.insert(
                header::ACCESS_CONTROL_ALLOW_ORIGIN,
                HeaderValue::from_static("*"),
            );
        } else {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        if !self
            .methods
            .iter()
            .any(|allowed| allowed.as_bytes() == method.as_bytes())
        {
            refused.push("method");
        }
        match requested_headers {
            Some(requested) if self.any_header => {
                answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
            }
            Some(requested) if !self.allows_headers(requested) => refused.push("headers"),
            _ if !self.any_header => {
                insert_list(
                    &mut answer,
                    header::ACCESS_CONTROL_ALLOW_HEADERS,
                    &self.headers,
                );
            }
            _ => {}
        }
        insert_list(
            &mut answer,
            header::ACCESS_CONTROL_ALLOW_METHODS,
            &self.methods,
        );
        answer.insert(
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static(MAX_AGE),
        );
        answer.insert(header::VARY, HeaderValue::from_static("Origin"));
        if self.credentials {
            answer.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        let (status, body) = if refused.is_empty() {
            (StatusCode::OK, "OK".to_owned())
        } else {
            (
                StatusCode::BAD_REQUEST,
                format!("Disallowed CORS {}", refused.join(", ")),
            )
        };
        Some((status, answer, body).into_response())
    }

    /// Adds what a browser needs to a response; `vary: Origin` in any case.
    pub(crate) fn decorate(&self, origin: Origin, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let Some(value) = origin.value else { return };
        if self.credentials {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        if self.any_origin && !origin.has_cookie {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_ORIGIN,
                HeaderValue::from_static("*"),
            );
        } else if self.allows(&value) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.any_origin
            || self
                .origins
                .iter()
                .any(|allowed| allowed.as_bytes() == origin.as_bytes())
    }

    fn allows_headers(&self, requested: &HeaderValue) -> bool {
        let Ok(requested) = requested.to_str() else {
            return false;
        };
        requested.split(',').map(str::trim).all(|name| {
            name.is_empty()
                || self
                    .headers
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(name))
        })
    }
}

fn insert_list(headers: &mut HeaderMap, name: header::HeaderName, items: &[String]) {
    if let Ok(value) = HeaderValue::from_str(&items.join(", ")) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn config(origins: &[&str]) -> CorsConfig {
        CorsConfig {
            origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            ..CorsConfig::default()
        }
    }

    fn preflight(config: &CorsConfig, origin: &str, method: &str, headers: &str) -> Response {
        let request = Request::builder()
            .method("OPTIONS")
            .uri("/v1/completions")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", method)
            .header("Access-Control-Request-Headers", headers)
            .body(Body::empty())
            .unwrap();
        Cors::new(config).preflight(&request).unwrap()
    }

    #[test]
    fn an_allowed_origin_is_welcome() {
        let answer = preflight(
            &config(&["https://a.example"]),
            "https://a.example",
            "POST",
            "x-y",
        );
        assert_eq!(answer.status(), 200);
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("access-control-allow-origin"), "https://a.example");
        assert_eq!(header("access-control-max-age"), "600");
        assert_eq!(header("access-control-allow-headers"), "x-y");
        assert_eq!(
            header("access-control-allow-methods"),
            "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, QUERY"
        );
    }

    #[test]
    fn refusals_are_400() {
        let check = |config: &CorsConfig, origin, method, headers| {
            let answer = preflight(config, origin, method, headers);
            assert_eq!(answer.status(), 400);
        };
        check(&config(&[]), "https://a.example", "POST", "");
        check(
            &config(&["https://b.example"]),
            "https://a.example",
            "POST",
            "",
        );
        check(&config(&["*"]), "https://a.example", "BREW", "");
        let strict = CorsConfig {
            headers: vec!["X-Mine".to_owned()],
            ..config(&["*"])
        };
        check(&strict, "https://a.example", "POST", "x-other");
        assert_eq!(
            preflight(&strict, "https://a.example", "POST", "x-mine").status(),
            200
        );
    }

    #[test]
    fn responses_vary_by_origin_and_name_it_when_allowed() {
        let check = |origins: &[&str], origin: Option<&str>, expected: Option<&str>| {
            let origin = Origin {
                value: origin.map(|origin| HeaderValue::from_str(origin).unwrap()),
                has_cookie: false,
            };
            let mut headers = HeaderMap::new();
            Cors::new(&config(origins)).decorate(origin, &mut headers);
            assert_eq!(headers["vary"], "Origin");
            let allowed = headers.get("access-control-allow-origin");
            assert_eq!(allowed.map(|value| value.to_str().unwrap()), expected);
        };
        check(&[], None, None);
        check(&[], Some("https://a.example"), None);
        check(
            &["https://a.example"],
            Some("https://a.example"),
            Some("https://a.example"),
        );
        check(&["*"], Some("https://a.example"), Some("*"));
        check(&["*"], None, None);
    }
}
