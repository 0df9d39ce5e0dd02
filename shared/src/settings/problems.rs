//! Collects everything that is wrong with the settings.

use std::fmt;

/// The problems of a configuration.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

/// A configuration that cannot be used, with a line for each bad value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration can't be used:\n{}", .0.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n"))]
pub struct Invalid(Vec<String>);

impl Problems {
    /// Returns the value, or notes what is wrong with the setting of that name.
    pub fn take<T, E: fmt::Display>(&mut self, name: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|problem| self.0.push(format!("{name}: {problem}"))).ok()
    }

    /// Notes a problem that concerns no single value.
    pub fn note(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// Returns the value, if there is no problem at all.
    ///
    /// # Errors
    /// [`Invalid`], with every problem: print it, and exit with 2.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, Invalid> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => {
                if self.0.is_empty() {
                    self.note("a value is missing");
                }
                Err(Invalid(self.0))
            }
        }
    }
}
