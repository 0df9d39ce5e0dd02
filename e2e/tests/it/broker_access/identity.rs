//! Who a process is: passwords, tokens, nkeys and credentials files.

use async_nats::ConnectOptions;
use nkeys::KeyPair;

use super::jwt::{Operator, credentials};
use super::{Env, Files, are_refused, assert_hidden, end_worker, goes_through, guarded, reload};
use crate::expect::*;

const PASSWORD: &str = "p:w@rd/never-log-7c1e";
const WRONG: &str = "wrong-never-log-19aa";

fn users(password: &str) -> String {
    format!("authorization {{ users: [ {{ user: \"u\", password: {password:?} }} ] }}")
}

#[tokio::test]
async fn a_password_is_taken_from_a_file_or_from_the_address() {
    let files = Files::new();
    let env: Env = vec![
        ("NATS_USER", "u".into()),
        ("NATS_PASSWORD_FILE", files.write("password", &format!("{PASSWORD}\n"))),
    ];
    let client = ConnectOptions::with_user_and_password("u".into(), PASSWORD.into());
    let mut stack = guarded(&users(PASSWORD), client, &env).start().await.unwrap();
    goes_through(&stack, "a").await;
    end_worker(&mut stack).await;

    let no_file = [("NATS_USER", ""), ("NATS_PASSWORD_FILE", "")];
    let address = stack.nats.node(0).address();
    let with = |credentials: &str| format!("nats://{credentials}@{address}");
    let violation = "authorization violation: the server does not let in";
    let in_file = files.write("wrong", WRONG);
    let why = format!("{violation} the user \"u\" with the password in {in_file}");
    are_refused(&stack, &[("NATS_PASSWORD_FILE", &in_file)], &why).await;
    are_refused(&stack, &no_file, &format!("{violation} a client without credentials")).await;
    for (credentials, what) in
        [(format!("u:{WRONG}"), "user and password"), (WRONG.into(), "token")]
    {
        let url = with(&credentials);
        let env = [&no_file[..], &[("NATS_URL", url.as_str())]].concat();
        are_refused(&stack, &env, &format!("{violation} the {what} in NATS_URL")).await;
    }

    // The same password, as it is written in an address.
    let url = with("u:p%3Aw%40rd%2Fnever-log-7c1e");
    let program = stack.program("ackline").unwrap().args(["audit"]).env("NATS_URL", &url);
    let program = no_file.iter().fold(program, |program, (name, _)| program.without_env(name));
    let (code, text) = run(&stack, &program).await;
    assert_eq!(code, 0, "{text}");
    assert_hidden(&stack, &[PASSWORD, "p%3Aw%40rd", WRONG]);
}

#[tokio::test]
async fn a_token_is_taken_from_the_address() {
    let config = format!("authorization {{ token: {PASSWORD:?} }}");
    let client = ConnectOptions::with_token(PASSWORD.into());
    let port = e2e::port::Port::lease().unwrap();
    let url = format!("nats://p%3Aw%40rd%2Fnever-log-7c1e@{}", port.address());
    let stack = guarded(&config, client, &vec![("NATS_URL", url)]).nats_port(port);
    let stack = stack.start().await.unwrap();
    goes_through(&stack, "a").await;
    assert_audited(&stack).await;
    assert_hidden(&stack, &[PASSWORD, "p%3Aw%40rd"]);
}

#[tokio::test]
async fn a_password_that_takes_the_place_of_another_is_taken_up() {
    let files = Files::new();
    let env: Env =
        vec![("NATS_USER", "u".into()), ("NATS_PASSWORD_FILE", files.write("password", PASSWORD))];
    let new = "the-new-one-never-log-5d20";
    let client = ConnectOptions::with_user_and_password("u".into(), PASSWORD.into());
    let stack = guarded(&users(PASSWORD), client, &env).start().await.unwrap();
    goes_through(&stack, "a").await;
    assert_audited(&stack).await;

    let (ingress, worker) = (stack.ingress.ops, stack.worker.ops);
    // The server puts out who came with the old one.
    let config = stack.dir().join("nats.conf");
    let with_new = std::fs::read_to_string(&config).unwrap().replace(PASSWORD, new);
    std::fs::write(&config, with_new).unwrap();
    reload(&stack).await;
    for ops in [ingress, worker] {
        stack
            .wait_until("it is not ready, and says why", SOON, async || {
                let answer = e2e::http::get(ops, "/readyz").await.unwrap();
                answer.status == 503 && answer.text().contains("authorization violation")
            })
            .await;
    }
    std::fs::remove_file(files.path("password")).unwrap();
    for process in [&stack.ingress.process, &stack.worker.process] {
        let says_so = |line: &str| {
            line.contains("--nats-password-file")
                && line.contains("password can't be read: No such")
        };
        process.wait_for_line(says_so, SOON).await.unwrap();
    }
    files.write("password", new);
    stack
        .wait_until("both are ready again", SOON, async || {
            is_ready(ingress).await && is_ready(worker).await
        })
        .await;
    goes_through(&stack, "b").await;
    assert_audited(&stack).await;
    assert_hidden(&stack, &[PASSWORD, new]);
}

#[tokio::test]
async fn an_nkey_is_taken_from_its_file() {
    let files = Files::new();
    let (own, other) = (KeyPair::new_user(), KeyPair::new_user());
    let (seed, other_seed) = (own.seed().unwrap(), other.seed().unwrap());
    let config = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", own.public_key());
    let env: Env = vec![("NATS_NKEY_FILE", files.write("own.nk", &format!("{seed}\n")))];
    let client = ConnectOptions::with_nkey(seed.clone());
    let mut stack = guarded(&config, client, &env).start().await.unwrap();
    goes_through(&stack, "a").await;
    end_worker(&mut stack).await;

    let wrong = files.write("other.nk", &other_seed);
    let why = format!("authorization violation: the server does not let in the nkey in {wrong}");
    are_refused(&stack, &[("NATS_NKEY_FILE", &wrong)], &why).await;
    assert_hidden(&stack, &[&seed, &other_seed]);
}

#[tokio::test]
async fn credentials_are_taken_from_their_file() {
    let files = Files::new();
    let operator = Operator::new();
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let own = credentials(&operator.account.user(&user), &user);
    let client = ConnectOptions::with_credentials(&own).unwrap();
    let env: Env = vec![("NATS_CREDENTIALS_FILE", files.write("own.creds", &own))];
    let mut stack = guarded(&operator.config(), client, &env).start().await.unwrap();
    goes_through(&stack, "a").await;
    end_worker(&mut stack).await;

    let foreign = Operator::new().account.user(&user);
    let wrong = [
        files.write("foreign.creds", &credentials(&foreign, &user)),
        files.write("seed.creds", &credentials(&operator.account.user(&user), &stranger)),
    ];
    for file in &wrong {
        let why = "authorization violation: the server does not let in the credentials in";
        are_refused(&stack, &[("NATS_CREDENTIALS_FILE", file)], &format!("{why} {file}")).await;
    }
    let jwt = operator.account.user(&user);
    let signature = jwt.rsplit('.').next().unwrap();
    let seeds = [user.seed().unwrap(), stranger.seed().unwrap()];
    assert_hidden(&stack, &[&seeds[0], &seeds[1], signature]);
}
