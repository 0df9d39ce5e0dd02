//! `make docs`: writes the tables of settings and commands in docs/ from the programs' own
//! definitions. With `--check` it writes nothing and fails if a file is out of date.

#![allow(clippy::print_stderr, reason = "it is there to be read")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Arg, Args, Command, CommandFactory};
use shared::broker::BrokerArgs;
use worker::process::settings::DatabaseArgs;

/// Everything between two such lines is made from what the first one names.
const BEGIN: &str = "<!-- made from: ";
const END: &str = "<!-- made by `make docs` -->";

/// Settings that many programs share, by name. They have tables of their own.
fn shared() -> [(&'static str, Command); 2] {
    [
        ("broker", BrokerArgs::augment_args(Command::new("broker"))),
        ("database", DatabaseArgs::augment_args(Command::new("database"))),
    ]
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let is_check = std::env::args().nth(1).is_some_and(|arg| arg == "--check");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let programs = [
        ingress::settings::Cli::command(),
        worker::process::settings::Cli::command(),
        cli::Cli::command(),
    ]
    .map(|mut program| {
        program.build();
        program
    });
    let mut missing = BTreeSet::from(shared().map(|(name, _)| name.to_owned()));
    for program in &programs {
        names(program, "", &mut missing);
    }
    for name in ["CONFIGURATION.md", "COMMANDS.md"] {
        let file = docs.join(name);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let made = remake(&text, &programs, &mut missing).with_context(|| name.to_owned())?;
        if made != text {
            ensure!(!is_check, "docs/{name} is out of date: run `make docs`, and commit it");
            fs::write(&file, made)?;
        }
    }
    ensure!(missing.is_empty(), "docs/ has nothing about {missing:?}: add a `{BEGIN}NAME -->`");
    Ok(())
}

/// The names of all that people run.
fn names(command: &Command, before: &str, all: &mut BTreeSet<String>) {
    let name = format!("{before}{}", command.get_name());
    for inner in commands(command) {
        names(inner, &format!("{name} "), all);
    }
    // A group of commands does nothing by itself.
    if !command.is_subcommand_required_set() {
        all.insert(name);
    }
}

fn commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
}

/// Makes everything between the markers again.
fn remake(text: &str, programs: &[Command], missing: &mut BTreeSet<String>) -> Result<String> {
    let mut made = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        writeln!(made, "{line}")?;
        let Some(name) = line.strip_prefix(BEGIN) else { continue };
        let name = name.trim_end_matches(" -->");
        made.push_str(&section(name, programs)?);
        writeln!(made, "\n{END}")?;
        ensure!(lines.any(|line| line == END), "{name} has no end: {END}");
        missing.remove(name);
    }
    Ok(made)
}

fn section(name: &str, programs: &[Command]) -> Result<String> {
    let shared = shared();
    if let Some((_, settings)) = shared.iter().find(|(shared, _)| *shared == name) {
        return table(settings.get_arguments());
    }
    let mut words = name.split(' ');
    let program = words.next().unwrap_or_default();
    let program = programs.iter().find(|known| known.get_name() == program);
    let command = words.try_fold(program.context("no such program")?, |command, word| {
        command.find_subcommand(word).with_context(|| format!("there is no command {name}"))
    })?;
    let mut text = String::new();
    let about = command.get_long_about().or(command.get_about());
    writeln!(text, "\n{}", sentence(&about.map(ToString::to_string).unwrap_or_default()))?;
    let has = |command: &Command, arg: &Arg| {
        command.get_arguments().any(|one| one.get_id() == arg.get_id())
    };
    let is_own = |arg: &&Arg| {
        let id = arg.get_id().as_str();
        !matches!(id, "help" | "version") && !shared.iter().any(|(_, settings)| has(settings, arg))
    };
    let own: Vec<&Arg> = command.get_arguments().filter(is_own).collect();
    if !own.is_empty() {
        text.push_str(&table(own.into_iter())?);
    }
    let counting =
        shared.iter().filter(|(_, settings)| settings.get_arguments().all(|arg| has(command, arg)));
    let shared: Vec<String> =
        counting.map(|(name, _)| format!("[the {name}](CONFIGURATION.md#the-{name})")).collect();
    if !shared.is_empty() {
        writeln!(text, "\nSettings of {} count, too.", shared.join(" and "))?;
    }
    Ok(text)
}

fn table<'a>(args: impl Iterator<Item = &'a Arg>) -> Result<String> {
    let mut text = "\n| flag | variable | default | |\n|---|---|---|---|\n".to_owned();
    for arg in args {
        let flag = match arg.get_long() {
            Some(long) => format!("--{long}"),
            None => arg.to_string(),
        };
        let Some(help) = arg.get_long_help().or(arg.get_help()) else {
            bail!("{flag} says nothing of itself")
        };
        let code = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
        let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
        let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
        let default = defaults.collect::<Vec<_>>().join(",");
        // A flag without a value has none.
        let default = if arg.get_action().takes_values() { default } else { String::new() };
        let row = [
            code(flag),
            code(variable.unwrap_or_default()),
            code(default),
            sentence(&help.to_string()),
        ];
        writeln!(text, "| {} |", row.map(|cell| cell.replace('|', "\\|")).join(" | "))?;
    }
    Ok(text.replace("|  |", "| |").replace("|  |", "| |"))
}

/// A text of several lines as sentences in one. Clap takes the last full stop away.
fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.ends_with(['.', '…', ':']) { text } else { text + "." }
}
