//! Reads a command line and its environment twins so that every bad value is named at once.

use std::error::Error as _;
use std::ffi::OsString;

use clap::builder::OsStringValueParser;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, Command, Error, FromArgMatches, Id, Parser};

use super::{Invalid, Problems};

/// Reads the process's command line. Exits with clap's own message where clap must have the last
/// word: for `--help`, and for arguments of a wrong form.
///
/// # Errors
/// [`Invalid`] if without the bad values nothing is left to check: print it, and exit with 2.
pub fn parse_or_exit<C: Parser>() -> Result<(C, Problems), Invalid> {
    let mut problems = Problems::default();
    match parse(C::command(), std::env::args_os(), &mut problems) {
        Ok(Some(cli)) => Ok((cli, problems)),
        Ok(None) => problems.finish(None),
        Err(error) => error.exit(),
    }
}

/// Reads arguments. Clap itself stops at the first bad value; here each is noted, its message
/// without the value, which may be secret. The setting then counts as not given, so that what needs
/// several settings can still be checked. None if one of them can't be left out.
///
/// # Errors
/// What is for clap to say.
pub fn parse<C: FromArgMatches>(
    mut command: Command,
    args: impl IntoIterator<Item = impl Into<OsString>>,
    problems: &mut Problems,
) -> Result<Option<C>, Error> {
    let mut args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let (mut is_sound, mut is_whole) = (true, true);
    loop {
        let error = match command.clone().try_get_matches_from(&args) {
            Ok(matches) if is_whole => return C::from_arg_matches(&matches).map(Some),
            Ok(_) => return Ok(None),
            Err(error) if !is_sound && error.kind() == ErrorKind::MissingRequiredArgument => {
                return Ok(None);
            }
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
        if argument.is_positional() {
            is_whole = false;
            let unchecked = |arg: Arg| arg.value_parser(OsStringValueParser::new());
            command = change(command, argument.get_id(), &unchecked);
        } else if !leave_out(&mut args, argument) {
            if argument.get_env().is_none() {
                // It can't be left out here, and would be named for ever.
                return Err(error);
            }
            command = change(command, argument.get_id(), &|arg| arg.env(None::<&str>));
        }
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

/// Takes a flag and its value from the arguments; false if it isn't there.
fn leave_out(args: &mut Vec<OsString>, argument: &Arg) -> bool {
    let flag = format!("--{}", argument.get_long().unwrap_or_default());
    let with_value = format!("{flag}=");
    for (at, arg) in args.iter().enumerate() {
        let arg = arg.as_encoded_bytes();
        if arg.starts_with(with_value.as_bytes()) {
            args.remove(at);
            return true;
        }
        if arg == flag.as_bytes() {
            args.drain(at..args.len().min(at + 2));
            return true;
        }
    }
    false
}

/// Changes an argument in every command that has it.
fn change(command: Command, id: &Id, change_one: &dyn Fn(Arg) -> Arg) -> Command {
    let has = command.get_arguments().any(|argument| argument.get_id() == id);
    let command = if has { command.mut_arg(id, change_one) } else { command };
    command.mut_subcommands(|inner| change(inner, id, change_one))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::super::{duration, number};
    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[arg(long, default_value = "1m", value_parser = duration)]
        lease: Duration,
        #[arg(long, value_parser = |text: &str| number::<u8>(text, 1, 9))]
        limit: Option<u8>,
        /// A variable that every process has, and that is no duration.
        #[arg(long, env = "PATH", value_parser = duration)]
        path: Option<Duration>,
        /// A flag with no long name.
        #[arg(short, value_parser = |text: &str| number::<u8>(text, 1, 9))]
        n: Option<u8>,
        #[command(subcommand)]
        command: Option<Inner>,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Inner {
        Accept {
            #[arg(value_parser = |text: &str| number::<u8>(text, 0, 9))]
            partition: u8,
        },
        Send {
            #[arg(long, required = true, value_parser = |text: &str| number::<u8>(text, 1, 9))]
            attempt: u8,
        },
    }

    /// What is left of the command line, and what is wrong with it.
    fn read(args: &[&str]) -> Result<(Option<Cli>, String), Error> {
        let mut problems = Problems::default();
        let cli = parse(Cli::command(), [&["ackline"], args].concat(), &mut problems)?;
        Ok((cli, problems.finish(None::<()>).unwrap_err().to_string()))
    }

    #[test]
    fn every_bad_value_is_named_at_once_and_the_rest_is_read() {
        for args in [&["--lease=0h", "--limit=0"][..], &["--lease", "0h", "--limit", "0"]] {
            let (cli, problems) = read(args).unwrap();
            let cli = cli.unwrap();
            assert_eq!((cli.lease, cli.limit, cli.path), (Duration::from_secs(60), None, None));
            for (setting, why) in [
                ("--lease: ", "is not a duration"),
                ("--limit: ", "from 1 to 9"),
                ("--path (PATH): ", "is not a duration"),
            ] {
                let line = problems.lines().find(|line| line.trim().starts_with(setting));
                assert!(line.is_some_and(|line| line.contains(why)), "{setting} in {problems}");
            }
        }
        let (cli, problems) = read(&["--limit=2"]).unwrap();
        assert_eq!(cli.unwrap().limit, Some(2));
        assert!(!problems.contains("--limit"), "{problems}");
    }

    #[test]
    fn what_cannot_be_left_out_leaves_nothing_to_check() {
        for (args, named) in [
            (["accept", "x"], "<PARTITION>: \"x\" is not"),
            (["send", "--attempt=0"], "--attempt: \"0\" is not"),
        ] {
            let (cli, problems) = read(&args).unwrap();
            assert!(cli.is_none() && problems.contains(named), "{problems}");
        }
    }

    #[test]
    fn what_is_no_value_is_left_to_clap() {
        assert_eq!(read(&["--help"]).unwrap_err().kind(), ErrorKind::DisplayHelp);
        let unknown = read(&["--path=1s", "--leas=1s"]).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::UnknownArgument);
        assert_eq!(read(&["-n0"]).unwrap_err().kind(), ErrorKind::ValueValidation);
    }
}
