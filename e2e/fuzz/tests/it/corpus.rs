//! The inputs that libFuzzer found worth keeping; a finding's input is added to them.

use std::panic::catch_unwind;
use std::path::Path;

fn check_all(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut checked = 0;
    for file in corpus.read_dir().unwrap() {
        let path = file.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let holds = catch_unwind(|| check(&input));
        assert!(holds.is_ok(), "see above: {}", path.display());
        checked += 1;
    }
    assert!(checked > 0, "{} is empty", corpus.display());
}

#[test]
fn bundle() {
    check_all("bundle", fuzz::bundle::check);
}

#[test]
fn callback() {
    check_all("callback", fuzz::callback::check);
}

#[test]
fn secrets() {
    check_all("secrets", fuzz::secrets::check);
}

#[test]
fn signature() {
    check_all("signature", fuzz::signature::check);
}
