//! Compares an HTTP API with its OpenAPI document: schemathesis sends what the document allows and
//! what it forbids, and looks at every answer.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Uri;
use serde::Deserialize;
use serde_json::Value;

use crate::process::Program;
use crate::tools;

/// Below the limit that a test has.
const LIMIT: Duration = Duration::from_secs(240);
/// Of one request: an API that does not answer is reported, and does not use up the time.
const ANSWER_LIMIT_S: &str = "10";

/// An API on this machine, and how it is looked at.
#[derive(Debug, Clone)]
pub struct Api {
    document: String,
    base: String,
    headers: Vec<(String, String)>,
    settled: Vec<(String, String, String)>,
    max_examples: u32,
    args: Vec<OsString>,
}

/// What was looked at, in a comparison that found no difference.
#[derive(Debug)]
pub struct Report {
    /// How many operations were tested: all that the arguments do not exclude.
    pub operations: u64,
    /// How many requests were sent and judged.
    pub cases: u64,
    /// What makes the comparison weaker than it looks, as `missing_test_data` when an operation
    /// answers 404 to everything: the name of each kind, with what it is about.
    pub warnings: Vec<(String, Value)>,
}

impl Api {
    /// The API that the document at this URL describes. Its paths begin behind `base`, whatever
    /// servers it names.
    pub fn new(document: impl Into<String>, base: impl Into<String>) -> Self {
        Self {
            document: document.into(),
            base: base.into(),
            headers: Vec::new(),
            settled: Vec::new(),
            max_examples: 50,
            args: Vec::new(),
        }
    }

    /// Sends this header field with every request, and to get the document. The value may be secret.
    /// What the document calls by a name must be spelled like that here (`Authorization`): requests
    /// without it, which must be refused, are made by leaving out that name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sends this value of a parameter with every request of an operation, such as `GET /jobs/{id}`.
    pub fn settle(mut self, operation: &str, parameter: &str, value: &str) -> Self {
        self.settled.push((operation.to_owned(), parameter.to_owned(), value.to_owned()));
        self
    }

    /// Bounds the number of random requests to an operation; 50 otherwise.
    pub fn max_examples(mut self, max_examples: u32) -> Self {
        self.max_examples = max_examples;
        self
    }

    /// Adds arguments of `schemathesis run`, as `--exclude-checks`.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Compares, in all of schemathesis's phases with all of its checks, and with the same requests
    /// every time. What it writes is in a new folder in `dir`.
    pub async fn check(&self, dir: &Path) -> Result<Report> {
        for url in [&self.document, &self.base] {
            ensure!(is_loopback(url), "{url} is not on this machine");
        }
        let home = tempfile::Builder::new().prefix("schemathesis-").tempdir_in(dir)?.keep();
        let (config, report) = (home.join("schemathesis.toml"), home.join("report.json"));
        fs::write(&config, self.config()?)?;
        let secrets = self.headers.iter().map(|(_, value)| value);

        let mut process = Program::new("schemathesis", tools::python(), &home)
            .env("PYTHONPATH", tools::schemathesis()?)
            .envs(secrets.enumerate().map(|(number, value)| (variable(number), value)))
            // Nothing from the folder that it runs in is imported, and no file is left among the tools.
            .args(["-P", "-B", "-m", "schemathesis.cli", "--no-color", "--config-file"])
            .args([&config])
            .args(["run", &self.document, "--url", &self.base])
            .args(["--checks", "all", "--generation-deterministic"])
            .args(["--max-examples", &self.max_examples.to_string()])
            .args(["--request-timeout", ANSWER_LIMIT_S])
            .args(["--report-json-path".as_ref(), report.as_os_str()])
            .args(&self.args)
            .start()?;
        let status = process.wait(LIMIT).await?;
        let output = || process.log().tail(200);
        ensure!(status.success(), "the API differs from {}\n{}", self.document, output());

        let report = fs::read(&report).with_context(output)?;
        let report: Written = serde_json::from_slice(&report).with_context(output)?;
        let Written { complete, operations, test_cases, warnings } = report;
        ensure!(
            complete && operations.tested > 0 && operations.tested == operations.selected,
            "not all operations of {} were tested\n{}",
            self.document,
            output()
        );
        let is_given = |about: &Value| about.as_array().is_none_or(|about| !about.is_empty());
        Ok(Report {
            operations: operations.tested,
            cases: test_cases.generated,
            warnings: warnings.into_iter().filter(|(_, about)| is_given(about)).collect(),
        })
    }

    /// The header fields, with values that only the environment knows, and what is settled.
    fn config(&self) -> Result<String> {
        let mut config = String::from("[headers]\n");
        for (number, (name, _)) in self.headers.iter().enumerate() {
            let (name, value) = (name, format!("${{{}}}", variable(number)));
            config +=
                &format!("{} = {}\n", serde_json::to_string(name)?, serde_json::to_string(&value)?);
        }
        for (operation, parameter, value) in &self.settled {
            let [operation, parameter, value] =
                [operation, parameter, value].map(serde_json::to_string);
            config += &format!(
                "[[operations]]\ninclude-name = {}\nparameters = {{ {} = {} }}\n",
                operation?, parameter?, value?
            );
        }
        Ok(config)
    }
}

fn variable(number: usize) -> String {
    format!("HEADER_{number}")
}

fn is_loopback(url: &str) -> bool {
    let uri = url.parse::<Uri>().ok();
    let host = uri.as_ref().and_then(Uri::host);
    host.is_some_and(|host| ["127.0.0.1", "[::1]", "localhost"].contains(&host))
}

/// What schemathesis writes.
#[derive(Debug, Deserialize)]
struct Written {
    complete: bool,
    operations: Operations,
    test_cases: TestCases,
    warnings: serde_json::Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Operations {
    selected: u64,
    tested: u64,
}

#[derive(Debug, Deserialize)]
struct TestCases {
    generated: u64,
}
