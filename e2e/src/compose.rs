//! What docker-compose.yml says, without Docker.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::tools;

/// The file, with the variables that were put into it.
#[derive(Debug, Deserialize)]
pub struct Compose {
    /// What runs, by its name.
    pub services: BTreeMap<String, Service>,
}

/// One service. What is not here does not concern processes without containers.
#[derive(Debug, Deserialize)]
pub struct Service {
    /// What is run, after the image's entry point.
    #[serde(default)]
    pub command: Vec<String>,
    /// Its variables.
    #[serde(default)]
    environment: BTreeMap<String, Option<Value>>,
    /// Files that it mounts, as `FROM:TO`.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// It runs only when one of these was asked for.
    #[serde(default)]
    pub profiles: Vec<String>,
    #[serde(default)]
    deploy: Deploy,
}

#[derive(Debug, Default, Deserialize)]
struct Deploy {
    replicas: Option<usize>,
}

impl Compose {
    /// Reads it, with the variables that an environment file of `docker compose` sets, and these.
    ///
    /// # Errors
    /// When a file can't be read, or is not what is expected here.
    pub fn read(env_file: &str, variables: &[(&str, &str)]) -> Result<Self> {
        let mut all = BTreeMap::new();
        for line in file(env_file)?.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once('=').context("a line of an environment file")?;
            all.insert(name.to_owned(), value.to_owned());
        }
        all.extend(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let text = interpolate(&file("docker-compose.yml")?, &all)?;
        let mut compose: Self = serde_saphyr::from_str(&text).context("docker-compose.yml")?;
        for service in compose.services.values_mut() {
            for (name, value) in &mut service.environment {
                if value.is_none() {
                    *value = all.get(name).cloned().map(Value::String);
                }
            }
        }
        Ok(compose)
    }

    /// A service.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn service(&self, name: &str) -> Result<&Service> {
        self.services.get(name).with_context(|| format!("docker-compose.yml has no {name}"))
    }
}

impl Service {
    /// Its variables that are set, as texts.
    pub fn environment(&self) -> impl Iterator<Item = (&str, String)> {
        self.environment.iter().filter_map(|(name, value)| match value {
            None => None,
            Some(Value::String(text)) => Some((name.as_str(), text.clone())),
            Some(other) => Some((name.as_str(), other.to_string())),
        })
    }

    /// The names of all variables, also of those that are set only where Compose has them.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.environment.keys().map(String::as_str)
    }

    /// How many of it run.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.deploy.replicas.unwrap_or(1)
    }
}

fn file(name: &str) -> Result<String> {
    fs::read_to_string(tools::workspace().join(name)).with_context(|| format!("can't read {name}"))
}

/// Puts variables in place of `${NAME}` and `${NAME:-DEFAULT}`; nothing else of that kind is known.
fn interpolate(text: &str, variables: &BTreeMap<String, String>) -> Result<String> {
    let mut parts = text.split("${");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').context("a ${ without }")?;
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (variable, None),
        };
        match variables.get(name).map(String::as_str).or(default) {
            Some(value) => whole.push_str(value),
            None => bail!("docker-compose.yml needs the variable {name}"),
        }
        whole.push_str(rest);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_their_defaults_are_put_in() {
        let set = BTreeMap::from([("A".to_owned(), "one".to_owned())]);
        let read = |text| interpolate(text, &set).ok();
        assert_eq!(
            read("x ${A} ${A:-two} ${B:-three:-3} y").as_deref(),
            Some("x one one three:-3 y")
        );
        assert_eq!(read("${B}"), None);
        assert_eq!(read("${A"), None);
    }

    #[test]
    fn the_file_is_read_with_everything_that_it_repeats() {
        let compose = Compose::read("deploy/cluster.env", &[]).unwrap();
        let nats = compose.service("nats-3").unwrap();
        assert_eq!(nats.command, ["--config", "/etc/nats/cluster.conf"]);
        assert_eq!(nats.profiles, ["cluster"]);
        let migrate: BTreeMap<_, _> = compose.service("migrate").unwrap().environment().collect();
        assert_eq!(migrate["STREAM_REPLICAS"], "3");
        assert!(!migrate.contains_key("PARTITIONS"));
        assert_eq!(compose.service("ingress").unwrap().replicas(), 2);
        assert!(compose.service("other").is_err());
    }
}
