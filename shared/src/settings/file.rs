//! Files that settings name. Their contents are read again whenever they are needed, so that a
//! replaced file is noticed, and are never shown.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use async_nats::rustls::pki_types::pem::PemObject;

use super::problems::Problems;
use crate::secret::{ExposeSecret, Secret};

/// A setting that is set, but empty.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("is set but empty: unset it, or say what it is")]
pub struct Empty;

/// A file that cannot be used, with the setting that names it.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {} {problem}", path.display())]
pub struct Unusable {
    setting: &'static str,
    path: PathBuf,
    problem: String,
}

/// A setting's value, in a file.
#[derive(Debug, Clone)]
pub struct InFile {
    /// The setting that names the file, for people.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
}

impl InFile {
    /// Takes the setting, if it is set. The file is not read.
    pub fn take(
        problems: &mut Problems,
        setting: &'static str,
        path: Option<&OsString>,
    ) -> Option<Option<Self>> {
        match path {
            None => Some(None),
            Some(path) if path.is_empty() => problems.take(setting, Err(Empty)),
            Some(path) => Some(Some(Self { setting, path: path.into() })),
        }
    }

    /// An error about this file; `problem` follows its name, and quotes nothing of its content.
    #[must_use]
    pub fn unusable(&self, problem: impl fmt::Display) -> Unusable {
        let problem = problem.to_string();
        Unusable { setting: self.setting, path: self.path.clone(), problem }
    }

    /// Its content, which must not be empty.
    fn bytes(&self) -> Result<Secret<Vec<u8>>, Unusable> {
        let bytes = std::fs::read(&self.path)
            .map_err(|error| self.unusable(format!("can't be read: {error}")))?;
        let bytes = Secret::new(Box::new(bytes));
        let is_empty = bytes.expose_secret().trim_ascii().is_empty();
        if is_empty { Err(self.unusable("is empty")) } else { Ok(bytes) }
    }

    /// Its content, as a text.
    ///
    /// # Errors
    /// It cannot be read, is empty, or is not a text: name it, or refuse the connection.
    pub fn text(&self) -> Result<Secret<str>, Unusable> {
        let bytes = self.bytes()?;
        let text = str::from_utf8(bytes.expose_secret());
        Ok(text.map_err(|_| self.unusable("is not a text"))?.to_owned().into())
    }

    /// A password: a text, of which one newline at the end is not part.
    ///
    /// # Errors
    /// As [`InFile::text`].
    pub fn password(&self) -> Result<Secret<str>, Unusable> {
        let text = self.text()?;
        let text = text.expose_secret();
        let line = text.strip_suffix('\n').unwrap_or(text);
        Ok(line.strip_suffix('\r').unwrap_or(line).to_owned().into())
    }

    /// All parts of one kind in a PEM file, at least one; `what` names the kind in errors.
    ///
    /// # Errors
    /// It cannot be read, or holds no such part: name it.
    pub fn pem<T: PemObject>(&self, what: &str) -> Result<Vec<T>, Unusable> {
        let bytes = self.bytes()?;
        let parts: Vec<T> = T::pem_slice_iter(bytes.expose_secret())
            .collect::<Result<_, _>>()
            .map_err(|_| self.unusable("is not a sound PEM file"))?;
        if parts.is_empty() {
            return Err(self.unusable(format!("holds no {what} in PEM")));
        }
        Ok(parts)
    }
}
