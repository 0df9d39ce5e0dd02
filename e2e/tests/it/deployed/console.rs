//! The console of a deployment, which others than this machine can reach.

use e2e::compose::Deployment;
use e2e::http::{Answer, Client};
use hyper::Method;

const HOST: (&str, &str) = ("host", "console.example");

pub(super) async fn is_for_those_who_show_the_token(deployment: &Deployment) {
    let token = deployment.secret("console-token").unwrap();
    let console = deployment.published(9081);
    let send = async |method, path: &str, headers: &[(&str, &str)], body: String| -> Answer {
        let headers = [&[HOST], headers].concat();
        Client::new(console).send(method, path, &headers, body.into()).await.unwrap()
    };
    let get = async |path: &str, headers: &[(&str, &str)]| {
        send(Method::GET, path, headers, String::new()).await
    };
    let job = "/api/v1/jobs/works";
    let wrong = format!("Bearer {token}x");
    assert_eq!(get(job, &[]).await.status, 401);
    assert_eq!(get(job, &[("authorization", &wrong)]).await.status, 401);
    let shown = get(job, &[("authorization", &format!("Bearer {token}"))]).await;
    assert_eq!(shown.status, 200, "{}", shown.text());
    assert!(shown.text().contains("\"running\""), "{}", shown.text());

    let sent_to = get("/jobs?status=failed", &[]).await;
    let login = sent_to.header("location");
    assert_eq!((sent_to.status, login), (303, "/login?next=%2Fjobs%3Fstatus%3Dfailed"));
    assert_eq!(get(login, &[]).await.status, 200);
    let sign_in = async |token: &str, next: &str, headers: &[(&str, &str)]| {
        let form = ("content-type", "application/x-www-form-urlencoded");
        let headers = [&[form], headers].concat();
        send(Method::POST, "/login", &headers, format!("token={token}&next={next}")).await
    };
    assert_eq!(sign_in("0123456789abcdef", "/", &[]).await.status, 401);
    for (next, to) in
        [("%2Fjobs", "/jobs"), ("%2F%2Fevil.example", "/"), ("http://evil.example", "/")]
    {
        let signed_in = sign_in(&token, next, &[]).await;
        assert_eq!((signed_in.status, signed_in.header("location")), (303, to));
        let cookie = signed_in.header("set-cookie");
        assert!(cookie.contains("HttpOnly") && !cookie.contains(&token), "{cookie}");
        // Any worker takes it.
        let kept = cookie.split(';').next().unwrap();
        for _ in 0..4 {
            assert_eq!(get("/jobs", &[("cookie", kept)]).await.status, 200);
        }
    }
    assert_eq!(get("/metrics", &[]).await.status, 404, "they are each worker's own");
    let secure = sign_in(&token, "/", &[("origin", "https://console.example")]).await;
    assert!(secure.header("set-cookie").ends_with("; Secure"), "{:?}", secure.headers);
}
