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
use shared::settings::{Problems, warn_of_exposed};

use crate::signature::{MAX_KEYS, SigningKey, strength};

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

/// The shortest secret, in bytes, unless shorter ones are allowed.
pub(crate) const MIN_BYTES: usize = 16;
/// The word behind a secret in a file whose owner need not send a time.
const UNTIMED: &[u8] = b"untimed";

/// A key and its id.
pub type Named = (Arc<str>, SigningKey);

/// The settings about secrets that are not secret.
#[derive(Debug, Clone, Args)]
pub struct SecretsArgs {
    /// The file with secrets, one a line, as `id:secret`, in double quotes if it holds a space. The
    /// word `untimed` behind it excepts that key from --require-timestamp. Ingress reads it again on
    /// SIGHUP.
    #[arg(long, env = FILE)]
    secrets_file: Option<OsString>,
}

/// The secrets from the environment, and the file with the others.
#[derive(Debug, Clone)]
pub struct Secrets {
    variables: Vec<Named>,
    file: Option<PathBuf>,
    /// The shortest secret, in bytes.
    shortest: usize,
}

impl Secrets {
    /// Reads the variables and the file, and refuses secrets of fewer than `shortest` bytes. Also
    /// returns every active key.
    pub(crate) fn check(
        args: &SecretsArgs,
        shortest: usize,
        problems: &mut Problems,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Option<(Self, Vec<Named>)> {
        let mut variables = Vec::new();
        let mut sound = true;
        for (name, id) in SINGLE {
            let Some(value) = variable(name) else { continue };
            match problems.take(name, single(bytes(value).expose_secret(), shortest)) {
                Some(secret) => variables.push((Arc::from(id), secret)),
                None => sound = false,
            }
        }
        if let Some(value) = variable(LIST) {
            for entry in in_list(bytes(value).expose_secret(), shortest) {
                match problems.take(LIST, entry) {
                    Some(entry) => variables.push(entry),
                    None => sound = false,
                }
            }
        }
        let file = args.secrets_file.as_ref().map(PathBuf::from);
        let secrets = Self { variables, file, shortest };
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
            let named = read(file, self.shortest).map_err(|problem| Unusable {
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
        if all.len() > MAX_KEYS {
            let count = all.len();
            return Err(together(format!(
                "{count} secrets are set, but at most {MAX_KEYS} can be: each is tried with every callback"
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
    let (_, all) = Secrets::check(args, 1, problems, variable)?;
    let ids = all.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(", ");
    let is_meant = |id: &str| key.is_none_or(|key| key == id);
    let found = all.into_iter().find(|(id, _)| is_meant(id));
    let found = found.ok_or_else(|| format!("no secret has that id: there are {ids}"));
    problems.take("--key", found).map(|(_, secret)| secret)
}

fn read(file: &Path, shortest: usize) -> Result<Vec<Named>, String> {
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
    warn_of_exposed(FILE, file);
    in_lines(text.expose_secret(), &shown.to_string(), shortest)
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

/// Reads the text of `CALLBACK_SECRETS`, entry by entry. Secrets of fewer than `shortest` bytes are
/// refused.
pub fn in_list(text: &[u8], shortest: usize) -> impl Iterator<Item = Result<Named, String>> {
    (1..).zip(text.split(|byte| *byte == b',')).map(move |(number, entry): (u32, _)| {
        named(entry, shortest).map_err(|problem| format!("entry {number} {problem}"))
    })
}

/// Reads the text of a secrets file. Secrets of fewer than `shortest` bytes are refused.
///
/// # Errors
/// What is wrong with the first bad line, or that there is no secret: refuse the whole file. The
/// message has the file's name and nothing that may be secret.
pub fn in_lines(text: &[u8], file: &str, shortest: usize) -> Result<Vec<Named>, String> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() || line.trim_ascii().starts_with(b"#") {
            continue;
        }
        all.push(
            in_line(line, shortest)
                .map_err(|problem| format!("line {number} of {file} {problem}"))?,
        );
    }
    if all.is_empty() {
        return Err(format!("{file} holds no secret: write id:secret on a line"));
    }
    Ok(all)
}

/// Reads `id:secret` or `"id:secret"`, and the words behind it.
fn in_line(line: &[u8], shortest: usize) -> Result<Named, String> {
    let begin = line.trim_ascii_start();
    let (entry, words) = if let Some(quoted) = begin.strip_prefix(b"\"") {
        let end = quoted.iter().rposition(|byte| *byte == b'"');
        let end = end.ok_or("begins with a double quote, and has no other")?;
        (&quoted[..end], &quoted[end + 1..])
    } else {
        let end = begin.iter().position(u8::is_ascii_whitespace).unwrap_or(begin.len());
        // Without a word behind it, white space can only be a mistake in the secret.
        let has_words = !begin[end..].trim_ascii().is_empty() && begin[..end].contains(&b':');
        if has_words { begin.split_at(end) } else { (begin, &b""[..]) }
    };
    let (id, key) = named(entry, shortest)?;
    match words.trim_ascii() {
        b"" => Ok((id, key)),
        UNTIMED if words[0].is_ascii_whitespace() => Ok((id, key.untimed())),
        _ => Err(format!(
            "has something behind the secret of {id} that is not the word untimed: a secret that \
             holds a space must be in double quotes, as \"{id}:…\""
        )),
    }
}

fn single(secret: &[u8], shortest: usize) -> Result<SigningKey, String> {
    if secret.trim_ascii().len() != secret.len() && !secret.trim_ascii().is_empty() {
        return Err("begins or ends with white space, perhaps a newline: remove it".into());
    }
    key(secret, shortest)
}

/// A secret that is long enough.
fn key(secret: &[u8], shortest: usize) -> Result<SigningKey, String> {
    let key = SigningKey::new(secret).map_err(|problem| problem.to_string())?;
    if strength(secret).map_err(|problem| problem.to_string())? < shortest {
        return Err(format!(
            "is shorter than {shortest} bytes: make one with `openssl rand -hex 32`, or pass \
             --allow-short-secrets"
        ));
    }
    Ok(key)
}

/// Reads `id:secret`. Errors do not quote the text: if the id was forgotten, it is the secret.
fn named(entry: &[u8], shortest: usize) -> Result<Named, String> {
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
        key(secret, shortest).map_err(|problem| format!("names {id}, whose secret {problem}"))?;
    Ok((id.into(), secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: Option<&str>, variables: &[(&str, &str)]) -> Result<Vec<String>, String> {
        check_with(1, file, variables)
    }

    fn check_with(
        shortest: usize,
        file: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secrets");
        let file = file.map(|text| {
            std::fs::write(&path, text).unwrap();
            path.clone().into()
        });
        let mut problems = Problems::default();
        let secrets =
            Secrets::check(&SecretsArgs { secrets_file: file }, shortest, &mut problems, |name| {
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
        assert!(Secrets::check(&args, 1, &mut problems, |_| None).is_none());
        let problem = problems.finish(None::<()>).unwrap_err().to_string();
        assert!(problem.contains("/nowhere/secrets can't be read: No such file"), "{problem}");
        assert_eq!(problem.lines().count(), 2, "one problem: {problem}");
    }

    #[test]
    fn a_short_secret_is_refused_unless_it_is_allowed() {
        let short = "whose secret is shorter than 16 bytes: make one with `openssl rand -hex 32`, or \
                     pass --allow-short-secrets";
        for (file, variables, expected) in [
            (None, &[("CALLBACK_SECRET", "a")][..], "CALLBACK_SECRET: is shorter than 16 bytes: "),
            (None, &[("GITHUB_CALLBACK_SECRET", "0123456789abcde")], "is shorter than 16 bytes"),
            (None, &[("CALLBACK_SECRETS", "a:0123456789abcdef,b:x")], short),
            (Some("a:0123456789abcde"), &[], short),
            (Some("\"a:0123456789 abcd\" untimed"), &[], short),
            // What is decoded counts: 15 bytes.
            (Some("a:whsec_MDEyMzQ1Njc4OWFiY2Rl"), &[], short),
        ] {
            let problem = check_with(MIN_BYTES, file, variables).unwrap_err();
            assert!(problem.contains(expected), "{expected} is not in {problem}");
            assert!(check_with(1, file, variables).is_ok());
        }
        for (file, variables) in [
            (None, &[("CALLBACK_SECRET", "0123456789abcdef")][..]),
            (Some("a:0123456789abcdef\nb:whsec_MDEyMzQ1Njc4OWFiY2RlZg=="), &[]),
        ] {
            assert!(check_with(MIN_BYTES, file, variables).is_ok());
        }
    }

    #[test]
    fn no_more_keys_are_taken_than_can_be_tried() {
        let lines = |count: usize| -> String {
            (0..count).map(|n| format!("key-{n}:secret-{n}\n")).collect()
        };
        assert_eq!(check(Some(&lines(256)), &[]).unwrap().len(), 256);
        let problem = check(Some(&lines(257)), &[]).unwrap_err();
        let expected =
            "257 secrets are set, but at most 256 can be: each is tried with every callback";
        assert!(problem.contains(expected), "{problem}");
    }

    #[test]
    fn a_word_behind_a_secret_is_known_or_refused() {
        let untimed = |line: &str| {
            let all = in_lines(line.as_bytes(), "FILE", 1)?;
            let signed = |key: &SigningKey| key.sign_plain(b"x");
            let expected = signed(&SigningKey::new(b"hun ter2").unwrap());
            assert!(!line.contains("hun ter2") || signed(&all[0].1) == expected, "{line}");
            Ok::<_, String>(format!("{:?}", all[0].1).contains("is_untimed: true"))
        };
        for (line, expected) in [
            ("a:hunter2", false),
            ("  a:hunter2 untimed", true),
            ("a:hunter2\t untimed \r", true),
            ("\"a:hunter2\"", false),
            ("\"a:hun ter2\"", false),
            ("\"a:hun ter2\" untimed", true),
            ("\"a:hun\"ter2\" untimed", true),
        ] {
            assert_eq!(untimed(line), Ok(expected), "{line}");
        }
        for (line, expected) in [
            (
                "a:hunter2 Untimed",
                "has something behind the secret of a that is not the word untimed",
            ),
            ("a:hunter2 untimed hunter2", "must be in double quotes, as \"a:…\""),
            ("a:hun hunter2", "must be in double quotes, as \"a:…\""),
            ("\"a:hunter2\"untimed", "has something behind the secret of a"),
            ("\"a:hunter2", "line 1 of FILE begins with a double quote, and has no other"),
            ("\"a:hunter2 \"", "has white space around the secret of a: remove it"),
            ("a:hunter2 ", "has white space around the secret of a: remove it"),
            ("hunter2 a:b", "has an id that is not"),
        ] {
            let problem = untimed(line).unwrap_err();
            assert!(problem.contains(expected), "{expected} is not in {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn a_file_beyond_all_bounds_is_refused() {
        let mut problems = Problems::default();
        let args = SecretsArgs { secrets_file: Some("/dev/zero".into()) };
        assert!(Secrets::check(&args, 1, &mut problems, |_| None).is_none());
        let problem = problems.finish(None::<()>).unwrap_err().to_string();
        assert!(problem.contains("larger than"), "{problem}");
    }
}
