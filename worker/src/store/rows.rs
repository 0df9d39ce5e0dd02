//! Any number of rows in one statement whose text is always the same, so that the database parses
//! and plans it once. PostgreSQL gets each column as an array, SQLite all rows as one JSON text.
//!
//! Columns that may be NULL are sent as the texts of PostgreSQL's array literals, because sea-orm's
//! arrays can't hold NULL beside values.

use std::fmt::Write;

use chrono::SecondsFormat;
use sea_orm::sea_query::{ArrayType, ColumnType, Expr, Value};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityName, EntityTrait, IdenStatic, Iterable,
    ModelTrait, Statement,
};

/// The most rows in a statement, so that its values stay far below the databases' limits.
const MAX_ROWS: usize = 1000;

type Column<M> = <<M as ModelTrait>::Entity as EntityTrait>::Column;

/// Inserts rows, all columns of each. With a key, it replaces an existing row.
///
/// # Errors
/// The database failed or rejected a row.
pub(super) async fn insert<M: ModelTrait>(
    db: &impl ConnectionTrait,
    rows: &[M],
    key: Option<Column<M>>,
) -> Result<(), DbErr> {
    for rows in rows.chunks(MAX_ROWS) {
        db.execute_raw(insertion(db.get_database_backend(), rows, key)?).await?;
    }
    Ok(())
}

fn insertion<M: ModelTrait>(
    backend: DbBackend,
    rows: &[M],
    key: Option<Column<M>>,
) -> Result<Statement, DbErr> {
    let (source, values) = match backend {
        DbBackend::Postgres => arrays(rows)?,
        _ => json(rows)?,
    };
    let mut names = Vec::new();
    let mut updates = Vec::new();
    for column in Column::<M>::iter() {
        let name = column.as_str();
        names.push(format!("\"{name}\""));
        if key.is_some_and(|key| key.as_str() != name) {
            updates.push(format!("\"{name}\" = excluded.\"{name}\""));
        }
    }
    let (table, names) = (M::Entity::default(), names.join(", "));
    let mut sql = format!("INSERT INTO \"{}\" ({names}) {source}", table.table_name());
    if let Some(key) = key {
        let (key, updates) = (key.as_str(), updates.join(", "));
        let _ = write!(sql, " ON CONFLICT (\"{key}\") DO UPDATE SET {updates}");
    }
    Ok(Statement::from_sql_and_values(backend, sql, values))
}

/// A table `asked` of texts, its column `id`, for a statement's FROM, and the statement's values.
pub(super) fn texts<'a>(
    backend: DbBackend,
    texts: impl IntoIterator<Item = &'a str>,
) -> (&'static str, [Value; 1]) {
    if backend == DbBackend::Postgres {
        let texts = texts.into_iter().map(Value::from).collect();
        let array = Value::Array(ArrayType::String, Some(Box::new(texts)));
        return ("unnest($1) AS asked (id)", [array]);
    }
    let mut list = List::new(backend);
    texts.into_iter().for_each(|text| list.push_text(text));
    ("(SELECT value AS id FROM json_each(?)) AS asked", [list.finish().into()])
}

/// A table `asked` of pairs of texts, its columns `first` and `second`, for a statement's FROM, and
/// the statement's values.
pub(super) fn pairs<'a>(
    backend: DbBackend,
    pairs: impl IntoIterator<Item = &'a (&'a str, &'a str)>,
) -> (String, Vec<Value>) {
    if backend == DbBackend::Postgres {
        let (first, second): (Vec<_>, Vec<_>) = pairs
            .into_iter()
            .map(|(first, second)| (Value::from(*first), Value::from(*second)))
            .unzip();
        let array = |texts| Value::Array(ArrayType::String, Some(Box::new(texts)));
        let values = vec![array(first), array(second)];
        return ("unnest($1, $2) AS asked (first, second)".into(), values);
    }
    let mut all = List::new(backend);
    for (first, second) in pairs {
        let mut pair = List::new(backend);
        pair.push_text(first);
        pair.push_text(second);
        all.push_bare(pair.finish());
    }
    let asked = "(SELECT value ->> 0 AS first, value ->> 1 AS second FROM json_each(?)) AS asked";
    (asked.into(), vec![Value::from(all.finish())])
}

/// Whether a column is one of these texts.
pub(super) fn is_any<'a>(
    backend: DbBackend,
    column: &str,
    texts: impl IntoIterator<Item = &'a str>,
) -> Expr {
    if backend == DbBackend::Postgres {
        let texts = texts.into_iter().map(Value::from).collect();
        let array = Value::Array(ArrayType::String, Some(Box::new(texts)));
        return Expr::cust_with_values(format!("{column} = ANY($1)"), [array]);
    }
    let mut list = List::new(backend);
    texts.into_iter().for_each(|text| list.push_text(text));
    Expr::cust_with_values(format!("{column} IN (SELECT value FROM json_each(?))"), [list.finish()])
}

fn arrays<M: ModelTrait>(rows: &[M]) -> Result<(String, Vec<Value>), DbErr> {
    let (mut arrays, mut values) = (Vec::new(), Vec::new());
    for column in Column::<M>::iter() {
        if column.def().is_null() {
            let mut list = List::new(DbBackend::Postgres);
            for row in rows {
                list.push(row.get(column))?;
            }
            values.push(Value::from(list.finish()));
        } else {
            let array = rows.iter().map(|row| row.get(column)).collect();
            values.push(Value::Array(M::get_value_type(column), Some(Box::new(array))));
        }
        let name = match column.def().get_column_type() {
            ColumnType::Text => "text",
            ColumnType::Integer => "int4",
            ColumnType::BigInteger => "int8",
            ColumnType::TimestampWithTimeZone => "timestamptz",
            ColumnType::VarBinary(_) => "bytea",
            other => return Err(unknown(&format!("a column of the type {other:?}"))),
        };
        arrays.push(format!("${}::{name}[]", values.len()));
    }
    Ok((format!("SELECT * FROM unnest({})", arrays.join(", ")), values))
}

fn json<M: ModelTrait>(rows: &[M]) -> Result<(String, Vec<Value>), DbErr> {
    let mut all = List::new(DbBackend::Sqlite);
    for row in rows {
        let mut list = List::new(DbBackend::Sqlite);
        for column in Column::<M>::iter() {
            list.push(row.get(column))?;
        }
        all.push_bare(list.finish());
    }
    let field = |(number, column): (usize, Column<M>)| match column.def().get_column_type() {
        ColumnType::VarBinary(_) => format!("unhex(value ->> {number})"),
        _ => format!("value ->> {number}"),
    };
    let fields: Vec<_> = Column::<M>::iter().enumerate().map(field).collect();
    // Without WHERE, SQLite takes ON for the beginning of a join's condition.
    let source = format!("SELECT {} FROM json_each(?) WHERE true", fields.join(", "));
    Ok((source, vec![Value::from(all.finish())]))
}

fn unknown(what: &str) -> DbErr {
    DbErr::Type(format!("{what} can't be written in a list"))
}

/// A growing list: the text of a PostgreSQL array or of a JSON array.
struct List {
    text: String,
    backend: DbBackend,
}

impl List {
    fn new(backend: DbBackend) -> Self {
        let open = if backend == DbBackend::Postgres { "{" } else { "[" };
        Self { text: open.into(), backend }
    }

    fn push(&mut self, value: Value) -> Result<(), DbErr> {
        match value {
            Value::Int(Some(number)) => self.push_bare(number),
            Value::BigInt(Some(number)) => self.push_bare(number),
            Value::String(Some(text)) => self.push_text(&text),
            // The driver's own format: SQLite compares times as texts.
            Value::ChronoDateTimeUtc(Some(time)) => {
                self.push_text(&time.to_rfc3339_opts(SecondsFormat::AutoSi, false));
            }
            Value::Bytes(Some(bytes)) => {
                let prefix = if self.backend == DbBackend::Postgres { "\\x" } else { "" };
                self.push_text(&format!("{prefix}{}", hex::encode(bytes)));
            }
            Value::Int(None)
            | Value::BigInt(None)
            | Value::String(None)
            | Value::ChronoDateTimeUtc(None)
            | Value::Bytes(None) => self.push_bare("null"),
            other => return Err(unknown(&format!("a value of the type {:?}", other.array_type()))),
        }
        Ok(())
    }

    fn push_bare(&mut self, element: impl std::fmt::Display) {
        self.separate();
        let _ = write!(self.text, "{element}");
    }

    fn push_text(&mut self, text: &str) {
        if self.backend != DbBackend::Postgres {
            return self.push_bare(serde_json::Value::from(text));
        }
        self.separate();
        self.text.push('"');
        for character in text.chars() {
            if matches!(character, '"' | '\\') {
                self.text.push('\\');
            }
            self.text.push(character);
        }
        self.text.push('"');
    }

    fn separate(&mut self) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
    }

    fn finish(mut self) -> String {
        self.text.push(if self.backend == DbBackend::Postgres { '}' } else { ']' });
        self.text
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    const TEXTS: [&str; 8] = ["", "a", "NULL", "a\"b", "\\", "{x, y}", " ä\n", "\u{1}\t"];

    fn list(backend: DbBackend, values: impl IntoIterator<Item = Value>) -> String {
        let mut list = List::new(backend);
        values.into_iter().for_each(|value| list.push(value).unwrap());
        list.finish()
    }

    #[test]
    fn a_list_holds_any_text() {
        let json = list(DbBackend::Sqlite, TEXTS.map(Value::from));
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), TEXTS);
        assert_eq!(
            list(DbBackend::Postgres, TEXTS.map(Value::from)),
            "{\"\",\"a\",\"NULL\",\"a\\\"b\",\"\\\\\",\"{x, y}\",\" ä\n\",\"\u{1}\t\"}"
        );
    }

    #[test]
    fn a_statement_is_the_same_for_any_number_of_rows() {
        use crate::entity::worker::{Column, Model};
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let row =
            |id: &str| Model { id: id.into(), name: "w".into(), alive_since: at, alive_until: at };
        for backend in [DbBackend::Postgres, DbBackend::Sqlite] {
            let of = |rows: &[Model]| insertion(backend, rows, Some(Column::Id)).unwrap();
            let (one, two) = (of(&[row("a")]), of(&[row("a"), row("b")]));
            assert_eq!(one.sql, two.sql);
            assert_ne!(one.values, two.values);
            assert!(one.sql.starts_with(
                r#"INSERT INTO "workers" ("id", "name", "alive_since", "alive_until") SELECT"#
            ));
            let update = r#"ON CONFLICT ("id") DO UPDATE SET "name" = excluded."name""#;
            assert!(one.sql.contains(update), "{}", one.sql);
        }
    }

    #[test]
    fn a_list_holds_nothing_and_all_else_that_rows_have() {
        let time = DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap();
        let values = || {
            [
                Value::from(-7_i32),
                Value::from(i64::MAX),
                Value::from(time),
                Value::from(vec![0_u8, 255]),
                Value::from(None::<i32>),
                Value::from(None::<String>),
            ]
        };
        assert_eq!(
            list(DbBackend::Postgres, values()),
            "{-7,9223372036854775807,\"2023-11-14T22:13:20.123456+00:00\",\"\\\\x00ff\",null,null}"
        );
        assert_eq!(
            list(DbBackend::Sqlite, values()),
            "[-7,9223372036854775807,\"2023-11-14T22:13:20.123456+00:00\",\"00ff\",null,null]"
        );
        assert_eq!(list(DbBackend::Postgres, []), "{}");
        assert!(List::new(DbBackend::Sqlite).push(Value::from(1.5_f64)).is_err());
    }
}
