//! The console of a deployment, which others than this machine can reach.

use bytes::Bytes;
use e2e::deployment::Deployment;
use e2e::http::Client;

use hyper::Method;

use crate::expect::*;

#[tokio::test]
async fn the_console_is_for_those_who_show_the_token() {
    let deployment = Deployment::start().await.unwrap();
    accept(&deployment.stack, status("shown", "running")).await;
    let token = std::fs::read_to_string(deployment.secret_file("console-token")).unwrap();
    let console = deployment.load_balancer.console;
    let get = async |path: &str, headers: &[(&str, &str)]| {
        let mut asked = vec![("host", "console.example")];
        asked.extend_from_slice(headers);
        Client::new(console).send(Method::GET, path, &asked, Bytes::new()).await.unwrap()
    };
    let bearer = format!("Bearer {}", token.trim());
    let wrong = format!("Bearer {}x", token.trim());
    let job = "/api/v1/jobs/shown?wait=30s&until=finished";
    assert_eq!(get(job, &[]).await.status, 401);
    assert_eq!(get(job, &[("authorization", &wrong)]).await.status, 401);
    let shown = get(job, &[("authorization", &bearer)]).await;
    assert_eq!(shown.status, 200, "{}", shown.text());
    assert!(shown.text().contains("\"running\""), "{}", shown.text());

    let sent_to = get("/jobs?status=failed", &[]).await;
    assert_eq!(sent_to.status, 303);
    let login = sent_to.header("location").to_owned();
    assert_eq!(login, "/login?next=%2Fjobs%3Fstatus%3Dfailed");
    assert_eq!(get(&login, &[]).await.status, 200);
    let sign_in = async |token: &str, next: &str| {
        let form =
            [("host", "console.example"), ("content-type", "application/x-www-form-urlencoded")];
        let body = format!("token={token}&next={next}");
        Client::new(console).send(Method::POST, "/login", &form, body.into()).await.unwrap()
    };
    assert_eq!(sign_in("0123456789abcdef", "/").await.status, 401);
    for (next, to) in
        [("%2Fjobs", "/jobs"), ("%2F%2Fevil.example", "/"), ("http://evil.example", "/")]
    {
        let signed_in = sign_in(token.trim(), next).await;
        assert_eq!((signed_in.status, signed_in.header("location")), (303, to));
        let cookie = signed_in.header("set-cookie");
        assert!(cookie.contains("HttpOnly") && !cookie.contains(token.trim()), "{cookie}");
        // Any worker takes it.
        let kept = cookie.split(';').next().unwrap();
        for _ in 0..4 {
            assert_eq!(get("/jobs", &[("cookie", kept)]).await.status, 200);
        }
    }
    assert_eq!(get("/metrics", &[]).await.status, 404, "they are each worker's own");
    let secure = [
        ("host", "console.example"),
        ("origin", "https://console.example"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    let body = format!("token={}", token.trim());
    let signed_in = Client::new(console).send(Method::POST, "/login", &secure, body.into()).await;
    let signed_in = signed_in.unwrap();
    assert!(signed_in.header("set-cookie").ends_with("; Secure"), "{:?}", signed_in.headers);
}
