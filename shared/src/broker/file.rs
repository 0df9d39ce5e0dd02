//! Files that settings name. Their contents are read anew whenever they are needed, so that what
//! takes their place is taken up, and are never shown.

use std::fmt;
use std::path::PathBuf;

use async_nats::rustls::pki_types::pem::PemObject;

/// A setting that is there and says nothing.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("is set but empty: unset it, or say what it is")]
pub(super) struct Empty;

/// A file that can't be used, with the setting that names it.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {} {problem}", path.display())]
pub(super) struct Unusable {
    setting: &'static str,
    path: PathBuf,
    problem: String,
}

/// A setting's value, in a file.
#[derive(Debug, Clone)]
pub(super) struct InFile {
    pub(super) setting: &'static str,
    pub(super) path: PathBuf,
}

impl InFile {
    /// This file can't be used; `problem` goes on from its name, and shows nothing of what is in it.
    pub(super) fn unusable(&self, problem: impl fmt::Display) -> Unusable {
        let problem = problem.to_string();
        Unusable { setting: self.setting, path: self.path.clone(), problem }
    }

    /// What is in it, which is not nothing.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, Unusable> {
        let bytes = std::fs::read(&self.path)
            .map_err(|error| self.unusable(format!("can't be read: {error}")))?;
        if bytes.trim_ascii().is_empty() { Err(self.unusable("is empty")) } else { Ok(bytes) }
    }

    /// The same, as a text.
    pub(super) fn text(&self) -> Result<String, Unusable> {
        // The error of the conversion would hold the contents.
        String::from_utf8(self.bytes()?).map_err(|_| self.unusable("is not a text"))
    }

    /// All parts of one kind in a PEM file; at least one, called `what` where there is none.
    pub(super) fn pem<T: PemObject>(&self, what: &str) -> Result<Vec<T>, Unusable> {
        let bytes = self.bytes()?;
        let parts: Vec<T> = T::pem_slice_iter(&bytes)
            .collect::<Result<_, _>>()
            .map_err(|_| self.unusable("is not a sound PEM file"))?;
        if parts.is_empty() {
            return Err(self.unusable(format!("holds no {what} in PEM")));
        }
        Ok(parts)
    }
}
