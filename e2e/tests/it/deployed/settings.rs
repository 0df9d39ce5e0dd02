//! Every variable that the files set is one that the program reads: a misspelt one would be none.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use clap::{Command, CommandFactory};
use e2e::tools::workspace;
use serde_json::Value;

/// What the program, or any of its commands, takes from its environment.
fn known(command: &Command) -> HashSet<String> {
    let own = command.get_arguments().filter_map(|argument| argument.get_env());
    let own = own.map(|name| name.to_str().unwrap().to_owned());
    command.get_subcommands().flat_map(known).chain(own).collect()
}

fn compose() -> Value {
    let text = fs::read_to_string(workspace().join("docker-compose.yml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn kubernetes(file: &str) -> Vec<Value> {
    let file = workspace().join("deploy/kubernetes").join(file);
    serde_saphyr::from_multiple(&fs::read_to_string(file).unwrap()).unwrap()
}

/// The keys of a ConfigMap that kustomize makes.
fn keys(config_map: &Value) -> Vec<String> {
    let kustomization = &kubernetes("kustomization.yaml")[0];
    let mut generated = kustomization["configMapGenerator"].as_array().unwrap().iter();
    let generated = generated.find(|one| one["name"] == *config_map).unwrap();
    let literals = generated["literals"].as_array().unwrap().iter();
    let names = literals.map(|literal| literal.as_str().unwrap().split_once('=').unwrap().0);
    names.map(str::to_owned).collect()
}

/// The container's program, by its image, and the variables that it is given.
fn containers(file: &str) -> Vec<(String, Vec<String>)> {
    let documents = kubernetes(file);
    let containers = documents.iter().filter_map(|one| {
        let container = &one.pointer("/spec/template/spec/containers")?[0];
        let mut names = Vec::new();
        for variable in container["env"].as_array()? {
            names.push(variable["name"].as_str()?.to_owned());
            if let Some(taken) = variable.pointer("/valueFrom/configMapKeyRef") {
                let key = taken["key"].as_str()?;
                assert!(keys(&taken["name"]).iter().any(|name| name == key), "{file}: {key}");
            }
        }
        for taken in container["envFrom"].as_array().into_iter().flatten() {
            names.extend(keys(&taken["configMapRef"]["name"]));
        }
        Some((container["image"].as_str()?.to_owned(), names))
    });
    containers.collect()
}

#[test]
fn every_variable_that_is_set_is_read() {
    let ingress = known(&ingress::settings::Cli::command());
    let mut worker = known(&worker::process::settings::Cli::command());
    worker.extend(known(&cli::Cli::command()));
    assert!(ingress.contains("DRAIN_DELAY") && worker.contains("STREAM_REPLICAS"));

    let mut given: Vec<(String, Vec<String>)> = Vec::new();
    let compose = compose();
    for (service, image) in [
        ("ingress", "ackline-ingress"),
        ("worker", "ackline-worker"),
        ("migrate", "ackline-worker"),
    ] {
        let names = compose["services"][service]["environment"].as_object().unwrap().keys();
        given.push((image.to_owned(), names.cloned().collect()));
    }
    for file in ["ingress.yaml", "worker.yaml", "migrate.yaml"] {
        given.extend(containers(file));
    }
    assert_eq!(given.len(), 6, "{given:?}");
    for (image, names) in given {
        let known = if image == "ackline-ingress" { &ingress } else { &worker };
        assert!(names.len() >= 4, "{image}: {names:?}");
        for name in names {
            assert!(known.contains(&name), "{image} does not know {name}");
        }
    }
}

#[test]
fn what_is_shipped_can_not_be_replayed() {
    let compose = compose();
    let given = &compose["services"]["ingress"]["environment"]["REQUIRE_TIMESTAMP"];
    assert_eq!(given, "${REQUIRE_TIMESTAMP:-true}");
    let documents = kubernetes("ingress.yaml");
    let env = documents[0].pointer("/spec/template/spec/containers/0/env").unwrap();
    let given = env.as_array().unwrap().iter().find(|one| one["name"] == "REQUIRE_TIMESTAMP");
    assert_eq!(given.unwrap()["value"], "true");
}

/// What a setting is without anybody setting it.
fn default(command: &Command, name: &str) -> Duration {
    let mut all = command.get_subcommands().chain([command]).flat_map(Command::get_arguments);
    let argument = all.find(|argument| argument.get_env().is_some_and(|env| env == name)).unwrap();
    let value = argument.get_default_values()[0].to_str().unwrap();
    humantime::parse_duration(value).unwrap()
}

/// Both orchestrators wait longer for a process to end than it takes at the most.
#[test]
fn nobody_is_killed_while_it_hands_over() {
    let ingress = default(&ingress::settings::Cli::command(), "SHUTDOWN_GRACE");
    let worker = default(&worker::process::settings::Cli::command(), "SHUTDOWN_GRACE");
    let grace = ingress.max(worker);
    let compose = compose();
    for service in ["ingress", "worker"] {
        let given = compose["services"][service]["stop_grace_period"].as_str().unwrap();
        assert!(humantime::parse_duration(given).unwrap() > grace, "{service}");
    }
    for file in ["ingress.yaml", "worker.yaml"] {
        let documents = kubernetes(file);
        let seconds = documents[0].pointer("/spec/template/spec/terminationGracePeriodSeconds");
        assert!(seconds.unwrap().as_u64().unwrap() > grace.as_secs(), "{file}");
    }
}
