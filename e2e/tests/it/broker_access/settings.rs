//! The settings of the connection are checked whole before anything starts.

use clap::Parser;
use e2e::certificates::Authority;
use nkeys::KeyPair;
use shared::broker::{BrokerArgs, Servers};
use shared::settings::{Invalid, Problems};

use super::jwt::{Operator, credentials};
use super::{Files, text};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    broker: BrokerArgs,
}

fn check(args: &[(&str, &str)]) -> Result<Servers, Invalid> {
    let args = args.iter().map(|(flag, value)| format!("{flag}={value}"));
    let cli = Cli::try_parse_from(std::iter::once("test".to_owned()).chain(args)).unwrap();
    let mut problems = Problems::default();
    let servers = cli.broker.check(&mut problems);
    let checked = problems.finish(servers);
    let shown = format!("{cli:?} {checked:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    checked
}

fn assert_bad(args: &[(&str, &str)], problems: &[&str]) {
    let error = check(args).unwrap_err().to_string();
    for problem in problems {
        assert!(error.contains(problem), "{problem} in {error}");
    }
    assert_eq!(error.lines().count(), 1 + problems.len(), "{error}");
}

#[test]
fn what_can_be_used_is_used() {
    let files = Files::new();
    let authority = Authority::new(&files.path("own")).unwrap();
    let own = authority.issue("own", &[]).unwrap();
    let ca = text(authority.certificate());
    let (certificate, key) = (text(&own.certificate), text(&own.key));
    let user = KeyPair::new_user();
    let seed = user.seed().unwrap();
    let decorated = format!("-----BEGIN USER NKEY SEED-----\r\n{seed}\r\n-----END-----\r\n");
    let creds = credentials(&Operator::new().account.user(&user), &user);
    let password = ("--nats-password-file", files.write("password", "hunter2\r\n"));
    for access in [
        vec![],
        vec![("--nats-user", "u".to_owned()), password],
        vec![("--nats-nkey-file", files.write("plain.nk", &format!("{seed}\n")))],
        vec![("--nats-nkey-file", files.write("decorated.nk", &decorated))],
        vec![("--nats-credentials-file", files.write("own.creds", &creds))],
    ] {
        let tls = [("--nats-ca", &ca), ("--nats-cert", &certificate), ("--nats-key", &key)];
        let access = access.iter().map(|(flag, value)| (*flag, value.as_str()));
        let args: Vec<_> =
            tls.iter().map(|(flag, value)| (*flag, value.as_str())).chain(access).collect();
        let servers = check(&args).unwrap();
        assert_eq!(servers.to_string(), "127.0.0.1:4222");
    }
    let servers = check(&[("--nats-url", "nats://u:hunter2@a:1, tls://b")]).unwrap();
    assert_eq!(servers.to_string(), "a:1,b:4222");
}

#[test]
fn every_bad_file_is_named_at_once() {
    let files = Files::new();
    let bad = files.write("bad", "hunter2");
    let empty = files.write("empty", " \n");
    let missing = text(&files.path("missing"));
    let directory = text(files.0.path());
    assert_bad(
        &[
            ("--nats-url", "nats://u:hunter2@:x"),
            ("--nats-ca", &bad),
            ("--nats-cert", &empty),
            ("--nats-key", &missing),
            ("--nats-user", "u"),
            ("--nats-password-file", &directory),
        ],
        &[
            "--nats-url (NATS_URL): is not a comma-separated list of addresses",
            &format!("--nats-ca (NATS_CA_FILE): {bad} holds no certificate in PEM"),
            &format!("--nats-cert (NATS_CERT_FILE): {empty} is empty"),
            &format!("--nats-key (NATS_KEY_FILE): {missing} can't be read: No such file"),
            &format!("--nats-password-file (NATS_PASSWORD_FILE): {directory} can't be read: Is a"),
        ],
    );
    let account = files.write("account.nk", &KeyPair::new_account().seed().unwrap());
    let damaged = KeyPair::new_user().seed().unwrap().replace("SUA", "SUB");
    let damaged = files.write("damaged.nk", &damaged);
    for (file, problem) in [
        (&bad, "holds no seed of an nkey (SU…), or a damaged one"),
        (&damaged, "holds no seed of an nkey (SU…), or a damaged one"),
        (&account, "holds the seed of another kind (Account), not of a user (SU…)"),
        (&empty, "is empty"),
    ] {
        assert_bad(&[("--nats-nkey-file", file)], &[&format!("{file} {problem}")]);
    }
    let user = KeyPair::new_user();
    let creds = credentials(&Operator::new().account.user(&user), &user);
    let half = files.write("half.creds", creds.split("-----BEGIN USER").next().unwrap());
    let swapped = files.write("swapped.creds", &credentials("hunter2", &user));
    for (file, problem) in [
        (&bad, "is no credentials file"),
        (&half, "is no credentials file"),
        (&swapped, "holds no JWT"),
    ] {
        assert_bad(&[("--nats-credentials-file", file)], &[&format!("{file} {problem}")]);
    }
}

#[test]
fn a_key_must_fit_its_certificate() {
    let files = Files::new();
    let authority = Authority::new(&files.path("own")).unwrap();
    let (one, other) =
        (authority.issue("one", &[]).unwrap(), authority.issue("other", &[]).unwrap());
    let (certificate, key) = (text(&one.certificate), text(&other.key));
    assert_bad(
        &[("--nats-cert", &certificate), ("--nats-key", &key)],
        &[&format!("--nats-key (NATS_KEY_FILE): {key} is not the key of {certificate}")],
    );
    // A certificate is not a key, nor a key a certificate.
    assert_bad(
        &[("--nats-cert", &key), ("--nats-key", &certificate), ("--nats-ca", &key)],
        &[
            &format!("--nats-ca (NATS_CA_FILE): {key} holds no certificate in PEM"),
            &format!("--nats-cert (NATS_CERT_FILE): {key} holds no certificate in PEM"),
            &format!("--nats-key (NATS_KEY_FILE): {certificate} holds no private key in PEM"),
        ],
    );
}

#[test]
fn half_a_setting_or_two_for_one_thing_are_refused() {
    let files = Files::new();
    let authority = Authority::new(&files.path("own")).unwrap();
    let own = authority.issue("own", &[]).unwrap();
    let (certificate, key) = (text(&own.certificate), text(&own.key));
    let password = files.write("password", "hunter2");
    let nkey = files.write("own.nk", &KeyPair::new_user().seed().unwrap());
    assert_bad(
        &[("--nats-cert", &certificate), ("--nats-user", "u")],
        &[
            "--nats-cert (NATS_CERT_FILE) needs --nats-key (NATS_KEY_FILE)",
            "--nats-user (NATS_USER) needs --nats-password-file (NATS_PASSWORD_FILE)",
        ],
    );
    assert_bad(
        &[("--nats-key", &key), ("--nats-password-file", &password)],
        &[
            "--nats-key (NATS_KEY_FILE) needs --nats-cert (NATS_CERT_FILE)",
            "--nats-password-file (NATS_PASSWORD_FILE) needs --nats-user (NATS_USER)",
        ],
    );
    assert_bad(
        &[
            ("--nats-url", "nats://u:hunter2@a"),
            ("--nats-user", "u"),
            ("--nats-password-file", &password),
            ("--nats-nkey-file", &nkey),
        ],
        &[
            "--nats-url (NATS_URL) and --nats-user (NATS_USER) and --nats-nkey-file (NATS_NKEY_FILE) \
           each say who this is: leave one of them",
        ],
    );
    assert_bad(
        &[("--nats-ca", ""), ("--nats-user", ""), ("--nats-nkey-file", "")],
        &[
            "--nats-ca (NATS_CA_FILE): is set but empty",
            "--nats-user (NATS_USER): is set but empty",
            "--nats-nkey-file (NATS_NKEY_FILE): is set but empty",
        ],
    );
}
