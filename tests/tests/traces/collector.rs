//! A collector: takes spans over OTLP as protobuf, over HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tokio::net::TcpListener;

/// A span as the collector was told of it.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: i32,
    pub(crate) failed: bool,
    pub(crate) trace: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) parent: Vec<u8>,
    /// The spans that it is linked to.
    pub(crate) links: Vec<Vec<u8>>,
    pub(crate) attributes: BTreeMap<String, String>,
}

#[derive(Default)]
struct Told {
    spans: Vec<Span>,
    bytes: Vec<u8>,
}

pub(crate) struct Collector {
    pub(crate) url: String,
    told: Arc<Mutex<Told>>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&told));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, told }
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.told.lock().unwrap().spans.clone()
    }

    /// Whether a text stands anywhere in what came.
    pub(crate) fn was_told(&self, text: &str) -> bool {
        self.told.lock().unwrap().bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

async fn take(State(told): State<Arc<Mutex<Told>>>, body: Bytes) -> impl IntoResponse {
    let request = ExportTraceServiceRequest::decode(&*body).unwrap();
    let mut told = told.lock().unwrap();
    told.bytes.extend_from_slice(&body);
    for of_resource in request.resource_spans {
        let resource = attributes(&of_resource.resource.unwrap().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            told.spans.push(Span {
                service: resource["service.name"].clone(),
                name: span.name,
                kind: span.kind,
                failed: span.status.is_some_and(|status| status.code == 2),
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
                links: span.links.into_iter().map(|link| link.span_id).collect(),
                attributes: attributes(&span.attributes),
            });
        }
    }
    ([(CONTENT_TYPE, "application/x-protobuf")], ExportTraceServiceResponse::default().encode_to_vec())
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    pairs.iter().filter_map(|pair| Some((pair.key.clone(), text(pair)?))).collect()
}
