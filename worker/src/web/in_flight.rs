//! Bounds the requests for the console and its API: how many there are at a time, and what each
//! may send. Probes and metrics are not among them, so they always find a connection.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use shared::listener::body::{self, Unread};

use super::answer::answer;
use super::problem::Problem;
use super::state::Web;

/// How many requests may be in flight: fewer than the listener has connections.
pub(super) const MAX_IN_FLIGHT: usize = 48;
/// The largest body: a form with a token and an address.
const MAX_BODY_BYTES: usize = 32 * 1024;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the body and passes the request on, or answers why not. A request whose body is slow gives
/// way to a newcomer when there are too many.
pub(super) async fn bound(State(web): State<Web>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let Some(mut slot) = web.in_flight.acquire_or_evict() else {
        let detail = "too many requests are in flight: try again later";
        return closing(answer(&path, Problem::unavailable(detail)));
    };
    let (head, mut body) = request.into_parts();
    let reading = body::read(&mut body, MAX_BODY_BYTES, BODY_TIMEOUT);
    let (status, detail) = match slot.idle_until(reading).await {
        Ok(Ok(bytes)) => {
            let response = next.run(Request::from_parts(head, Body::from(bytes))).await;
            // An answer is in flight until all of it is written.
            return response.map(|body| {
                Body::new(body.map_err(move |error| {
                    let _ = &slot;
                    error
                }))
            });
        }
        Ok(Err(Unread::TooLarge)) => {
            let detail = format!("the body has more than {MAX_BODY_BYTES} bytes");
            (StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        Ok(Err(Unread::TooSlow)) => {
            let detail = format!("the body did not arrive within {BODY_TIMEOUT:?}");
            (StatusCode::REQUEST_TIMEOUT, detail)
        }
        Ok(Err(Unread::Broken)) => {
            (StatusCode::BAD_REQUEST, "the body ended early, or its chunks are malformed".into())
        }
        Err(_evicted) => {
            let detail = "the body arrived slowly while others were waiting: try again later";
            (StatusCode::REQUEST_TIMEOUT, detail.into())
        }
    };
    closing(answer(&path, Problem::new(status, detail)))
}

/// The rest of the body is not read.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::body::Bytes;
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use tokio::sync::watch;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt;

    use super::*;
    use crate::observe::Observer;
    use crate::web::WebSettings;

    fn router() -> Router {
        let (_observer, view) = Observer::new();
        let (_, backend) = watch::channel(None);
        let web = Web::new(view, backend, WebSettings::default(), CancellationToken::new());
        Router::new()
            .route("/api/echo", post(async |body: Bytes| body))
            .layer(from_fn_with_state(web.clone(), bound))
            .with_state(web)
    }

    fn endless() -> Request {
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        Request::post("/api/echo").body(body).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let began = Instant::now();
        let answer = router().oneshot(endless()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(began.elapsed(), BODY_TIMEOUT);
        assert_eq!(answer.headers()[header::CONNECTION], "close");
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("the body did not arrive within 10s"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_gives_way_and_an_unread_answer_keeps_its_place() {
        let router = Arc::new(router());
        let ask = |request| Router::clone(&router).oneshot(request);
        let slow: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| tokio::spawn(ask(endless()))).collect();
        tokio::task::yield_now().await;
        let complete = || Request::post("/api/echo").body(Body::from("x")).unwrap();
        let early = ask(complete()).await.unwrap();
        assert_eq!(early.status(), StatusCode::SERVICE_UNAVAILABLE, "all have their grace");
        tokio::time::sleep(shared::eviction::GRACE).await;
        let mut unread = Vec::new();
        for _ in 0..MAX_IN_FLIGHT {
            let answer = ask(complete()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            unread.push(answer);
        }
        for slow in slow {
            assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::REQUEST_TIMEOUT);
        }
        tokio::time::sleep(shared::eviction::GRACE).await;
        let late = ask(complete()).await.unwrap();
        assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE, "none of them is idle");
        drop(unread);
        assert_eq!(ask(complete()).await.unwrap().status(), StatusCode::OK);
    }
}
