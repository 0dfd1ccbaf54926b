//! `/openapi.json`, written from the table of routes, and the pages that show it.

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};
use vllm_openai::{PROTOCOL_VERSION, request_schemas};

use super::Route;
use crate::reply;

/// Shows the document without anything from elsewhere.
const PAGE: &str = include_str!("docs.html");

/// FastAPI's page for logging in; no route here needs it, but clients may look.
const REDIRECT_PAGE: &str =
    "<!doctype html><html lang=\"en\"><title>vLLM API</title><p>No login is needed.</p></html>\n";

/// The pages about `routes`.
pub(super) fn pages(routes: &[Route]) -> [Route; 4] {
    let document = Bytes::from(document(routes).to_string());
    let json = move || {
        let document = document.clone();
        async move { reply::with_type(StatusCode::OK, "application/json", Body::from(document)) }
    };
    [
        Route::page("/openapi.json", json),
        Route::page("/docs", || async { html(PAGE) }),
        Route::page("/redoc", || async { html(PAGE) }),
        Route::page("/docs/oauth2-redirect", || async { html(REDIRECT_PAGE) }),
    ]
}

fn html(page: &'static str) -> Response {
    reply::with_type(StatusCode::OK, "text/html; charset=utf-8", Body::from(page))
}

fn document(routes: &[Route]) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let operations = route.methods.split(", ");
        let operations: Map<String, Value> = operations
            .map(|method| (method.to_ascii_lowercase(), operation(route, method)))
            .collect();
        paths.insert(route.path.to_owned(), Value::Object(operations));
    }
    let schemas: Map<String, Value> = request_schemas()
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "vLLM API", "version": PROTOCOL_VERSION },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(route: &Route, method: &str) -> Value {
    let name: String = route
        .path
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '_'
            }
        })
        .collect();
    let mut operation = json!({
        "operationId": format!("{}_{}", method.to_ascii_lowercase(), name.trim_matches('_')),
        "responses": {
            "200": { "description": "Successful Response" },
            "default": { "description": "Error" },
        },
    });
    let parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if let Some(schema) = body_schema(route.bodies) {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": schema } },
        });
    }
    if route.path.starts_with("/v1") || route.path.starts_with("/inference") {
        operation["security"] = json!([{ "key": [] }]);
    }
    operation
}

fn body_schema(bodies: &[&str]) -> Option<Value> {
    let reference = |name: &&str| json!({ "$ref": format!("#/components/schemas/{name}") });
    match bodies {
        [] => None,
        [only] => Some(reference(only)),
        several => Some(json!({ "anyOf": several.iter().map(reference).collect::<Vec<_>>() })),
    }
}
