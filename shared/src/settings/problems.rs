//! What is wrong with the settings, all of it at once.

use std::fmt;

/// Collects what is wrong with a configuration.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

/// A configuration that can't be used; one line for each bad value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration can't be used:\n{}", .0.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n"))]
pub struct Invalid(Vec<String>);

impl Problems {
    /// Takes the value, or notes what is wrong with the setting of that name.
    pub fn take<T, E: fmt::Display>(&mut self, name: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|problem| self.0.push(format!("{name}: {problem}"))).ok()
    }

    /// Notes a problem that concerns no single value.
    pub fn note(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// The value, if nothing at all was wrong.
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
