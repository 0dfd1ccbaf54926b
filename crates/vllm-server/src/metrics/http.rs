//! Requests by route, method and status, with their durations and sizes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, header};
use hyper::body::{Frame, SizeHint};
use vllm_engine::statistics::Histogram;

use super::text::{Exposition, HistogramSample};

/// Bounds of the one histogram without labels.
const FINE_BOUNDS: [f64; 21] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    7.5, 10.0, 30.0, 60.0,
];

/// Bounds of the histogram by route.
const COARSE_BOUNDS: [f64; 3] = [0.1, 0.5, 1.0];

/// Paths that contain one of these are not counted.
const UNCOUNTED: [&str; 6] = [
    "/metrics",
    "/health",
    "/load",
    "/ping",
    "/version",
    "/server_info",
];

/// Everything counted about HTTP.
#[derive(Debug)]
pub(crate) struct HttpMetrics {
    durations: Histogram,
    routes: Mutex<BTreeMap<Route, RouteMetrics>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    handler: String,
    method: String,
}

#[derive(Debug)]
struct RouteMetrics {
    /// By hundreds: 1xx to 5xx.
    statuses: [u64; 5],
    request_bytes: u64,
    response_bytes: u64,
    durations: Histogram,
}

impl RouteMetrics {
    fn new() -> Self {
        Self {
            statuses: [0; 5],
            request_bytes: 0,
            response_bytes: 0,
            durations: Histogram::new(&COARSE_BOUNDS),
        }
    }
}

impl HttpMetrics {
    pub(crate) fn new() -> Self {
        Self {
            durations: Histogram::new(&FINE_BOUNDS),
            routes: Mutex::default(),
        }
    }

    /// Adds the families to a page.
    pub(crate) fn expose(&self, page: &mut Exposition) {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut requests = Vec::new();
        let mut sizes = BTreeMap::<&str, (u64, u64, u64)>::new();
        let mut durations = Vec::new();
        for (route, metrics) in routes.iter() {
            let (handler, method) = (route.handler.as_str(), route.method.as_str());
            for (count, class) in metrics
                .statuses
                .iter()
                .zip(["1xx", "2xx", "3xx", "4xx", "5xx"])
            {
                if *count > 0 {
                    let labels = [("handler", handler), ("method", method), ("status", class)];
                    requests.push((labels, *count as f64));
                }
            }
            let size = sizes.entry(handler).or_default();
            size.0 += metrics.statuses.iter().sum::<u64>();
            size.1 += metrics.request_bytes;
            size.2 += metrics.response_bytes;
            let labels = [("handler", handler), ("method", method)];
            durations.push((
                labels,
                metrics.durations.cumulative_counts(),
                &metrics.durations,
            ));
        }

        let samples: Vec<_> = requests
            .iter()
            .map(|(labels, n)| (&labels[..], *n))
            .collect();
        page.counter(
            "http_requests",
            "Answered requests by route, method and class of status.",
            &samples,
        );
        let sizes: Vec<_> = sizes
            .into_iter()
            .map(|(handler, size)| ([("handler", handler)], size))
            .collect();
        let samples: Vec<_> = sizes
            .iter()
            .map(|(labels, size)| (&labels[..], size.0, size.1 as f64))
            .collect();
        page.summary(
            "http_request_size_bytes",
            "Announced lengths of request bodies.",
            &samples,
        );
        let samples: Vec<_> = sizes
            .iter()
            .map(|(labels, size)| (&labels[..], size.0, size.2 as f64))
            .collect();
        page.summary(
            "http_response_size_bytes",
            "Announced lengths of answers.",
            &samples,
        );

        let counts = self.durations.cumulative_counts();
        let sample = HistogramSample {
            bounds: self.durations.bounds(),
            cumulative_counts: &counts,
            sum: self.durations.sum(),
        };
        page.histogram(
            "http_request_duration_highr_seconds",
            "Seconds from a request's head to the end of its answer, finely.",
            &[(&[], sample)],
        );
        let samples: Vec<_> = durations
            .iter()
            .map(|(labels, counts, histogram)| {
                let sample = HistogramSample {
                    bounds: histogram.bounds(),
                    cumulative_counts: counts,
                    sum: histogram.sum(),
                };
                (&labels[..], sample)
            })
            .collect();
        page.histogram(
            "http_request_duration_seconds",
            "Seconds from a request's head to the end of its answer, by route.",
            &samples,
        );
    }

    fn record(&self, observation: &Observation) {
        let seconds = observation.began.elapsed().as_secs_f64();
        self.durations.observe(seconds);
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let route = routes
            .entry(observation.route.clone())
            .or_insert_with(RouteMetrics::new);
        let class = usize::from(observation.status.as_u16() / 100).clamp(1, 5) - 1;
        route.statuses[class] += 1;
        route.request_bytes += observation.request_bytes;
        route.response_bytes += observation.response_bytes;
        route.durations.observe(seconds);
    }
}

/// The layer around all routes: counts each request when the last byte of its answer is out.
pub(crate) async fn count(
    State(metrics): State<Arc<HttpMetrics>>,
    request: Request,
    next: Next,
) -> Response {
    if UNCOUNTED
        .iter()
        .any(|part| request.uri().path().contains(part))
    {
        return next.run(request).await;
    }
    let matched = request.extensions().get::<MatchedPath>();
    let handler = matched.map_or("none", MatchedPath::as_str).to_owned();
    let method = known_method(request.method()).to_owned();
    let request_bytes = content_length(request.headers());
    let began = Instant::now();
    let response = next.run(request).await;
    let (head, body) = response.into_parts();
    let length = body.size_hint().exact();
    let observation = Observation {
        metrics,
        route: Route { handler, method },
        status: head.status,
        began,
        request_bytes,
        response_bytes: length.unwrap_or(0),
    };
    if length.is_some() {
        // The observation is recorded as it is dropped here.
        return Response::from_parts(head, body);
    }
    Response::from_parts(
        head,
        Body::new(WithGuard {
            body,
            _guard: observation,
        }),
    )
}

/// Methods are a label, so that what a client invents must not become a new series.
fn known_method(method: &Method) -> &'static str {
    ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or("other")
}

fn content_length(headers: &HeaderMap) -> u64 {
    let value = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// What is known of a request; recorded when dropped.
struct Observation {
    metrics: Arc<HttpMetrics>,
    route: Route,
    status: StatusCode,
    began: Instant,
    request_bytes: u64,
    response_bytes: u64,
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.metrics.record(self);
    }
}

/// A body that keeps something until it has been sent or given up.
pub(crate) struct WithGuard<G> {
    pub(crate) body: Body,
    pub(crate) _guard: G,
}

impl<G: Unpin> HttpBody for WithGuard<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
