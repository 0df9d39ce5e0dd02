//! Random faults of every part under load, for as long as one likes; then whether everything that
//! was accepted has taken effect exactly once, in order.
//!
//! Each deck holds every kind of fault once, in a random order. Two at a time are done to the
//! system while callbacks arrive, and mended again. The seed determines all choices; what the
//! machine makes of them differs from run to run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use fastrand::Rng;
use futures::TryStreamExt;
use shared::stream::find_open;
use tokio::task::JoinSet;

use crate::check::{self, Findings};
use crate::load::{Load, Report};
use crate::port::Port;
use crate::stack::{Db, Ingress, Stack, Worker, poll};

/// How long the system may take to come back to order.
const LIMIT: Duration = Duration::from_secs(120);
/// How long a process may take to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The longest time between one fault and the next, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 400;
/// Each load has 400 callbacks, so this bounds what a round sends.
const LOADS_PER_ROUND: usize = 50;

/// What happens to the system, in the order in which a round does it: what needs the servers comes
/// before what kills them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// One more worker starts, and another one ends in order.
    ReplaceWorker,
    /// Somebody deletes the consumer of a partition.
    DeleteConsumer,
    /// A worker is killed.
    KillWorker,
    /// A worker is frozen until others have taken over what it owned, and wakes up.
    PauseWorker,
    /// An ingress is killed; its senders turn to the other one.
    KillIngress,
    /// The number of partitions changes; who changes it is killed, and does it again. No ingress that
    /// starts meanwhile becomes ready, so this is mended before.
    Resize,
    /// nats-server is killed.
    KillBroker,
    /// PostgreSQL is killed.
    KillDatabase,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::ReplaceWorker,
        Self::DeleteConsumer,
        Self::KillWorker,
        Self::PauseWorker,
        Self::KillIngress,
        Self::Resize,
        Self::KillBroker,
        Self::KillDatabase,
    ];
}

/// What came of a soak.
#[derive(Debug)]
pub struct Outcome {
    /// What determined the choices.
    pub seed: u64,
    /// How long there were faults.
    pub elapsed: Duration,
    /// How many callbacks were accepted.
    pub accepted: usize,
    /// How many requests were second or later tries.
    pub retries: u64,
    /// How many faults of each kind there were.
    pub faults: BTreeMap<Fault, u32>,
    /// What is not as it must be.
    pub findings: Findings,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed       {}", self.seed)?;
        writeln!(f, "time       {} s", self.elapsed.as_secs())?;
        writeln!(f, "accepted   {} callbacks, {} retries", self.accepted, self.retries)?;
        writeln!(f, "faults     {}", self.faults.values().sum::<u32>())?;
        for (fault, count) in &self.faults {
            writeln!(f, "  {count:>9} {fault:?}")?;
        }
        for (kind, findings) in self.findings.all() {
            writeln!(f, "{kind:<10} {}", findings.len())?;
        }
        write!(f, "{}", self.findings)
    }
}

/// Runs in this directory with these faults until the time is over and the deck is played to its end;
/// `say` is told what happens. Three workers and two ingresses run on PostgreSQL. Dropping the future ends all
/// processes.
pub async fn run(
    dir: &Path,
    seed: u64,
    faults: &[Fault],
    at_least: Duration,
    mut say: impl FnMut(String),
) -> Result<Outcome> {
    let mut system = System::start(dir, seed).await?;
    let started = Instant::now();
    let mut done = BTreeMap::new();
    let mut reports = Vec::new();
    while done.is_empty() || started.elapsed() < at_least {
        let mut deck = faults.to_vec();
        system.rng.shuffle(&mut deck);
        for round in deck.chunks_mut(2) {
            round.sort_unstable();
            say(format!("{:7.1} s  {round:?}", started.elapsed().as_secs_f64()));
            let traffic = system.send(reports.len());
            let mended = system.round(round).await;
            mended.with_context(|| system.stack.tail()).with_context(|| format!("{round:?}"))?;
            reports.extend(traffic.stop().await?);
            for fault in round {
                *done.entry(*fault).or_default() += 1;
            }
        }
    }
    let elapsed = started.elapsed();
    let retries = reports.iter().map(|report| report.retries).sum();
    let accepted = reports.iter().map(Report::accepted).sum();
    let findings = system.settle(reports).await?;
    Ok(Outcome { seed, elapsed, accepted, retries, faults: done, findings })
}

/// A running worker, and the random id that it owns partitions by.
struct Member {
    worker: Worker,
    id: String,
}

impl Member {
    async fn start(stack: &Stack, number: usize) -> Result<Self> {
        let name = format!("soak-{number}");
        let worker = stack.start_worker_with(&[("WORKER_ID", &name)], &[]).await?;
        let log = worker.process.log();
        let line = log.find_line(|line| line.contains(r#""message":"consuming""#));
        let line: serde_json::Value =
            serde_json::from_str(&line.context("a worker does not say that it consumes")?)?;
        let id = line["id"].as_str().context("a worker without an id")?.to_owned();
        Ok(Self { worker, id })
    }
}

struct System {
    rng: Rng,
    workers: Vec<Member>,
    started: usize,
    second: Ingress,
    /// How many partitions there are to be.
    partitions: u16,
    stack: Stack,
    // Kept, so that nobody else gets them while an ingress is down.
    ports: [Port; 2],
}

impl System {
    async fn start(dir: &Path, seed: u64) -> Result<Self> {
        let ports = [Port::lease()?, Port::lease()?];
        let any = ([127, 0, 0, 1], 0).into();
        let mut stack = Stack::builder()
            .db(Db::Postgres)
            .dir(dir)
            .env("LEASE", "1s")
            // So short that jobs seem silent when the faults keep their senders waiting.
            .env("HEARTBEAT_TIMEOUT", "1s")
            .ingress_listen(ports[0].address(), any)
            .keep_lines(1000)
            .start()
            .await?;
        let second = start_second(&stack, &ports).await?;
        // All workers are started in the same way, so that each can take any other's place.
        stack.worker.process.terminate(STOP_LIMIT).await?;
        let (mut workers, started) = (Vec::new(), 3);
        for number in 0..started {
            workers.push(Member::start(&stack, number).await?);
        }
        let (rng, partitions) = (Rng::with_seed(seed), crate::stack::PARTITIONS);
        Ok(Self { rng, workers, started, second, partitions, stack, ports })
    }

    /// Sends callbacks in the background; jobs are named by the round's number.
    fn send(&self, round: usize) -> Traffic {
        let mut load = Load::new(self.ports[0].address(), self.stack.secret(), 40)
            .also(self.ports[1].address());
        load.connections = 8;
        load.max_tries = 2000;
        load.retry_pause = Duration::from_millis(50);
        let enough = Arc::new(AtomicBool::new(false));
        let mut sending = JoinSet::new();
        let told = Arc::clone(&enough);
        sending.spawn(async move {
            let mut reports = Vec::new();
            while !told.load(Ordering::Relaxed) && reports.len() < LOADS_PER_ROUND {
                let mut load = load.clone();
                load.prefix = format!("soak-{}", round + reports.len());
                reports.push(load.run().await?);
            }
            Ok(reports)
        });
        Traffic { enough, sending }
    }

    /// Does these faults, sorted, to the system, one soon after the other, and mends them, the
    /// servers first.
    async fn round(&mut self, faults: &[Fault]) -> Result<()> {
        // Each kind has a victim of its own, so that one worker at least is left to take over.
        let mut victims: Vec<usize> = (0..self.workers.len()).collect();
        self.rng.shuffle(&mut victims);
        let ingress = self.rng.usize(0..2);
        self.pause().await;
        for fault in faults {
            self.inject(*fault, &victims, ingress).await?;
            self.pause().await;
        }
        for fault in faults.iter().rev() {
            self.mend(*fault, &victims, ingress).await?;
        }
        Ok(())
    }

    async fn pause(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.rng.u64(0..LONGEST_PAUSE_MS))).await;
    }

    async fn inject(&mut self, fault: Fault, victims: &[usize], ingress: usize) -> Result<()> {
        match fault {
            Fault::Resize => {
                self.partitions = (self.partitions + self.rng.u16(1..16) - 1) % 16 + 1;
                let program = self.stack.program("ackline")?.args(self.resize());
                let mut command = self.stack.spawn(&program)?;
                self.pause().await;
                command.kill9();
            }
            Fault::ReplaceWorker => {
                let more = self.start_worker().await?;
                let mut less = std::mem::replace(&mut self.workers[victims[2]], more);
                let ended = less.worker.process.terminate(STOP_LIMIT).await?;
                ensure!(ended.success(), "{} ended with {ended}", less.worker.process.name());
            }
            Fault::DeleteConsumer => self.delete_consumer().await?,
            Fault::KillWorker => self.workers[victims[0]].worker.process.kill9(),
            Fault::PauseWorker => self.workers[victims[1]].worker.process.stop(),
            Fault::KillIngress if ingress == 0 => self.stack.ingress.process.kill9(),
            Fault::KillIngress => self.second.process.kill9(),
            Fault::KillBroker => self.stack.nats.kill9(),
            Fault::KillDatabase => {
                self.stack.postgres.as_mut().context("no PostgreSQL")?.process.kill9();
            }
        }
        Ok(())
    }

    async fn mend(&mut self, fault: Fault, victims: &[usize], ingress: usize) -> Result<()> {
        match fault {
            Fault::Resize => {
                let resize = self.resize();
                let resize: Vec<&str> = resize.iter().map(String::as_str).collect();
                let resized = poll(LIMIT, async || self.stack.ackline(&resize).await.ok());
                resized.await.context("the number of partitions can't be changed")?;
            }
            Fault::ReplaceWorker | Fault::DeleteConsumer => {}
            Fault::KillWorker => self.workers[victims[0]] = self.start_worker().await?,
            Fault::PauseWorker => {
                let Member { worker, id } = &self.workers[victims[1]];
                let db = self.stack.db().await?;
                let taken_over = poll(LIMIT, async || {
                    // An error is one more reason to look again.
                    let rows = check::partitions(&db).await.ok()?;
                    let is_left = rows.iter().any(|row| row.owner.as_ref() == Some(id));
                    (!is_left).then_some(())
                });
                taken_over.await.context("a paused worker's partitions are not taken over")?;
                worker.process.cont();
            }
            Fault::KillIngress if ingress == 0 => self.stack.start_ingress().await?,
            Fault::KillIngress => self.second = start_second(&self.stack, &self.ports).await?,
            Fault::KillBroker => self.stack.nats.restart().await?,
            Fault::KillDatabase => {
                self.stack.postgres.as_mut().context("no PostgreSQL")?.restart().await?;
            }
        }
        Ok(())
    }

    fn resize(&self) -> [String; 5] {
        let to = self.partitions.to_string();
        ["partitions", "resize", &to, "--delete-old", "--yes"].map(str::to_owned)
    }

    async fn start_worker(&mut self) -> Result<Member> {
        self.started += 1;
        Member::start(&self.stack, self.started).await
    }

    async fn delete_consumer(&mut self) -> Result<()> {
        let jetstream = jetstream::new(self.stack.nats.client().await?);
        let number = self.rng.u16(..);
        let deleted = poll(LIMIT, async || {
            // While they are being moved, no streams are open.
            let layout = find_open(&jetstream, None).await.ok()?;
            let partition = layout.partition(number % layout.partitions())?;
            let stream = jetstream.get_stream(partition.stream()).await.ok()?;
            // There is none for a moment when the partition is just being taken over.
            let names: Vec<String> = stream.consumer_names().try_collect().await.ok()?;
            stream.delete_consumer(names.first()?).await.ok()
        });
        deleted.await.map(drop).context("there is no consumer to delete")
    }

    /// Waits until everything is applied, compares it with what was accepted, and ends all.
    async fn settle(mut self, reports: Vec<Report>) -> Result<Findings> {
        let jobs: Vec<_> = reports.into_iter().flat_map(|report| report.jobs).collect();
        let db = self.stack.db().await?;
        let ends = check::stream_ends(self.stack.nats.client().await?).await?;
        let applied = poll(LIMIT, async || check::is_applied(&db, &ends).await.ok()?.then_some(()));
        let mut findings = match applied.await {
            Some(()) => check::exactly_once(&db, &jobs, &[]).await?,
            None => Findings {
                wrong: vec![format!(
                    "the streams are not applied to their ends\n{}",
                    self.stack.tail()
                )],
                ..Findings::default()
            },
        };
        db.close().await?;
        if let Err(error) = self.stack.ackline_json(&["audit", "--json"]).await {
            findings.wrong.push(format!("{error:#}"));
        }

        let ended = self.workers.iter_mut().map(|member| &mut member.worker.process);
        for process in ended.chain([&mut self.second.process]) {
            let still_ran = process.is_running();
            match process.terminate(STOP_LIMIT).await {
                Ok(status) if still_ran && status.success() => {}
                Ok(status) => findings.wrong.push(format!("{} ended: {status}", process.name())),
                Err(error) => findings.wrong.push(format!("{error:#}")),
            }
        }
        if let Err(error) = self.stack.shut_down().await {
            findings.wrong.push(format!("{error:#}"));
        }
        Ok(findings)
    }
}

async fn start_second(stack: &Stack, ports: &[Port; 2]) -> Result<Ingress> {
    let listen = ports[1].address().to_string();
    stack.start_ingress_with(&[("INGRESS_LISTEN", &listen)], &[]).await
}

/// Callbacks that are being sent. Dropping it stops the senders.
struct Traffic {
    enough: Arc<AtomicBool>,
    sending: JoinSet<Result<Vec<Report>>>,
}

impl Traffic {
    /// Ends with the load that is being sent.
    async fn stop(mut self) -> Result<Vec<Report>> {
        self.enough.store(true, Ordering::Relaxed);
        self.sending.join_next().await.context("nothing was sent")?.context("a sender failed")?
    }
}
