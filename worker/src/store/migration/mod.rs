//! The schema, as forward-only migrations. A released migration is never edited.
//!
//! Migrations are numbered in their names. A migration only adds, so that programs of the previous
//! version keep working until they are replaced. One that removes what an earlier version uses says
//! so in its name: `m20270301_000009_needs_000005_drop_region` is for programs that know migration
//! 5, and older ones refuse a database that has it.

mod m20261127_000001_schema;

use sea_orm_migration::prelude::*;

/// The migration that a program must know, if the named one removes something.
pub(crate) fn needed_by(name: &str) -> Option<usize> {
    let mut words = name.split('_').skip(2);
    if words.next()? == "needs" { words.next()?.parse().ok() } else { None }
}

/// All migrations, oldest first.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m20261127_000001_schema::Migration)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_and_need_no_later_one() {
        for (index, step) in Migrator::migrations().iter().enumerate() {
            let name = step.name();
            let number = format!("_{:06}_", index + 1);
            assert_eq!(name.get(9..17), Some(number.as_str()), "{name}");
            let needed = needed_by(name);
            assert_eq!(needed.is_some(), name.contains("_needs_"), "{name}");
            assert!(needed.is_none_or(|needed| needed <= index + 1), "{name}");
        }
    }

    #[test]
    fn a_step_names_the_one_that_it_needs() {
        assert_eq!(needed_by("m20270301_000009_needs_000005_drop_region"), Some(5));
        for expanding in ["m20261127_000001_schema", "m20270301_000009_needs", "", "needs_000005"] {
            assert_eq!(needed_by(expanding), None, "{expanding}");
        }
    }
}
