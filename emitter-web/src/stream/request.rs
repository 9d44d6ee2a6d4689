//! What is read of a request, whoever makes it, and said to whom it comes from.

use axum::extract::{FromRequestParts, Query};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::cursor::{Cursor, NoCursor};
use super::origin::{self, Host, Page};

/// What is asked of a request.
pub(super) struct Asked {
    headers: HeaderMap,
    host: Host,
    pub(super) query: Vec<(String, String)>,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(query) = query.map_err(IntoResponse::into_response)?;
        Ok(Self { headers: parts.headers.clone(), host: Host::of(parts), query })
    }
}

impl Asked {
    pub(super) fn page(&self, friends: &[String]) -> Page {
        origin::page(&self.headers, &self.host, friends)
    }

    /// Where the page was, if it was anywhere. What cannot be read is no cursor of ours.
    pub(super) fn cursor(&self) -> Option<Result<Cursor, NoCursor>> {
        let said = self.query.iter().find(|(name, _)| name == "cursor").map(|(_, value)| value.as_str());
        // A browser that comes again by itself sends the address of the first time.
        let last = self.headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
        last.or(said).map(str::parse)
    }
}

/// A page of another origin that may read the answer, if it is one.
pub(super) struct Friend(pub(super) Option<HeaderValue>);

impl Friend {
    pub(super) fn of(self, mut answer: Response) -> Response {
        let headers = answer.headers_mut();
        if let Some(origin) = self.0 {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        headers.append(VARY, HeaderValue::from_static("origin"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }
}

/// Why nobody is let in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refusal {
    Foreign,
    AsksTooMuch,
    Full,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Self::Foreign => {
                (StatusCode::FORBIDDEN, "pages of this origin may not read: see StreamConfig::origins")
            }
            Self::AsksTooMuch => {
                (StatusCode::BAD_REQUEST, "at most 100 models, kinds and keys, of 256 bytes each")
            }
            Self::Full => {
                let later = [(RETRY_AFTER, "10")];
                let full = (StatusCode::SERVICE_UNAVAILABLE, later, "as many are there as may be");
                return full.into_response();
            }
        };
        (status, why).into_response()
    }
}
