//! Who may look, and who may act.
//!
//! Every request passes here: a page, the style sheet, the stream, and each action. What may not pass is refused before
//! anything of the dashboard runs.

use std::sync::Arc;

use axum::Form;
use axum::body::Body;
use axum::extract::{FromRequest as _, FromRequestParts, OriginalUri, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, ORIGIN, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use tracing::warn;

use super::Shared;
use super::query::Pairs;
use crate::stream::origin::{self, Host, Page};

/// Who looks at a dashboard, as your application says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Visitor {
    /// What the audit calls who acts: a login, an address.
    pub name: String,
    /// Whether it may do more than look.
    pub may_act: bool,
}

impl Visitor {
    /// One that looks.
    pub fn reader(name: impl Into<String>) -> Self {
        Self { name: name.into(), may_act: false }
    }

    /// One that may also act: redrive, edit and discard dead letters, pause the outbox.
    pub fn operator(name: impl Into<String>) -> Self {
        Self { name: name.into(), may_act: true }
    }
}

/// Asks the application who it is.
pub(super) type Authorize = Box<dyn Fn(Parts) -> BoxFuture<'static, Option<Visitor>> + Send + Sync>;

/// Who was let in, and what its pages are drawn with.
#[derive(Clone)]
pub(super) struct Guest {
    pub(super) visitor: Visitor,
    /// Where the dashboard is mounted, such as `/ops`; empty at the root.
    pub(super) base: String,
    /// What its forms have to send back.
    pub(super) token: String,
}

/// What a form sent, of somebody who may act.
#[derive(Clone)]
pub(super) struct Fields(pub(super) Pairs);

macro_rules! extracted {
    ($($what:ty),*) => { $(
        impl<S: Sync> FromRequestParts<S> for $what {
            type Rejection = StatusCode;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
                // Without it the request has not passed the guard.
                parts.extensions.get::<Self>().cloned().ok_or(StatusCode::FORBIDDEN)
            }
        }
    )* };
}

extracted!(Guest, Fields, Visitor);

/// The cookie that holds what forms have to send back. It is no secret of the visitor's own browser, and no other
/// site can read it or set it for this host.
const COOKIE_NAME: &str = "emitter_dashboard";

/// The field of a form in which it comes back.
pub(super) const TOKEN_FIELD: &str = "token";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Where a WebSocket of events is asked for.
const SOCKET: &str = "/stream/ws/events";

/// Lets a request pass, or refuses it. Each refusal is told to the audit.
pub(super) async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let (mut parts, mut body) = request.into_parts();
    // By HTTP/2 a WebSocket is asked for by another method, and sends no form.
    let opens_socket = parts.method == Method::CONNECT && parts.uri.path() == SOCKET;
    let (host, asked) = (Host::of(&parts), Asked::of(&parts));
    if is_foreign(&parts, &host, is_safe, &shared.config.origins) {
        shared.refused.log(|more| asked.is_refused(None, "it is of a page of others", more));
        return refusal(StatusCode::FORBIDDEN, "pages of this origin may not ask");
    }
    let Some(visitor) = (shared.authorize)(parts.clone()).await else {
        shared.refused.log(|more| asked.is_refused(None, "nobody knows who it is", more));
        return refusal(StatusCode::UNAUTHORIZED, "who are you?");
    };
    let known = cookie(&parts.headers).map(str::to_owned);
    if !is_safe && !opens_socket {
        match fields(&visitor, known.as_deref(), parts.clone(), body).await {
            Ok(fields) => parts.extensions.insert(fields),
            Err((refusal, why)) => {
                asked.is_refused(Some(&visitor), why, 0);
                return refusal;
            }
        };
        body = Body::empty();
    }
    let (base, is_new) = (base(&parts), known.is_none());
    let token = known.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let fresh = if is_new { set_cookie(&token, &base, host.is_https) } else { None };
    parts.extensions.insert(visitor.clone());
    parts.extensions.insert(Guest { visitor: visitor.clone(), base, token });
    let mut answer = protected(next.run(Request::from_parts(parts, body)).await);
    if !is_safe && answer.status().is_client_error() {
        asked.is_refused(Some(&visitor), "it cannot be done so", 0);
    }
    if let Some(cookie) = fresh {
        answer.headers_mut().append(SET_COOKIE, cookie);
    }
    answer
}

/// What was asked for, to be told where it is refused.
struct Asked {
    method: Method,
    path: String,
}

impl Asked {
    fn of(parts: &Parts) -> Self {
        Self { method: parts.method.clone(), path: parts.uri.path().to_owned() }
    }

    fn is_refused(&self, visitor: Option<&Visitor>, why: &str, more: u64) {
        // By `Debug`, for a path or a name may hold a line's end.
        let (visitor, path, method) = (visitor.map(|visitor| &*visitor.name), &self.path, &self.method);
        warn!(target: "emitter_web::audit", ?visitor, %method, ?path, why, more, "refused");
    }
}

/// Whether it comes from a page of others. Somebody who follows a link of others to a page is welcome.
fn is_foreign(parts: &Parts, host: &Host, is_safe: bool, friends: &[String]) -> bool {
    let says = |name: &str, what: &str| parts.headers.get(name).is_some_and(|value| value == what);
    let follows_link = is_safe
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document")
        && !parts.headers.contains_key(ORIGIN);
    !follows_link && origin::page(&parts.headers, host, friends) == Page::Foreign
}

/// What a form says, if its sender may act, and it is one of ours; else why not, as it is answered and told.
async fn fields(
    visitor: &Visitor,
    known: Option<&str>,
    parts: Parts,
    body: Body,
) -> Result<Fields, (Response, &'static str)> {
    let refused = |why| (refusal(StatusCode::FORBIDDEN, why), why);
    if !visitor.may_act {
        return Err(refused("you may look, and not act"));
    }
    let request = Request::from_parts(parts, body);
    let form = Form::<Vec<(String, String)>>::from_request(request, &()).await;
    let Form(pairs) =
        form.map_err(|rejection| (protected(rejection.into_response()), "its form cannot be read"))?;
    let pairs = Pairs(pairs);
    match (known, pairs.get(TOKEN_FIELD)) {
        (Some(known), Some(sent)) if known == sent => Ok(Fields(pairs)),
        _ => Err(refused("the form is too old, or not of this page: load it anew")),
    }
}

fn refusal(status: StatusCode, why: &'static str) -> Response {
    protected((status, why).into_response())
}

/// An answer that no page of others can use, and no cache keeps.
fn protected(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // Forms have to say their origin, and nobody else learns of an address.
        (REFERRER_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// What an earlier answer gave.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, token) = pairs.find(|(name, _)| *name == COOKIE_NAME)?;
    let is_ours = token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours.then_some(token)
}

/// `Lax`, so that who follows a link keeps the one that other windows have.
fn set_cookie(token: &str, base: &str, is_https: bool) -> Option<HeaderValue> {
    let path = if base.is_empty() { "/" } else { base };
    let secure = if is_https { "; Secure" } else { "" };
    HeaderValue::from_str(&format!("{COOKIE_NAME}={token}; Path={path}; HttpOnly; SameSite=Lax{secure}")).ok()
}

/// Where the dashboard is mounted: what a router that nests it took off.
fn base(parts: &Parts) -> String {
    let whole = parts.extensions.get::<OriginalUri>().map_or(parts.uri.path(), |uri| uri.0.path());
    let base = whole.strip_suffix(parts.uri.path()).unwrap_or(whole).trim_end_matches('/');
    // Two slashes would begin another host.
    if base.starts_with('/') && !base.starts_with("//") { base.to_owned() } else { String::new() }
}
