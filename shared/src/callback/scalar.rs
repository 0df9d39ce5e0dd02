//! JSON values, as far as callbacks need them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};

use super::contract::Malformed;

/// One value of the object, as far as the parser needs it. `null` counts as absent.
#[derive(Debug, Default)]
pub(super) enum Scalar<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Integer(i128),
    Float(f64),
    Other,
}

impl Scalar<'_> {
    pub(super) fn is_text(&self, expected: &str) -> bool {
        matches!(self, Scalar::Text(text) if text == expected)
    }

    /// A whole number from 1.
    pub(super) fn count(self, field: &'static str, max: i32) -> Result<Option<i32>, Malformed> {
        match self {
            Scalar::Absent => Ok(None),
            Scalar::Integer(count) => i32::try_from(count)
                .ok()
                .filter(|count| (1..=max).contains(count))
                .map(Some)
                .ok_or(Malformed::Field(field)),
            _ => Err(Malformed::Field(field)),
        }
    }

    /// A text that is refused if it is too long.
    pub(super) fn name(
        self,
        field: &'static str,
        max_bytes: usize,
    ) -> Result<Option<String>, Malformed> {
        let text = self.text(field)?;
        if text.as_ref().is_some_and(|text| text.len() > max_bytes) {
            return Err(Malformed::Field(field));
        }
        Ok(text)
    }

    /// A text that is truncated at a character if it is too long.
    pub(super) fn cut(
        self,
        field: &'static str,
        max_bytes: usize,
    ) -> Result<Option<String>, Malformed> {
        let mut text = self.text(field)?;
        if let Some(text) = &mut text {
            text.truncate(text.floor_char_boundary(max_bytes));
        }
        Ok(text)
    }

    fn text(self, field: &'static str) -> Result<Option<String>, Malformed> {
        match self {
            Scalar::Absent => Ok(None),
            Scalar::Text(text) => Ok(Some(without_nul(text))),
            _ => Err(Malformed::Field(field)),
        }
    }
}

/// PostgreSQL refuses NUL in texts, and removing it loses nothing that a person could read.
fn without_nul(text: Cow<'_, str>) -> String {
    if text.contains('\0') { text.replace('\0', "") } else { text.into_owned() }
}

/// Reads an object's members and refuses a key that occurs twice, because different parsers of the
/// same signed bytes could read it differently.
pub(super) fn read_unique<'de, A: MapAccess<'de>>(
    mut map: A,
    mut member: impl FnMut(&str, Scalar<'de>),
) -> Result<(), A::Error> {
    let mut seen = HashSet::new();
    while let Some(key) = map.next_key::<Key<'de>>()? {
        let value = map.next_value()?;
        member(&key.0, value);
        if !seen.insert(key) {
            return Err(de::Error::custom("duplicate key"));
        }
    }
    Ok(())
}

/// A key, borrowed from the body if nothing in it is escaped.
#[derive(PartialEq, Eq, Hash, Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Scalar::Absent)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Other)
            }
            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Integer(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(Scalar::Integer(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Float(value))
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<Scalar<'de>>()?.is_some() {}
                Ok(Scalar::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                read_unique(map, |_, _| ())?;
                Ok(Scalar::Other)
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}
