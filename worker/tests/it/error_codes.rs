//! Every code that a program prints has a paragraph in docs/ERRORS.md, and the other way round.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The codes that stand in a text, such as ACK-101.
fn codes(text: &str) -> BTreeSet<String> {
    let digits =
        |rest: &str| rest.get(..3).filter(|code| code.parse::<u16>().is_ok()).map(Into::into);
    text.split("ACK-").skip(1).filter_map(digits).collect()
}

/// The sources below a folder, without their unit tests.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = fs::read_to_string(path).unwrap();
            text += file.split("#[cfg(test)]").next().unwrap_or_default();
        }
    }
    text
}

#[test]
fn every_code_has_a_paragraph_and_every_paragraph_a_code() {
    let crates = ["shared", "ingress", "worker", "cli"];
    let sources: String =
        crates.iter().map(|name| sources(&root().join(name).join("src"))).collect();
    let document = fs::read_to_string(root().join("docs/ERRORS.md")).unwrap();
    let mut explained = BTreeSet::new();
    for paragraph in document.split("\n### ").skip(1) {
        let (code, _) = paragraph.split_once(": ").unwrap();
        let codes = codes(code);
        assert_eq!(codes.len(), 1, "{paragraph}");
        for part in ["- **Meaning:** ", "- **Held up:** ", "- **Action:** "] {
            assert_eq!(paragraph.matches(part).count(), 1, "{code} lacks {part:?}");
        }
        for code in codes {
            assert!(explained.insert(code.clone()), "{code} is explained twice");
        }
    }
    assert!(!explained.is_empty());
    assert_eq!(codes(&sources), explained, "the codes of the sources, and those of docs/ERRORS.md");
}
