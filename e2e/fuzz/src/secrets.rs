//! The secrets, in a file and in a variable.

use ingress::secrets::{Named, in_lines, in_list};
use ingress::signature::SigningKey;

use crate::with_peak;

/// Any secret will do.
const SHORTEST: usize = 1;

/// Reads a text that may be anything, both as a file and as a list.
///
/// # Panics
/// When other secrets are read than the second reading finds, or when a message is another one:
/// what it says is all that it may show.
pub fn check(text: &[u8]) {
    let (lines, peak) = with_peak(|| in_lines(text, "FILE", SHORTEST));
    // A secret of one byte becomes two key schedules.
    assert!(peak <= 256 * text.len() as u64 + 1024, "{peak} for {}", text.len());
    let expected = lines_again(text);
    assert_eq!(shown(lines), expected.map(|all| all.iter().map(signed).collect()));

    let list: Vec<_> =
        in_list(text, SHORTEST).map(|named| shown(named.map(|named| vec![named]))).collect();
    let again = text.split(|byte| *byte == b',').enumerate().map(|(index, entry)| {
        let entry = named_again(entry).map(|entry| vec![signed(&entry)]);
        entry.map_err(|problem| format!("entry {} {problem}", index + 1))
    });
    assert_eq!(list, again.collect::<Vec<_>>());
}

/// A secret shows itself only by what it signs.
fn shown(all: Result<Vec<Named>, String>) -> Result<Vec<(String, String)>, String> {
    all.map(|all| all.iter().map(|(id, secret)| (id.to_string(), secret.sign_plain(b""))).collect())
}

fn signed((id, secret): &(String, Vec<u8>)) -> (String, String) {
    let secret = SigningKey::new(secret).expect("it was taken before");
    (id.clone(), secret.sign_plain(b""))
}

fn lines_again(text: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut all = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_comment = line.iter().find(|byte| !is_blank(**byte)).is_none_or(|b| *b == b'#');
        if !is_comment {
            let problem = |problem| format!("line {} of FILE {problem}", index + 1);
            all.push(line_again(line).map_err(problem)?);
        }
    }
    let none = "FILE holds no secret: write id:secret on a line";
    if all.is_empty() { Err(none.into()) } else { Ok(all) }
}

fn line_again(line: &[u8]) -> Result<(String, Vec<u8>), String> {
    let line: Vec<u8> = line.iter().copied().skip_while(|byte| is_blank(*byte)).collect();
    let is_space = |byte: &u8| is_blank(*byte);
    let (entry, words) = if line.first() == Some(&b'"') {
        let Some(last) = (1..line.len()).rev().find(|at| line[*at] == b'"') else {
            return Err("begins with a double quote, and has no other".into());
        };
        (&line[1..last], &line[last + 1..])
    } else {
        let first = line.iter().position(is_space).unwrap_or(line.len());
        let is_mistake = line[first..].iter().all(is_space) || !line[..first].contains(&b':');
        line.split_at(if is_mistake { line.len() } else { first })
    };
    let named = named_again(entry)?;
    let all: Vec<&[u8]> = words.split(is_space).filter(|word| !word.is_empty()).collect();
    let is_apart = words.first().is_none_or(|byte| is_blank(*byte));
    if is_apart && (all.is_empty() || all == [b"untimed"]) {
        return Ok(named);
    }
    let id = named.0;
    Err(format!(
        "has something behind the secret of {id} that is not the word untimed: a secret that holds \
         a space must be in double quotes, as \"{id}:…\""
    ))
}

fn named_again(entry: &[u8]) -> Result<(String, Vec<u8>), String> {
    // A character for each byte, so that any bytes are a text.
    let text: String = entry.iter().map(|byte| char::from(*byte)).collect();
    let (id, secret) = text.split_once(':').ok_or("is not id:secret")?;
    let id = id.trim_matches(|c| u8::try_from(c).is_ok_and(is_blank));
    let is_id = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if id.is_empty() || id.len() > 64 || !id.chars().all(is_id) {
        let must = r#"1 to 64 letters, digits, "_", "." and "-""#;
        return Err(format!("has an id that is not {must}"));
    }
    let secret: Vec<u8> = secret.chars().map(|c| c as u8).collect();
    let is_blank = |byte: Option<&u8>| byte.is_some_and(|byte| is_blank(*byte));
    if is_blank(secret.first()) || is_blank(secret.last()) {
        return Err(format!("has white space around the secret of {id}: remove it"));
    }
    match SigningKey::new(&secret) {
        Ok(_) => Ok((id.to_owned(), secret)),
        Err(problem) => Err(format!("names {id}, whose secret {problem}")),
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c')
}
