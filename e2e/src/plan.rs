//! What a query reads, by the database's own account.

use anyhow::{Context, Result};
use sea_orm::sea_query::SelectStatement;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};

/// How a database answers a query.
#[derive(Debug)]
pub struct Plan {
    /// The plan, line by line.
    pub lines: Vec<String>,
    /// How many rows or index entries were read; none on SQLite, which does not tell.
    pub read: Option<u64>,
}

impl Plan {
    /// Has the database explain a query. PostgreSQL carries it out.
    pub async fn of(db: &DatabaseConnection, statement: &SelectStatement) -> Result<Self> {
        let backend = db.get_database_backend();
        let (how, column) = match backend {
            DbBackend::Sqlite => ("EXPLAIN QUERY PLAN", "detail"),
            _ => ("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)", "QUERY PLAN"),
        };
        let explained = format!("{how} {}", backend.build(statement));
        let rows = db.query_all_raw(Statement::from_string(backend, explained)).await?;
        let lines: Vec<String> =
            rows.iter().map(|row| row.try_get("", column)).collect::<Result<_, _>>()?;
        let read = if backend == DbBackend::Sqlite { None } else { Some(read(&lines)?) };
        Ok(Self { lines, read })
    }

    /// Whether it reads this table whole, from one end to the other.
    pub fn reads_all_of(&self, table: &str) -> bool {
        let scans = [format!("Seq Scan on {table}"), format!("SCAN {table}")];
        self.lines.iter().map(|line| line.replace('"', "")).any(|line| {
            // With an index SQLite may stop at a limit.
            scans.iter().any(|scan| line.contains(scan.as_str())) && !line.contains("USING")
        })
    }

    /// Whether SQLite sorts rows of a table instead of reading them in order. What ranges have brought
    /// together is bounded, and may be sorted.
    pub fn sorts(&self) -> bool {
        self.lines
            .windows(2)
            .any(|lines| lines[1].contains("TEMP B-TREE FOR ORDER BY") && lines[0] != "SCAN range")
    }

    /// Whether it uses this index.
    pub fn uses(&self, index: &str) -> bool {
        self.lines.iter().any(|line| line.contains(index))
    }
}

/// Adds up what the scans of PostgreSQL's plan returned and threw away.
fn read(lines: &[String]) -> Result<u64> {
    let mut read = 0.0;
    let mut loops = None;
    for line in lines {
        if let Some((node, (rows, times))) = actual(line) {
            // What a bitmap's index scan finds, its heap scan reads.
            let is_scan = node.contains("Scan")
                && !["Subquery Scan", "Bitmap Index Scan"].iter().any(|kind| node.contains(kind));
            loops = is_scan.then_some(times);
            read += if is_scan { rows * times } else { 0.0 };
        } else if let Some((what, rows)) = line.split_once(": ")
            && what.contains("Rows Removed by")
        {
            let rows: f64 = rows.trim().parse().context("not a number of rows")?;
            read += rows * loops.unwrap_or_default();
        }
    }
    Ok(read as u64)
}

/// A node of a plan, how many rows it returned each time, and how many times it was carried out.
fn actual(line: &str) -> Option<(&str, (f64, f64))> {
    let (node, actual) = line.split_once("(actual rows=")?;
    let (rows, times) = actual.trim_end_matches(')').split_once(" loops=")?;
    Some((node, (rows.parse().ok()?, times.parse().ok()?)))
}
