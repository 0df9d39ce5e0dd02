//! Whose fault it is when the database refuses or fails: the one place that decides it.
//!
//! docs/RELIABILITY.md has the same decision as a table, and a test compares the two.

use std::borrow::Cow;

use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::sqlite::SqliteError;
use sea_orm::{DbErr, RuntimeErr};

/// What a failure of the database means for whoever wanted something of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What was written is refused on every attempt, by the database or by a trigger. The callback
    /// becomes a dead letter.
    Callback,
    /// The server, or how it is set up. Nothing is buried: it is tried again.
    Server,
    /// The same, and this connection will not do better: it is tried again with another one.
    Connection,
}

impl Fault {
    /// Decides by the code of the database. A failure without one, such as a lost connection, is
    /// the connection's.
    #[must_use]
    pub fn of(error: &DbErr) -> Self {
        match code(error) {
            Some((error, code)) if error.try_downcast_ref::<SqliteError>().is_some() => {
                code.parse().map_or(Self::Server, Self::of_sqlite)
            }
            Some((_, code)) => Self::of_postgres(&code),
            // Everybody waits for a connection, or the statement never left this process.
            None if matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Custom(_)) => Self::Server,
            None => Self::Connection,
        }
    }

    /// Decides by an SQLSTATE.
    #[must_use]
    pub fn of_postgres(sqlstate: &str) -> Self {
        match (sqlstate.get(..2).unwrap_or_default(), sqlstate) {
            // A statement was cancelled, as by its time limit: the connection is none the worse.
            (_, "57014") => Self::Server,
            // Read-only, as a replica is, or a server during a failover; ended while idle; a pooler
            // in between that mixes up prepared statements.
            (_, "25006" | "25P03" | "42P05") => Self::Connection,
            // The connection itself, who may use it, the server's end or start, its machine; a plan
            // that a migration made obsolete (0A), and the pooler again (26).
            ("08" | "0A" | "26" | "28" | "57" | "58", _) => Self::Connection,
            (
                "00" | "01" | "02" | "03" | "0B" | "24" | "25" | "2B" | "34" | "3B" | "3D" | "3F"
                | "40" | "42" | "53" | "55" | "72" | "F0" | "HV" | "XX",
                _,
            ) => Self::Server,
            // Bad data (21, 22), a violated constraint (23, 44), a limit that a value exceeds (54), or
            // what a trigger raises: P0, its other failures (09, 0F, 0L, 0P, 0Z, 10, 20, 27, 2D, 2F,
            // 38, 39), and every class that PostgreSQL does not know.
            _ => Self::Callback,
        }
    }

    /// Decides by a result code, primary or extended.
    #[must_use]
    pub fn of_sqlite(code: i32) -> Self {
        match code & 0xff {
            // TOOBIG, CONSTRAINT (also what a trigger raises), MISMATCH.
            18..=20 => Self::Callback,
            // IOERR, CORRUPT, CANTOPEN, NOTADB; READONLY, also for a file that was moved away.
            8 | 10 | 11 | 14 | 26 => Self::Connection,
            _ => Self::Server,
        }
    }
}

/// What stands before such an error.
pub(super) const POOLER: &str = "ACK-308: a pooler such as PgBouncer is in between, in a mode that \
                                 Ackline can't use (docs/OPERATIONS.md, \"The database\"): ";

/// Whether somebody else held a row locked for too long (SQLSTATE 55P03, lock_not_available).
#[must_use]
pub fn is_locked(error: &DbErr) -> bool {
    code(error).is_some_and(|(_, code)| code == "55P03")
}

/// Whether the database has answered at all, if only with an error.
#[must_use]
pub fn is_answer(error: &DbErr) -> bool {
    code(error).is_some()
}

/// What stays the same when a failure comes back: its code, or its text where it has none. A text
/// can name other blocks or processes each time.
#[must_use]
pub fn identity(error: &DbErr) -> String {
    code(error).map_or_else(|| error.to_string(), |(_, code)| code.into_owned())
}

/// What the database says, with its code; the driver's text would name a line of PostgreSQL's source.
#[must_use]
pub fn text(error: &DbErr) -> String {
    match code(error) {
        Some((error, code)) if error.try_downcast_ref::<SqliteError>().is_some() => {
            format!("{} (SQLite {code})", error.message())
        }
        Some((error, code)) => {
            let hint = if is_poolers(&code, error.message()) { POOLER } else { "" };
            format!("{hint}{} (SQLSTATE {code})", error.message())
        }
        None => error.to_string(),
    }
}

/// Whether only a pooler between this program and the server can be the cause: it hands prepared
/// statements to other connections than those that they were prepared on, or knows no settings at
/// the start of a connection.
pub(super) fn is_poolers(sqlstate: &str, message: &str) -> bool {
    matches!(sqlstate, "26000" | "42P05") || message.contains("unsupported startup parameter")
}

/// The database's own error in this one, and its code.
fn code(error: &DbErr) -> Option<(&dyn DatabaseError, Cow<'_, str>)> {
    let (DbErr::Conn(RuntimeErr::SqlxError(error))
    | DbErr::Exec(RuntimeErr::SqlxError(error))
    | DbErr::Query(RuntimeErr::SqlxError(error))) = error
    else {
        return None;
    };
    let error = error.as_database_error()?;
    Some((error, error.code()?))
}

#[cfg(test)]
mod tests {
    use super::Fault;

    /// The rows of the table in the document: what stands in a column of codes, and the decision.
    fn documented() -> Vec<(String, String)> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/RELIABILITY.md");
        let document = std::fs::read_to_string(path).unwrap();
        let (_, table) = document.split_once("| PostgreSQL (SQLSTATE) | SQLite |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let mut found = Vec::new();
        for row in rows {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            for codes in [cells[1], cells[2]] {
                for code in codes.split('`').skip(1).step_by(2) {
                    found.push((code.to_owned(), cells[4].to_owned()));
                }
            }
        }
        found
    }

    fn word(fault: Fault) -> &'static str {
        match fault {
            Fault::Callback => "dead letter",
            Fault::Server => "wait",
            Fault::Connection => "wait, with another connection",
        }
    }

    #[test]
    fn the_document_says_what_every_code_leads_to() {
        let documented = documented();
        for (code, decision) in &documented {
            let fault = match code.strip_prefix("SQLITE_") {
                Some(name) => Fault::of_sqlite(sqlite(name)),
                None => Fault::of_postgres(&format!("{code:0<5}")),
            };
            assert_eq!(word(fault), decision, "{code}");
        }
        // All classes of PostgreSQL 18, by errcodes.txt.
        let classes = "00 01 02 03 08 09 0A 0B 0F 0L 0P 0Z 10 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 \
                       38 39 3B 3D 3F 40 42 44 53 54 55 57 58 F0 HV P0 XX";
        let is_documented = |wanted: &str| documented.iter().any(|(code, _)| code == wanted);
        for class in classes.split_whitespace() {
            assert!(is_documented(class), "{class} is not documented");
        }
        for code in 1..=26 {
            let name = NAMES[code - 1];
            assert!(is_documented(&format!("SQLITE_{name}")), "{name} is not documented");
        }
    }

    /// SQLite's primary result codes, from 1 on.
    const NAMES: [&str; 26] = [
        "ERROR",
        "INTERNAL",
        "PERM",
        "ABORT",
        "BUSY",
        "LOCKED",
        "NOMEM",
        "READONLY",
        "INTERRUPT",
        "IOERR",
        "CORRUPT",
        "NOTFOUND",
        "FULL",
        "CANTOPEN",
        "PROTOCOL",
        "EMPTY",
        "SCHEMA",
        "TOOBIG",
        "CONSTRAINT",
        "MISMATCH",
        "MISUSE",
        "NOLFS",
        "AUTH",
        "FORMAT",
        "RANGE",
        "NOTADB",
    ];

    fn sqlite(name: &str) -> i32 {
        let position = NAMES.iter().position(|known| *known == name);
        i32::try_from(position.unwrap_or_else(|| panic!("SQLite has no {name}"))).unwrap() + 1
    }
}
