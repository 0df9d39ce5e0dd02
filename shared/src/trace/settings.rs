//! The standard variables of OpenTelemetry, checked like every other setting.
//!
//! The SDK reads most of them itself, and silently takes its default for what it cannot read. So
//! they are checked here first: a bad one is named, and nothing starts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use super::Traces;
use super::client::Client;
use crate::settings::{Problems, number};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const PROTOCOL: &str = "http/protobuf";

/// Where to export spans to, if anywhere.
#[derive(Debug, Clone, Default)]
pub struct Settings(Option<Client>);

impl Settings {
    /// Reads the variables. Without an endpoint the others do not matter. None on a problem, which
    /// is noted.
    pub fn check(
        problems: &mut Problems,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Option<Self> {
        let mut environment = Environment { problems, variable, is_sound: true };
        let checked = environment.check();
        environment.is_sound.then_some(Self(checked))
    }

    /// Begins to export, under this service name if the environment gives no other. Call it within
    /// the runtime that exports.
    #[must_use]
    pub fn start(self, service: &'static str) -> Traces {
        let Some(client) = self.0 else { return Traces::off() };
        let endpoint = client.endpoint();
        match Traces::to(client, service) {
            Ok(traces) => {
                tracing::info!(endpoint, "spans are exported");
                traces
            }
            // Its value was checked.
            Err(error) => {
                tracing::error!(endpoint, %error, "spans are not exported");
                Traces::off()
            }
        }
    }
}

struct Environment<'a, F> {
    problems: &'a mut Problems,
    variable: F,
    is_sound: bool,
}

impl<F: Fn(&str) -> Option<OsString>> Environment<'_, F> {
    fn check(&mut self) -> Option<Client> {
        if self.text("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return None;
        }
        match self.text("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return None,
            Some(_) => self.problem("OTEL_TRACES_EXPORTER", "must be otlp or none"),
        }
        let (name, endpoint) = match (self.text(TRACES_ENDPOINT), self.text(ENDPOINT)) {
            (Some(whole), _) => (TRACES_ENDPOINT, endpoint(&whole, "")),
            (None, Some(base)) => (ENDPOINT, endpoint(&base, "v1/traces")),
            (None, None) => return None,
        };
        self.either("PROTOCOL", |text| match text {
            PROTOCOL => Ok(()),
            _ => Err(format!("must be {PROTOCOL}")),
        });
        self.either("HEADERS", headers);
        let timeout = self.either("TIMEOUT", |text| number(text, 1_u64, 600_000));
        self.sampler();
        for (name, max) in [
            ("OTEL_BSP_MAX_QUEUE_SIZE", 1_000_000),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1_000_000),
            ("OTEL_BSP_SCHEDULE_DELAY", 600_000),
            ("OTEL_SPAN_LINK_COUNT_LIMIT", 1_000_000),
        ] {
            if let Some(text) = self.text(name)
                && let Err(why) = number(&text, 1_u32, max)
            {
                self.problem(name, &why);
            }
        }
        let authorities = self.either("CERTIFICATE", |text| Ok(PathBuf::from(text)));
        let timeout = Duration::from_millis(timeout.unwrap_or(10_000));
        let client =
            endpoint.and_then(|endpoint| Client::new(endpoint, timeout, authorities.as_deref()));
        client.map_err(|why| self.problem(name, &why)).ok()
    }

    fn sampler(&mut self) {
        const KNOWN: [&str; 6] = [
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ];
        let Some(sampler) = self.text("OTEL_TRACES_SAMPLER") else { return };
        if !KNOWN.contains(&sampler.as_str()) {
            let why = format!("must be one of {}", KNOWN.join(", "));
            self.problem("OTEL_TRACES_SAMPLER", &why);
        }
        let ratio = self.text("OTEL_TRACES_SAMPLER_ARG");
        let ratio = ratio.and_then(|ratio| ratio.parse::<f64>().ok());
        if sampler.ends_with("traceidratio")
            && !ratio.is_some_and(|ratio| (0.0..=1.0).contains(&ratio))
        {
            self.problem("OTEL_TRACES_SAMPLER_ARG", "must be a share from 0.0 to 1.0");
        }
    }

    /// Reads the variable for traces, or else the general one.
    fn either<T>(&mut self, what: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")]
            .into_iter()
            .find_map(|name| self.text(&name).map(|text| (name, text)))
            .and_then(|(name, text)| read(&text).map_err(|why| self.problem(&name, &why)).ok())
    }

    /// A variable's value; an empty one counts as none.
    fn text(&mut self, name: &str) -> Option<String> {
        match (self.variable)(name)?.into_string() {
            Ok(text) => Some(text).filter(|text| !text.is_empty()),
            Err(_) => {
                self.problem(name, "is not UTF-8");
                None
            }
        }
    }

    fn problem(&mut self, name: &str, why: &str) {
        self.is_sound = false;
        self.problems.note(format!("{name}: {why}"));
    }
}

/// Reads an endpoint's URL, to which this path may be added. The message does not quote it, because
/// it may hold a password.
fn endpoint(text: &str, path: &str) -> Result<Uri, String> {
    let uri = text.parse::<Uri>().ok().filter(|uri| {
        let has_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        has_scheme && uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none()
    });
    let uri = uri.ok_or("must be an address like http://collector:4318")?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("must hold no user or password: OTEL_EXPORTER_OTLP_HEADERS may".into());
    }
    if path.is_empty() {
        return Ok(uri);
    }
    let separator = if text.ends_with('/') { "" } else { "/" };
    format!("{text}{separator}{path}").parse::<Uri>().map_err(|error| error.to_string())
}

/// Checks `name=value,name=value`. The values may be secrets.
fn headers(text: &str) -> Result<(), String> {
    let is_sound = |pair: &str| {
        let (name, _) = pair.split_once('=')?;
        hyper::header::HeaderName::from_bytes(name.trim().as_bytes()).ok()
    };
    let sound = text.split_terminator(',').all(|pair| is_sound(pair).is_some());
    if sound { Ok(()) } else { Err("must be name=value,name=value".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(set: &[(&str, &str)]) -> Result<Option<Client>, String> {
        let mut problems = Problems::default();
        let checked = Settings::check(&mut problems, |name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
        });
        problems.finish(checked).map(|settings| settings.0).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint() {
        for set in [
            &[][..],
            &[(ENDPOINT, ""), (TRACES_ENDPOINT, "")],
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
            &[(ENDPOINT, "http://c:4318"), ("OTEL_SDK_DISABLED", "true")],
            &[(ENDPOINT, "http://c:4318"), ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(matches!(check(set), Ok(None)), "{set:?}");
        }
    }

    #[test]
    fn an_endpoint_for_everything_has_the_path_of_traces_added() {
        for (name, text, endpoint) in [
            (ENDPOINT, "http://c:4318", "http://c:4318/v1/traces"),
            (ENDPOINT, "http://c:4318/", "http://c:4318/v1/traces"),
            (ENDPOINT, "http://[::1]:4318/otlp", "http://[::1]:4318/otlp/v1/traces"),
            (TRACES_ENDPOINT, "http://c:4318/here", "http://c:4318/here"),
        ] {
            let client = check(&[(name, text), ("OTEL_EXPORTER_OTLP_TIMEOUT", "250")]);
            let client = client.unwrap().unwrap();
            assert_eq!(client.endpoint(), endpoint);
            assert_eq!(client.timeout(), Duration::from_millis(250));
        }
        let both = [(ENDPOINT, "http://a:1"), (TRACES_ENDPOINT, "http://b:2")];
        assert_eq!(check(&both).unwrap().unwrap().endpoint(), "http://b:2/");
    }

    #[test]
    fn every_bad_variable_is_named_at_once_and_no_value_is_shown() {
        let set = [
            (ENDPOINT, "http://hunter2@c:4318"),
            ("OTEL_TRACES_EXPORTER", "hunter2"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization hunter2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ];
        let problems = check(&set).unwrap_err();
        for (name, _) in set {
            assert!(problems.contains(&format!("{name}: ")), "{name} in {problems}");
        }
        assert!(!problems.contains("hunter2"), "{problems}");
    }

    #[test]
    fn an_endpoint_is_an_http_address_without_a_password() {
        for bad in
            ["c:4318", "grpc://c:4317", "http://", "/v1/traces", "http://u:p@c", "http://c?q"]
        {
            let problem = check(&[(ENDPOINT, bad)]).unwrap_err();
            assert!(problem.contains("OTEL_EXPORTER_OTLP_ENDPOINT: must"), "{bad}: {problem}");
        }
        let set =
            [(ENDPOINT, "https://c"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/authorities")];
        assert!(check(&set).unwrap_err().contains("certificate authorities"));
    }

    #[test]
    fn a_sampler_of_a_share_needs_the_share() {
        for arg in [None, Some("2"), Some("half")] {
            let set = [
                (TRACES_ENDPOINT, "http://c/"),
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", arg.unwrap_or_default()),
            ];
            assert!(check(&set).unwrap_err().contains("OTEL_TRACES_SAMPLER_ARG: must"), "{arg:?}");
        }
    }
}
