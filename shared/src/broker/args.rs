//! The settings of the connection to the broker, the same for every program.

use std::ffi::OsString;

use clap::{Arg, Args, Command, FromArgMatches};

use super::access::Access;
use super::address;
use super::servers::Servers;
use super::tls::Tls;
use crate::secret::{self, ExposeSecret, Secret};
use crate::settings::{Empty, InFile, Problems, yes_or_no};

const URL: &str = "--nats-url (NATS_URL)";
const CA: &str = "--nats-ca (NATS_CA_FILE)";
const CERT: &str = "--nats-cert (NATS_CERT_FILE)";
const KEY: &str = "--nats-key (NATS_KEY_FILE)";
const USER: &str = "--nats-user (NATS_USER)";
const PASSWORD: &str = "--nats-password-file (NATS_PASSWORD_FILE)";
const NKEY: &str = "--nats-nkey-file (NATS_NKEY_FILE)";
const CREDENTIALS: &str = "--nats-credentials-file (NATS_CREDENTIALS_FILE)";

/// The broker's address, and how a process authenticates. No flag takes a secret, because a command
/// line is visible to every user of the machine.
#[derive(Debug, Args, Clone)]
pub struct BrokerArgs {
    /// The addresses of the NATS servers, comma-separated. `tls://` in one requires TLS of all. In the
    /// environment it may hold `user:password@` or `token@`.
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true,
        value_parser = secret::from_setting
    )]
    nats_url: Secret<str>,
    /// The file with the authorities to trust instead of the system's, in PEM. Requires TLS.
    #[arg(long, env = "NATS_CA_FILE", value_name = "FILE")]
    nats_ca: Option<OsString>,
    /// The file with the client certificate, in PEM. Requires TLS.
    #[arg(long, env = "NATS_CERT_FILE", value_name = "FILE")]
    nats_cert: Option<OsString>,
    /// The file with the client certificate's key, in PEM.
    #[arg(long, env = "NATS_KEY_FILE", value_name = "FILE")]
    nats_key: Option<OsString>,
    /// Begin with TLS, before the server says a word: for a server with `handshake_first: true`. Requires
    /// TLS.
    #[arg(long, env = "NATS_TLS_FIRST", default_value = "false", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", value_parser = yes_or_no)]
    nats_tls_first: bool,
    /// The user. The password is in `--nats-password-file`.
    #[arg(long, env = "NATS_USER", value_name = "NAME")]
    nats_user: Option<String>,
    /// The file with the user's password. One newline at its end is not part of it.
    #[arg(long, env = "NATS_PASSWORD_FILE", value_name = "FILE")]
    nats_password_file: Option<OsString>,
    /// The file with the seed of a user's nkey (`SU…`).
    #[arg(long, env = "NATS_NKEY_FILE", value_name = "FILE")]
    nats_nkey_file: Option<OsString>,
    /// The file with a user's JWT and seed, as `nsc` writes them (`.creds`).
    #[arg(long, env = "NATS_CREDENTIALS_FILE", value_name = "FILE")]
    nats_credentials_file: Option<OsString>,
}

impl BrokerArgs {
    /// Reads the settings of another broker from a file with lines like `NATS_URL=…`, as systemd and
    /// Compose read them. Lines with other names are left alone, and the environment counts for
    /// nothing.
    ///
    /// # Errors
    /// What is wrong with a line; its value is not quoted.
    pub fn from_lines(text: &str) -> Result<Self, String> {
        let command = Self::augment_args(Command::new("to").no_binary_name(true));
        let names: Vec<_> = command.get_arguments().map(|arg| arg.get_id().clone()).collect();
        let mut flags = Vec::new();
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) =
                line.split_once('=').ok_or_else(|| format!("line {number} is not NAME=VALUE"))?;
            let of_env = |arg: &&Arg| arg.get_env().is_some_and(|env| env == name.trim());
            if let Some(flag) = command.get_arguments().find(of_env).and_then(Arg::get_long) {
                flags.push(format!("--{flag}={}", value.trim().trim_matches(['"', '\''])));
            } else if name.starts_with("NATS_") {
                return Err(format!("line {number}: {name} is not a setting of the broker"));
            }
        }
        if !flags.iter().any(|flag| flag.starts_with("--nats-url=")) {
            return Err("NATS_URL is missing".into());
        }
        let without_env = names
            .into_iter()
            .fold(command, |command, id| command.mut_arg(id, |arg| arg.env(None::<&str>)));
        let matches = without_env.try_get_matches_from(flags);
        let matches = matches.map_err(|_| "a setting has a value that can't be read".to_owned())?;
        Self::from_arg_matches(&matches).map_err(|_| "a setting can't be read".to_owned())
    }

    /// Checks every setting, and the files that they name.
    pub fn check(&self, problems: &mut Problems) -> Option<Servers> {
        let servers = problems.take(URL, address::read(self.nats_url.expose_secret()));
        let tls = self.check_tls(problems);
        let access =
            self.check_access(problems, servers.as_ref().and_then(|(_, access)| access.as_ref()));
        let (addresses, _) = servers?;
        let (tls, access) = (tls?, access?);
        let tls = tls.or_else(|| {
            addresses.iter().any(async_nats::ServerAddr::tls_required).then(Tls::default)
        });
        Some(Servers::new(addresses, access, tls))
    }

    fn check_tls(&self, problems: &mut Problems) -> Option<Option<Tls>> {
        let authorities = InFile::take(problems, CA, self.nats_ca.as_ref());
        let certificate = InFile::take(problems, CERT, self.nats_cert.as_ref());
        let key = InFile::take(problems, KEY, self.nats_key.as_ref());
        let client = both(problems, (CERT, certificate?), (KEY, key?))?;
        let tls = Tls { authorities: authorities?, client, is_first: self.nats_tls_first };
        for problem in tls.problems() {
            problems.note(problem.to_string());
        }
        let is_asked_for = tls.authorities.is_some() || tls.client.is_some() || tls.is_first;
        Some(is_asked_for.then_some(tls))
    }

    fn check_access(&self, problems: &mut Problems, in_url: Option<&Access>) -> Option<Access> {
        let password = InFile::take(problems, PASSWORD, self.nats_password_file.as_ref());
        let nkey = InFile::take(problems, NKEY, self.nats_nkey_file.as_ref());
        let credentials = InFile::take(problems, CREDENTIALS, self.nats_credentials_file.as_ref());
        let user = match self.nats_user.as_deref() {
            Some("") => problems.take(USER, Err(Empty)),
            user => Some(user.map(str::to_owned)),
        };
        let user = both(problems, (USER, user?), (PASSWORD, password?))?;
        let ways = [
            (URL, in_url.cloned()),
            (USER, user.map(|(user, file)| Access::PasswordFile { user, file })),
            (NKEY, nkey?.map(Access::Nkey)),
            (CREDENTIALS, credentials?.map(Access::Credentials)),
        ];
        let chosen: Vec<_> =
            ways.into_iter().filter_map(|(name, way)| way.map(|way| (name, way))).collect();
        if chosen.len() > 1 {
            let names: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
            problems
                .note(format!("{} each say who this is: leave one of them", names.join(" and ")));
        }
        for (_, way) in &chosen {
            if let Err(problem) = way.present(&[]) {
                problems.note(problem.to_string());
            }
        }
        Some(chosen.into_iter().next().map_or(Access::Nobody, |(_, way)| way))
    }
}

/// Both of two settings or neither of them. None if one is missing, which is noted.
fn both<A, B>(
    problems: &mut Problems,
    (first, a): (&str, Option<A>),
    (second, b): (&str, Option<B>),
) -> Option<Option<(A, B)>> {
    match (&a, &b) {
        (Some(_), None) => problems.note(format!("{first} needs {second}")),
        (None, Some(_)) => problems.note(format!("{second} needs {first}")),
        _ => return Some(a.zip(b)),
    }
    None
}
