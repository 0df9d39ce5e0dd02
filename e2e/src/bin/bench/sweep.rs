//! How long it takes to find ten silent jobs among a million.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::http_load::quantile;
use e2e::silence_fixture::{PARTITIONS, SilenceFixture, explain, is_by_index, sweep};
use e2e::stack::Db;

use crate::accept::without_worker;
use crate::report::Report;

const ROUNDS: usize = 50;
const SILENT: u64 = 10;

/// Measures it on a database, with fixtures that differ in what most of them do.
pub(crate) async fn run(report: &mut Report, db: Db, jobs: u64) -> Result<()> {
    let about = format!("looks for {SILENT} silent jobs among {jobs}");
    report.part(format!("sweep, {}", db.name()), &about);
    for (others, fixture) in [
        ("finished", SilenceFixture { finished: jobs, ..SilenceFixture::default() }),
        ("alive", SilenceFixture { alive: jobs, ..SilenceFixture::default() }),
        (
            "quiet, with longer timeouts",
            SilenceFixture { patient: jobs, ..SilenceFixture::default() },
        ),
    ] {
        let mut stack = without_worker(db, 1 << 30).await?;
        let rows = stack.db().await?;
        SilenceFixture { silent: SILENT, ..fixture }.fill(&rows).await?;
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
        let mut show = |what: &str, times: &[Duration], part| -> Result<()> {
            let time = quantile(times, part).context("nothing was measured")?;
            report.figure(format!("the others {others}, {what}"), time.as_secs_f64() * 1e3, "ms");
            Ok(())
        };
        show("one partition, p50", &each, 0.5)?;
        show("one partition, the worst", &each, 1.0)?;
        show("all partitions, p50", &all, 0.5)?;
        let plan = explain(&rows, 0).await?;
        ensure!(is_by_index(&plan), "not by the index:\n{}", plan.join("\n"));
        if db == Db::Postgres && fixture.alive > 0 {
            println!("{}", plan.join("\n"));
        }
        stack.shut_down().await?;
    }
    Ok(())
}
