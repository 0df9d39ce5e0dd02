//! An operator of a test's own, with the JWTs that `nsc` would make.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// The one who vouches for accounts, and two of them: the users', and the server's own.
pub(super) struct Operator {
    key: KeyPair,
    pub(super) account: Account,
    system: Account,
}

pub(super) struct Account(KeyPair);

impl Operator {
    pub(super) fn new() -> Self {
        Self {
            key: KeyPair::new_operator(),
            account: Account(KeyPair::new_account()),
            system: Account(KeyPair::new_account()),
        }
    }

    /// What a server that believes this operator is configured with.
    pub(super) fn config(&self) -> String {
        let itself = sign(&self.key, &self.key, json!({ "type": "operator", "version": 2 }));
        let (account, system) = (self.account.0.public_key(), self.system.0.public_key());
        format!(
            "operator: {itself}\nsystem_account: {system}\nresolver: MEMORY\n\
             resolver_preload: {{\n  {account}: {}\n  {system}: {}\n}}",
            self.vouch(&self.account, -1),
            self.vouch(&self.system, 0),
        )
    }

    fn vouch(&self, account: &Account, jetstream: i64) -> String {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": jetstream, "disk_storage": jetstream,
            "streams": jetstream, "consumer": jetstream,
        });
        let claims = json!({ "type": "account", "version": 2, "limits": limits });
        sign(&self.key, &account.0, claims)
    }
}

impl Account {
    /// A user's JWT.
    pub(super) fn user(&self, user: &KeyPair) -> String {
        let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
        sign(&self.0, user, claims)
    }
}

/// The contents of a credentials file, with what `nsc` writes around them.
pub(super) fn credentials(jwt: &str, user: &KeyPair) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\
         NKEY Seed printed below can be used to sign and prove identity.\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    )
}

fn sign(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let (issuer_key, subject_key) = (issuer.public_key(), subject.public_key());
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = json!({
        "jti": subject_key, "iat": 1_700_000_000, "iss": issuer_key, "name": "test",
        "sub": subject_key, "nats": nats,
    });
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}
