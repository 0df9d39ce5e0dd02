//! `ingress sign`: prints the signature of a body.

use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::config::signing_secret;
use crate::signature::sign;

/// What to sign.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The body; standard input without it. It is signed as it is, a last newline included.
    #[arg(long)]
    file: Option<PathBuf>,
}

/// Prints the value of `X-Signature`.
///
/// # Errors
/// When there is no secret or no body.
pub fn run(args: &SignArgs) -> anyhow::Result<()> {
    let secret = signing_secret(|name| std::env::var_os(name))?;
    let body = match &args.file {
        Some(file) => std::fs::read(file)
            .with_context(|| format!("the body can't be read from {}", file.display()))?,
        None => {
            let mut body = Vec::new();
            let read = std::io::stdin().read_to_end(&mut body);
            read.context("the body can't be read from standard input")?;
            body
        }
    };
    writeln!(std::io::stdout(), "{}", sign(&secret, &body))?;
    Ok(())
}
