//! Files that settings name. Their contents are read anew whenever they are needed, so that what
//! takes their place is taken up, and are never shown.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use async_nats::rustls::pki_types::pem::PemObject;

use super::problems::Problems;

/// A setting that is there and says nothing.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("is set but empty: unset it, or say what it is")]
pub struct Empty;

/// A file that can't be used, with the setting that names it.
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
    /// Takes the setting where it is there; what is in the file is not looked at.
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

    /// This file can't be used; `problem` goes on from its name, and shows nothing of what is in it.
    #[must_use]
    pub fn unusable(&self, problem: impl fmt::Display) -> Unusable {
        let problem = problem.to_string();
        Unusable { setting: self.setting, path: self.path.clone(), problem }
    }

    /// What is in it, which is not nothing.
    ///
    /// # Errors
    /// That it can't be read, or is empty.
    pub fn bytes(&self) -> Result<Vec<u8>, Unusable> {
        let bytes = std::fs::read(&self.path)
            .map_err(|error| self.unusable(format!("can't be read: {error}")))?;
        if bytes.trim_ascii().is_empty() { Err(self.unusable("is empty")) } else { Ok(bytes) }
    }

    /// The same, as a text.
    ///
    /// # Errors
    /// That it can't be read, is empty, or is not a text.
    pub fn text(&self) -> Result<String, Unusable> {
        // The error of the conversion would hold the contents.
        String::from_utf8(self.bytes()?).map_err(|_| self.unusable("is not a text"))
    }

    /// A password: a text, of which one newline at the end is not part.
    ///
    /// # Errors
    /// As [`InFile::text`].
    pub fn password(&self) -> Result<String, Unusable> {
        let mut text = self.text()?;
        for end in ['\n', '\r'] {
            if text.ends_with(end) {
                text.pop();
            }
        }
        Ok(text)
    }

    /// All parts of one kind in a PEM file; at least one, called `what` where there is none.
    ///
    /// # Errors
    /// That it can't be read, or holds no such part.
    pub fn pem<T: PemObject>(&self, what: &str) -> Result<Vec<T>, Unusable> {
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
