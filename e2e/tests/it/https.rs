//! HTTPS that ingress ends itself, as curl and our own sender see it.

use std::net::SocketAddr;
use std::path::Path;

use e2e::certificates::{Authority, Issued};
use e2e::stack::{CALLBACK_PATH, Db, Ingress, Stack};
use tokio::process::Command;

use crate::expect::*;
use crate::raw::Raw;

struct Secured {
    stack: Stack,
    authority: Authority,
    issued: Issued,
    ingress: Ingress,
}

async fn start(env: &[(&str, &str)]) -> Secured {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let authority = Authority::new(&stack.dir().join("tls")).unwrap();
    let issued = authority.issue("ingress", &["localhost", "127.0.0.1"]).unwrap();
    let files = [("TLS_CERT", &issued.certificate), ("TLS_KEY", &issued.key)]
        .map(|(name, file)| (name, file.to_str().unwrap()));
    let ingress = stack.start_ingress_with(&[&files[..], env].concat(), &[]).await.unwrap();
    Secured { stack, authority, issued, ingress }
}

/// What curl says of a signed callback: its exit code, the answer, and the server's certificate.
async fn curl(stack: &Stack, to: SocketAddr, authority: &Path, more: &[&str]) -> (i32, String) {
    let body = status("a", "queued");
    let output = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--max-time", "30", "--data", &body])
        .args(["-H", &format!("X-Signature: {}", stack.sign(body.as_bytes()))])
        .arg("--cacert")
        .arg(authority)
        .args(more)
        .arg(format!("https://localhost:{}{CALLBACK_PATH}", to.port()))
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn callbacks_come_over_tls_and_only_so() {
    let Secured { stack, authority, ingress, .. } = start(&[]).await;
    let received = (0, r#"{"received":true}"#.to_owned());
    for versions in [&["--tls-max", "1.2"][..], &["--tlsv1.3"], &["--http1.1"], &["--http2"]] {
        let answer = curl(&stack, ingress.addr, authority.certificate(), versions).await;
        assert_eq!(answer, received, "{versions:?}");
    }
    let (code, text) =
        curl(&stack, ingress.addr, authority.certificate(), &["--tls-max", "1.1"]).await;
    assert_ne!(code, 0, "{text}");

    let mut plain = Raw::open(ingress.addr).await;
    plain.say("POST / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!plain.hear().await.contains("HTTP/"), "plain HTTP is not answered");

    let url = format!("https://localhost:{}{CALLBACK_PATH}", ingress.addr.port());
    let send = async |authority: &Path| {
        let args = ["send", "--job-id=a", "--status=queued", "--retry-for=0", "--url", &url];
        run(&stack, &ackline(&stack, &args).env("SSL_CERT_FILE", authority)).await
    };
    assert_eq!(send(authority.certificate()).await.0, 0);
    let other = Authority::new(&stack.dir().join("other")).unwrap();
    let (code, log) = send(other.certificate()).await;
    assert!(code != 0 && log.contains("invalid peer certificate"), "{log}");
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_without_a_restart() {
    let Secured { stack, authority, issued, ingress } = start(&[]).await;
    let later = Authority::new(&stack.dir().join("later")).unwrap();
    let accepted = async |authority: &Authority| {
        curl(&stack, ingress.addr, authority.certificate(), &[]).await.0 == 0
    };
    let reloads = async |outcome: &str| {
        let labels = [("what", "certificate"), ("outcome", outcome)];
        series(ingress.ops, "ackline_ingress_reloads_total", &labels).await
    };
    assert!(accepted(&authority).await && !accepted(&later).await);

    // A certificate that does not fit its key is not taken up.
    let renewed = later.issue("renewed", &["localhost"]).unwrap();
    std::fs::copy(&renewed.certificate, &issued.certificate).unwrap();
    ingress.process.hang_up();
    stack.wait_until("it is read", SOON, async || reloads("failed").await == 1.0).await;
    assert!(accepted(&authority).await && !accepted(&later).await);
    assert!(stack.all_logs().contains("is not the key of --tls-cert"));

    std::fs::copy(&renewed.key, &issued.key).unwrap();
    ingress.process.hang_up();
    stack.wait_until("it is taken up", SOON, async || reloads("done").await == 1.0).await;
    assert!(accepted(&later).await && !accepted(&authority).await);
    let key = std::fs::read_to_string(&issued.key).unwrap();
    let key = key.lines().nth(1).unwrap();
    assert!(!stack.all_logs().contains(key), "no log has a key");
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_ended() {
    let Secured { ingress, .. } = start(&[("SILENCE_TIMEOUT", "200ms")]).await;
    // Nothing, and the beginning of a ClientHello.
    for said in [&b""[..], &[0x16, 3, 1, 2, 0]] {
        let mut raw = Raw::open(ingress.addr).await;
        raw.say(said).await;
        raw.hear().await;
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named_at_the_start() {
    let stack = Stack::start(Db::Sqlite).await.unwrap();
    let authority = Authority::new(&stack.dir().join("tls")).unwrap();
    let one = authority.issue("one", &["localhost"]).unwrap();
    let other = authority.issue("other", &["localhost"]).unwrap();
    for (cert, key, expected) in [
        (&one.certificate, &other.key, "is not the key of --tls-cert"),
        (&one.key, &one.key, "holds no certificate in PEM"),
        (&one.certificate, &one.certificate, "holds no private key in PEM"),
    ] {
        let program =
            stack.program("ackline-ingress").unwrap().env("TLS_CERT", cert).env("TLS_KEY", key);
        let (code, log) = run(&stack, &program).await;
        assert_eq!(code, 2, "{log}");
        assert!(log.contains(expected), "{log}");
    }
}
