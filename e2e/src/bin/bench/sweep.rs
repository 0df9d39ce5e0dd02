//! How long it takes to find ten silent jobs among a million.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::crowd::{Crowd, PARTITIONS, explain, is_by_index, sweep};
use e2e::stack::{Db, Stack};

const ROUNDS: usize = 50;
const SILENT: u64 = 10;

/// Measures it on a database, with crowds that differ in what most of them do.
pub(crate) async fn measure(db: Db, jobs: u64) -> Result<()> {
    println!("\nfinding {SILENT} silent jobs among {jobs}: a look at one partition, and at all");
    println!(
        "{:<12} {:<28} {:>9} {:>9} {:>9}",
        "DATABASE", "THE OTHERS", "P50 MS", "MAX MS", "ALL MS"
    );
    for (others, crowd) in [
        ("finished", Crowd { finished: jobs, ..Crowd::default() }),
        ("alive", Crowd { alive: jobs, ..Crowd::default() }),
        ("quiet, with longer timeouts", Crowd { patient: jobs, ..Crowd::default() }),
    ] {
        let mut stack = Stack::builder().db(db).start().await?;
        let limit = std::time::Duration::from_secs(60);
        ensure!(stack.worker.process.terminate(limit).await?.success(), "the worker did not end");
        let rows = stack.db().await?;
        Crowd { silent: SILENT, ..crowd }.fill(&rows).await?;
        let (mut each, mut all) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mut found = 0;
            let round = Instant::now();
            for partition in 0..PARTITIONS {
                let begun = Instant::now();
                found += sweep(&rows, partition).await?.len() as u64;
                each.push(begun.elapsed());
            }
            all.push(round.elapsed());
            ensure!(found == SILENT, "{found} silent jobs were found");
        }
        each.sort();
        all.sort();
        let ms = |time: Option<&std::time::Duration>| {
            time.map(|time| time.as_secs_f64() * 1000.0).context("nothing was measured")
        };
        println!(
            "{:<12} {others:<28} {:>9.2} {:>9.2} {:>9.2}",
            format!("{db:?}"),
            ms(each.get(each.len() / 2))?,
            ms(each.last())?,
            ms(all.get(all.len() / 2))?,
        );
        let plan = explain(&rows, 0).await?;
        ensure!(is_by_index(&plan), "not by the index:\n{}", plan.join("\n"));
        if db == Db::Postgres && crowd.alive > 0 {
            println!("{}", plan.join("\n"));
        }
        stack.shut_down().await?;
    }
    Ok(())
}
