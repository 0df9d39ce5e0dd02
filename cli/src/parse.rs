//! Parses the command line so that every bad value is named at once, as everywhere in Ackline.

use std::error::Error as _;
use std::ffi::OsString;

use clap::builder::OsStringValueParser;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, Command, CommandFactory, Error, FromArgMatches, Id};
use shared::settings::{Invalid, Problems};

use crate::Cli;

/// Parses the arguments. Clap itself stops at the first bad value. This function then removes that
/// value's check and parses again.
///
/// # Errors
/// Every bad value. For malformed arguments and for `--help`, clap prints its own message and
/// exits.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Invalid> {
    parse_or_clap(args).unwrap_or_else(|error| error.exit())
}

fn parse_or_clap(args: impl IntoIterator<Item = OsString>) -> Result<Result<Cli, Invalid>, Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut command = Cli::command();
    let mut problems = Problems::default();
    let mut is_sound = true;
    loop {
        let error = match command.clone().try_get_matches_from(&args) {
            Ok(matches) if is_sound => return Cli::from_arg_matches(&matches).map(Ok),
            Ok(_) => return Ok(problems.finish(None)),
            Err(error) => error,
        };
        let named = error.get(ContextKind::InvalidArg).map(ToString::to_string);
        let (ErrorKind::ValueValidation, Some(named)) = (error.kind(), named) else {
            return Err(error);
        };
        // Only a built command knows how its arguments are displayed.
        let mut built = command.clone();
        built.build();
        let Some(argument) = find(&built, &named) else { return Err(error) };
        let why = error.source().map(ToString::to_string).unwrap_or_default();
        problems.note(format!("{}: {why}", name(argument)));
        is_sound = false;
        command = uncheck(command, argument.get_id());
    }
}

/// The argument that clap displays like this, in whichever command has it.
fn find<'a>(command: &'a Command, shown: &str) -> Option<&'a Arg> {
    let own = command.get_arguments().find(|argument| argument.to_string() == shown);
    own.or_else(|| command.get_subcommands().find_map(|inner| find(inner, shown)))
}

/// How a setting is named in messages.
fn name(argument: &Arg) -> String {
    let flag = argument.get_long().map(|long| format!("--{long}"));
    let flag = flag.unwrap_or_else(|| argument.to_string());
    let variable = argument.get_env().map(|env| format!(" ({})", env.to_string_lossy()));
    flag + &variable.unwrap_or_default()
}

/// Removes the check from an argument, in every command that has it.
fn uncheck(command: Command, id: &Id) -> Command {
    let has = command.get_arguments().any(|argument| argument.get_id() == id);
    let command = if has {
        command.mut_arg(id, |argument| argument.value_parser(OsStringValueParser::new()))
    } else {
        command
    };
    command.mut_subcommands(|inner| uncheck(inner, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Result<Cli, Invalid>, Error> {
        parse_or_clap([&["ackline"], args].concat().into_iter().map(OsString::from))
    }

    #[test]
    fn every_bad_value_is_named_at_once() {
        let args = ["jobs", "list", "--since=0h", "--status=done", "--limit=0", "--after=x"];
        let error = read(&args).unwrap().unwrap_err().to_string();
        for (flag, why) in [
            ("--since: ", "is not a duration"),
            ("--status: ", "is not one of queued, provisioning"),
            ("--limit: ", "from 1 to 10000"),
        ] {
            let line = error.lines().find(|line| line.trim().starts_with(flag));
            assert!(line.is_some_and(|line| line.contains(why)), "{flag} in {error}");
        }
        assert!(!error.contains("--after"), "{error}");
    }

    #[test]
    fn settings_are_named_with_their_variables_and_positions_by_their_form() {
        let bad = |args: &[&str]| read(args).unwrap().unwrap_err().to_string();
        assert!(bad(&["migrate", "--partitions=0"]).contains("--partitions (PARTITIONS): "));
        assert!(bad(&["partitions", "accept", "x"]).contains("<PARTITION>: \"x\" is not"));
    }

    #[test]
    fn what_is_no_value_is_left_to_clap() {
        assert_eq!(read(&["--help"]).unwrap_err().kind(), ErrorKind::DisplayHelp);
        assert_eq!(read(&["jobs"]).unwrap_err().exit_code(), 2);
        assert_eq!(read(&["prune", "--older"]).unwrap_err().kind(), ErrorKind::UnknownArgument);
        assert!(read(&["jobs", "list", "--limit=2"]).unwrap().is_ok());
    }
}
