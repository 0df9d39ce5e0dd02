//! Loads the secrets from variables, and from a file that is read again on SIGHUP.
//!
//! There are no flags for secrets: a command line is visible to every user of the machine.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use shared::secret::{ExposeSecret, Secret};
use shared::settings::Problems;

use crate::signature::SigningKey;

/// The variables that hold one secret each, and the ids of their keys.
const SINGLE: [(&str, &str); 2] =
    [("CALLBACK_SECRET", "callback"), ("GITHUB_CALLBACK_SECRET", "github-callback")];
/// The variable that holds several.
const LIST: &str = "CALLBACK_SECRETS";
/// The variable and the setting that name the file.
const FILE: &str = "CALLBACK_SECRETS_FILE";
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Ids are in the metadata of every callback, in metrics and in logs.
const MAX_ID_BYTES: usize = 64;

/// A key and its id.
pub type Named = (Arc<str>, SigningKey);

/// The settings about secrets that are not secret.
#[derive(Debug, Clone, Args)]
pub struct SecretsArgs {
    /// The file with secrets, one a line, as `id:secret`. Ingress reads it again on SIGHUP.
    #[arg(long, env = FILE)]
    secrets_file: Option<OsString>,
}

/// The secrets from the environment, and the file with the others.
#[derive(Debug, Clone)]
pub struct Secrets {
    variables: Vec<Named>,
    file: Option<PathBuf>,
}

impl Secrets {
    /// Reads the variables and the file. Also returns every active key.
    pub(crate) fn check(
        args: &SecretsArgs,
        problems: &mut Problems,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Option<(Self, Vec<Named>)> {
        let mut variables = Vec::new();
        let mut sound = true;
        for (name, id) in SINGLE {
            let Some(value) = variable(name) else { continue };
            match problems.take(name, single(bytes(value).expose_secret())) {
                Some(secret) => variables.push((Arc::from(id), secret)),
                None => sound = false,
            }
        }
        if let Some(value) = variable(LIST) {
            for entry in in_list(bytes(value).expose_secret()) {
                match problems.take(LIST, entry) {
                    Some(entry) => variables.push(entry),
                    None => sound = false,
                }
            }
        }
        let secrets = Self { variables, file: args.secrets_file.as_ref().map(PathBuf::from) };
        match secrets.load() {
            // Only if each can be used is it known whether all of them together can.
            Err(problem) if sound || !problem.concerns_all => {
                problems.note(problem.what);
                None
            }
            Err(_) => None,
            Ok(all) => sound.then_some((secrets, all)),
        }
    }

    /// Every active key. Reads the file again.
    ///
    /// # Errors
    /// [`Unusable`]: at start this is a bad setting; later, keep the current keys.
    pub(crate) fn load(&self) -> Result<Vec<Named>, Unusable> {
        let mut all = self.variables.clone();
        if let Some(file) = &self.file {
            let named = read(file).map_err(|problem| Unusable {
                what: format!("{FILE}: {problem}"),
                concerns_all: false,
            })?;
            all.extend(named);
        }
        let together = |what| Unusable { what, concerns_all: true };
        if all.is_empty() {
            let [(first, _), (second, _)] = SINGLE;
            return Err(together(format!(
                "no secret is set: set {first}, {second}, {LIST} or {FILE} in the environment"
            )));
        }
        for (index, (id, _)) in all.iter().enumerate() {
            if all.iter().take(index).any(|(earlier, _)| earlier == id) {
                return Err(together(format!("the id {id} names two secrets: give each its own")));
            }
        }
        Ok(all)
    }
}

/// Why the secrets cannot be used, without quoting them.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) what: String,
    /// It concerns all of them together, each of which may be sound.
    concerns_all: bool,
}

/// The key that `ackline sign` and `ackline send` use: the one with that id, or the first. Nothing
/// if there is none, or if any that is set cannot be used, which is noted.
pub fn signing_key(
    args: &SecretsArgs,
    key: Option<&str>,
    problems: &mut Problems,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<SigningKey> {
    let (_, all) = Secrets::check(args, problems, variable)?;
    let ids = all.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(", ");
    let is_meant = |id: &str| key.is_none_or(|key| key == id);
    let found = all.into_iter().find(|(id, _)| is_meant(id));
    let found = found.ok_or_else(|| format!("no secret has that id: there are {ids}"));
    problems.take("--key", found).map(|(_, secret)| secret)
}

fn read(file: &Path) -> Result<Vec<Named>, String> {
    if file.as_os_str().is_empty() {
        return Err("is set but empty".into());
    }
    let shown = file.display();
    let text = File::open(file).and_then(contents);
    let text = text.map_err(|error| format!("{shown} can't be read: {error}"))?;
    if text.expose_secret().len() as u64 > MAX_FILE_BYTES {
        return Err(format!(
            "{shown} is larger than {MAX_FILE_BYTES} bytes: it must hold nothing but id:secret on each line"
        ));
    }
    in_lines(text.expose_secret(), &shown.to_string())
}

/// The content of a file, or its beginning if it is too large.
fn contents(file: File) -> std::io::Result<Secret<Vec<u8>>> {
    let size = file.metadata()?.len().min(MAX_FILE_BYTES);
    // Allocated at once: a growing vector would leave copies behind.
    let mut text = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text);
    let text = Secret::new(Box::new(text));
    read.map(|_| text)
}

fn bytes(variable: OsString) -> Secret<Vec<u8>> {
    Secret::new(Box::new(variable.into_vec()))
}

/// Reads the text of `CALLBACK_SECRETS`, entry by entry.
pub fn in_list(text: &[u8]) -> impl Iterator<Item = Result<Named, String>> {
    (1..).zip(text.split(|byte| *byte == b',')).map(|(number, entry): (u32, _)| {
        named(entry).map_err(|problem| format!("entry {number} {problem}"))
    })
}

/// Reads the text of a secrets file.
///
/// # Errors
/// What is wrong with the first bad line, or that there is no secret: refuse the whole file. The
/// message has the file's name and nothing that may be secret.
pub fn in_lines(text: &[u8], file: &str) -> Result<Vec<Named>, String> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() || line.trim_ascii().starts_with(b"#") {
            continue;
        }
        all.push(named(line).map_err(|problem| format!("line {number} of {file} {problem}"))?);
    }
    if all.is_empty() {
        return Err(format!("{file} holds no secret: write id:secret on a line"));
    }
    Ok(all)
}

fn single(secret: &[u8]) -> Result<SigningKey, String> {
    if secret.trim_ascii().len() != secret.len() && !secret.trim_ascii().is_empty() {
        return Err("begins or ends with white space, perhaps a newline: remove it".into());
    }
    SigningKey::new(secret).map_err(|problem| problem.to_string())
}

/// Reads `id:secret`. Errors do not quote the text: if the id was forgotten, it is the secret.
fn named(entry: &[u8]) -> Result<Named, String> {
    let colon = entry.iter().position(|byte| *byte == b':');
    let (id, secret) = match colon {
        Some(at) => (&entry[..at], &entry[at + 1..]),
        None => return Err("is not id:secret".into()),
    };
    let id = id.trim_ascii();
    let is_id = (1..=MAX_ID_BYTES).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte));
    let id = str::from_utf8(id).ok().filter(|_| is_id).ok_or_else(|| {
        format!("has an id that is not 1 to {MAX_ID_BYTES} letters, digits, \"_\", \".\" and \"-\"")
    })?;
    if secret.trim_ascii().len() != secret.len() {
        return Err(format!("has white space around the secret of {id}: remove it"));
    }
    let secret =
        SigningKey::new(secret).map_err(|problem| format!("names {id}, whose secret {problem}"))?;
    Ok((id.into(), secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: Option<&str>, variables: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secrets");
        let file = file.map(|text| {
            std::fs::write(&path, text).unwrap();
            path.clone().into()
        });
        let mut problems = Problems::default();
        let secrets = Secrets::check(&SecretsArgs { secrets_file: file }, &mut problems, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(*value))
        });
        let (_, all) = problems.finish(secrets).map_err(|invalid| invalid.to_string())?;
        Ok(all.into_iter().map(|(id, _)| id.to_string()).collect())
    }

    #[test]
    fn all_that_are_set_are_active() {
        let single = [("CALLBACK_SECRET", "s"), ("GITHUB_CALLBACK_SECRET", "t")];
        assert_eq!(check(None, &single).unwrap(), ["callback", "github-callback"]);
        let list = ("CALLBACK_SECRETS", "a:one, b:t:w:o");
        let file = "# The new one.\nc:th,ree\r\n\n  d:four\n";
        let all = [&single[..], &[list]].concat();
        assert_eq!(
            check(Some(file), &all).unwrap(),
            ["callback", "github-callback", "a", "b", "c", "d"]
        );
        assert_eq!(check(Some("c:x"), &[]).unwrap(), ["c"]);
    }

    #[test]
    fn the_first_colon_separates_and_the_first_secret_signs() {
        let sign = |key| {
            let mut problems = Problems::default();
            let variable = |name: &str| (name == LIST).then(|| "a::one:,b:x".into());
            let args = SecretsArgs { secrets_file: None };
            let secret = signing_key(&args, key, &mut problems, variable);
            let secret = problems.finish(secret).map_err(|invalid| invalid.to_string())?;
            Ok::<_, String>(secret.sign_plain(b"x"))
        };
        let expected = |secret: &[u8]| Ok(SigningKey::new(secret).unwrap().sign_plain(b"x"));
        assert_eq!(sign(None), expected(b":one:"));
        assert_eq!(sign(Some("a")), expected(b":one:"));
        assert_eq!(sign(Some("b")), expected(b"x"));
        assert!(sign(Some("c")).unwrap_err().contains("there are a, b"));
    }

    #[test]
    fn what_cannot_be_used_is_named_and_not_shown() {
        for (file, variables, expected) in [
            (None, &[][..], "no secret is set"),
            (None, &[("CALLBACK_SECRET", "")], "CALLBACK_SECRET: is set but empty"),
            (None, &[("CALLBACK_SECRET", "s"), ("GITHUB_CALLBACK_SECRET", "")], "set but empty"),
            (None, &[("CALLBACK_SECRET", "hunter2\n")], "CALLBACK_SECRET: begins or ends with"),
            (None, &[("CALLBACK_SECRET", "hunter2\r")], "CALLBACK_SECRET: begins or ends with"),
            (None, &[("CALLBACK_SECRET", " hunter2")], "CALLBACK_SECRET: begins or ends with"),
            (None, &[("GITHUB_CALLBACK_SECRET", "hunter2\r\n")], "begins or ends with white space"),
            (None, &[("CALLBACK_SECRETS", "")], "CALLBACK_SECRETS: entry 1 is not id:secret"),
            (None, &[("CALLBACK_SECRETS", "a:x,hunter2")], "entry 2 is not id:secret"),
            (None, &[("CALLBACK_SECRETS", "a:x,")], "entry 2 is not id:secret"),
            (None, &[("CALLBACK_SECRETS", "hunter2!:x")], "entry 1 has an id that is not"),
            (None, &[("CALLBACK_SECRETS", ":hunter2")], "entry 1 has an id that is not"),
            (None, &[("CALLBACK_SECRETS", "a:")], "names a, whose secret is set but empty"),
            (None, &[("CALLBACK_SECRETS", "a: hunter2")], "white space around the secret of a"),
            (None, &[("CALLBACK_SECRETS", "a:whsec_hunter2!")], "begins with whsec_"),
            (None, &[("CALLBACK_SECRETS", "a:hunter2,a:y")], "the id a names two secrets"),
            (
                None,
                &[("CALLBACK_SECRET", "hunter2"), ("CALLBACK_SECRETS", "callback:y")],
                "the id callback names two secrets",
            ),
            (Some("a:x\nhunter2"), &[], "CALLBACK_SECRETS_FILE: line 2 of "),
            (Some("a:hunter2 "), &[], "white space around the secret of a"),
            (Some("\n# none\n"), &[], "holds no secret"),
            (Some(""), &[("CALLBACK_SECRET", "s")], "holds no secret"),
            (Some("a:x"), &[("CALLBACK_SECRETS", "a:hunter2")], "the id a names two secrets"),
        ] {
            let problem = check(file, variables).unwrap_err();
            assert!(problem.contains(expected), "{expected} is not in {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        let mut problems = Problems::default();
        let args = SecretsArgs { secrets_file: Some("/nowhere/secrets".into()) };
        assert!(Secrets::check(&args, &mut problems, |_| None).is_none());
        let problem = problems.finish(None::<()>).unwrap_err().to_string();
        assert!(problem.contains("/nowhere/secrets can't be read: No such file"), "{problem}");
        assert_eq!(problem.lines().count(), 2, "one problem: {problem}");
    }

    #[test]
    fn a_file_beyond_all_bounds_is_refused() {
        let mut problems = Problems::default();
        let args = SecretsArgs { secrets_file: Some("/dev/zero".into()) };
        assert!(Secrets::check(&args, &mut problems, |_| None).is_none());
        let problem = problems.finish(None::<()>).unwrap_err().to_string();
        assert!(problem.contains("larger than"), "{problem}");
    }
}
