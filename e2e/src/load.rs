//! Many workflows at once: each job's callbacks strictly one after another, each tried again until
//! it is accepted.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use hyper::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::http::{Answer, Client};
use crate::http_load::quantile;
use crate::stack::{CALLBACK_PATH, sign};

/// What is to be sent.
#[derive(Debug, Clone)]
pub struct Load {
    /// Ingresses; a connection that fails goes on with the next.
    pub targets: Vec<SocketAddr>,
    /// What callbacks are signed with.
    pub secret: String,
    /// The jobs are named `PREFIX-0` and so on.
    pub prefix: String,
    /// How many jobs.
    pub jobs: usize,
    /// Queued, provisioning, heartbeats, and running or failed; at least three.
    pub callbacks_per_job: usize,
    /// Every so many-th job fails; 0 for none.
    pub failing_every: usize,
    /// How many jobs send at a time, each over a connection that it keeps.
    pub connections: usize,
    /// How often a callback is tried before its job gives up.
    pub max_tries: usize,
    /// How long a sender waits before it tries again.
    pub retry_pause: Duration,
    /// Whether each callback goes to another ingress than the one before it.
    pub rotate: bool,
    /// Whether a callback that is tried again gets another time and signature. Otherwise the very
    /// same bytes are sent, as by `curl --retry`: then heartbeats are recognised, too.
    pub sign_anew: bool,
    /// Whether each callback has a connection of its own, as one of `curl` has.
    pub reconnect: bool,
    /// How long a sender rests between its callbacks.
    pub rest: Duration,
    /// How many bytes each callback has that nobody reads.
    pub padding: usize,
}

impl Load {
    /// A load of this many jobs with ten callbacks each, over 32 connections.
    pub fn new(target: SocketAddr, secret: &str, jobs: usize) -> Self {
        Self {
            targets: vec![target],
            secret: secret.to_owned(),
            prefix: "load".to_owned(),
            jobs,
            callbacks_per_job: 10,
            failing_every: 10,
            connections: 32,
            max_tries: 600,
            retry_pause: Duration::from_millis(100),
            rotate: false,
            sign_anew: true,
            reconnect: false,
            rest: Duration::ZERO,
            padding: 0,
        }
    }

    /// Sends to this ingress too.
    pub fn also(mut self, target: SocketAddr) -> Self {
        self.targets.push(target);
        self
    }

    /// Starts sending in the background.
    pub fn start(self) -> Running {
        let shared = Arc::new(Shared {
            targets: Mutex::new(self.targets.clone()),
            load: self,
            next_job: AtomicUsize::default(),
            accepted: AtomicU64::default(),
            retries: AtomicU64::default(),
            setbacks: Mutex::default(),
        });
        let mut senders = JoinSet::new();
        for turn in 0..shared.load.connections.max(1) {
            let (shared, clients) = (Arc::clone(&shared), HashMap::new());
            let sender = Sender { shared, turn, clients, report: Report::default() };
            senders.spawn(sender.send_all());
        }
        Running { senders, shared, started: Instant::now() }
    }

    /// Sends everything.
    pub async fn run(self) -> Result<Report> {
        self.start().finish().await
    }

    /// The callbacks of a job: the event id's suffix and the fields that say what happened.
    fn callbacks(&self, job: usize) -> impl Iterator<Item = (Sent, serde_json::Value)> + '_ {
        let heartbeats = self.callbacks_per_job.saturating_sub(3);
        let fails = self.failing_every > 0 && job % self.failing_every == self.failing_every - 1;
        let last = if fails {
            (Some("failed"), json!({"error": "it was told to", "failed_step": "provision"}))
        } else {
            (Some("running"), json!({}))
        };
        let first = [
            (Some("queued"), json!({"agent_id": format!("agent-{job}"), "region": "eu-central-1"})),
            (Some("provisioning"), json!({})),
        ];
        first
            .into_iter()
            .chain(std::iter::repeat_n((None, json!({})), heartbeats))
            .chain([last])
            .enumerate()
            .map(move |(index, (status, mut fields))| {
                let event_id = format!("{}-{job}-{index}", self.prefix);
                fields["job_id"] = self.job_id(job).into();
                fields["event_id"] = event_id.clone().into();
                match status {
                    Some(status) => fields["status"] = status.into(),
                    None => fields["type"] = "heartbeat".into(),
                }
                if self.padding > 0 {
                    fields["padding"] = "x".repeat(self.padding).into();
                }
                // Whoever creates the job knows no run yet.
                if status != Some("queued") {
                    fields["workflow_run_id"] = (1_000_000 + job).to_string().into();
                    fields["run_attempt"] = 1.into();
                }
                (Sent { event_id, status }, fields)
            })
    }

    fn job_id(&self, job: usize) -> String {
        format!("{}-{job}", self.prefix)
    }

    fn sign(&self, fields: &mut serde_json::Value) -> (Bytes, String) {
        fields["sent_at"] = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true).into();
        let body = fields.to_string();
        let signature = sign(&self.secret, body.as_bytes());
        (body.into(), signature)
    }
}

/// A load that is being sent. Dropping it stops the senders.
#[derive(Debug)]
pub struct Running {
    senders: JoinSet<Report>,
    shared: Arc<Shared>,
    started: Instant,
}

/// What all senders of a load share.
#[derive(Debug)]
struct Shared {
    load: Load,
    targets: Mutex<Vec<SocketAddr>>,
    next_job: AtomicUsize,
    accepted: AtomicU64,
    retries: AtomicU64,
    setbacks: Mutex<BTreeMap<String, u64>>,
}

impl Running {
    /// How many callbacks have been accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many requests were second or later tries so far.
    pub fn retries(&self) -> u64 {
        self.shared.retries.load(Ordering::Relaxed)
    }

    /// How often there was which status other than 200, or, in words, no answer.
    pub fn setbacks(&self) -> BTreeMap<String, u64> {
        lock(&self.shared.setbacks).clone()
    }

    /// Changes the ingresses that callbacks are sent to from now on.
    pub fn retarget(&self, targets: Vec<SocketAddr>) {
        assert!(!targets.is_empty(), "a load needs a target");
        *lock(&self.shared.targets) = targets;
    }

    /// Begins no further job; those that have begun are sent to their ends.
    pub fn stop(&self) {
        self.shared.next_job.store(usize::MAX / 2, Ordering::Relaxed);
    }

    /// Waits until everything has been sent.
    pub async fn finish(mut self) -> Result<Report> {
        let mut report = Report::default();
        while let Some(sent) = self.senders.join_next().await {
            let sent = sent.context("a sender of the load")?;
            report.jobs.extend(sent.jobs);
            report.latencies.extend(sent.latencies);
            report.waits.extend(sent.waits);
        }
        report.retries = self.retries();
        report.elapsed = self.started.elapsed();
        report.jobs.sort_by_key(|job| job.number);
        report.latencies.sort_unstable();
        report.waits.sort_unstable();
        Ok(report)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One callback, as the sender knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its `event_id`.
    pub event_id: String,
    /// Its `status`; none for a heartbeat.
    pub status: Option<&'static str>,
}

/// What became of a job's callbacks.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its number in the load.
    pub number: usize,
    /// Its `job_id`.
    pub job_id: String,
    /// The callbacks that were accepted, in the order in which they were sent.
    pub accepted: Vec<Sent>,
    /// How many of its requests were signed anew, with another time.
    pub signed_anew: u64,
    /// The callback that the job ended with because it was refused or tried too often, and why.
    pub given_up: Option<(Sent, String)>,
}

impl Job {
    /// The status that the job must end with, by what was accepted.
    pub fn last_status(&self) -> Option<&'static str> {
        self.accepted.iter().rev().find_map(|sent| sent.status)
    }

    /// How many heartbeats were accepted.
    pub fn heartbeats(&self) -> u64 {
        self.accepted.iter().filter(|sent| sent.status.is_none()).count() as u64
    }
}

/// What became of a load.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Every job, by its number.
    pub jobs: Vec<Job>,
    /// How many requests were second or later tries.
    pub retries: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    latencies: Vec<Duration>,
    waits: Vec<Duration>,
}

impl Report {
    /// How many callbacks were accepted.
    pub fn accepted(&self) -> usize {
        self.jobs.iter().map(|job| job.accepted.len()).sum()
    }

    /// Accepted callbacks per second.
    pub fn rate(&self) -> f64 {
        self.accepted() as f64 / self.elapsed.as_secs_f64()
    }

    /// How long an accepting answer took at most in this share (0 to 1) of the cases.
    pub fn latency(&self, share: f64) -> Duration {
        quantile(&self.latencies, share).copied().unwrap_or_default()
    }

    /// How long callbacks took at most in this share (0 to 1) of the cases, from the first try to
    /// the accepting answer.
    pub fn wait(&self, share: f64) -> Duration {
        quantile(&self.waits, share).copied().unwrap_or_default()
    }
}

struct Sender {
    shared: Arc<Shared>,
    /// The place among the targets of the one that is next.
    turn: usize,
    clients: HashMap<SocketAddr, Client>,
    report: Report,
}

impl Sender {
    async fn send_all(mut self) -> Report {
        loop {
            let number = self.shared.next_job.fetch_add(1, Ordering::Relaxed);
            if number >= self.shared.load.jobs {
                return self.report;
            }
            let job = self.send_job(number).await;
            self.report.jobs.push(job);
        }
    }

    async fn send_job(&mut self, number: usize) -> Job {
        let shared = Arc::clone(&self.shared);
        let load = &shared.load;
        let job_id = load.job_id(number);
        let mut job = Job { number, job_id, accepted: Vec::new(), signed_anew: 0, given_up: None };
        for (sent, mut fields) in load.callbacks(number) {
            if load.reconnect {
                self.clients.clear();
            }
            let started = Instant::now();
            match self.send(&mut fields, &mut job.signed_anew).await {
                Ok(()) => {
                    self.report.waits.push(started.elapsed());
                    shared.accepted.fetch_add(1, Ordering::Relaxed);
                    job.accepted.push(sent);
                }
                Err(reason) => {
                    job.given_up = Some((sent, reason));
                    break;
                }
            }
            self.turn += usize::from(load.rotate);
            if !load.rest.is_zero() {
                tokio::time::sleep(load.rest).await;
            }
        }
        job
    }

    /// Tries until the callback is accepted, as `curl --retry` would, or returns why it never will.
    async fn send(
        &mut self,
        fields: &mut serde_json::Value,
        signed_anew: &mut u64,
    ) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        let load = &shared.load;
        let mut reason = String::new();
        let (mut body, mut signature) = load.sign(fields);
        for attempt in 0..load.max_tries {
            if attempt > 0 {
                shared.retries.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(load.retry_pause).await;
                if load.sign_anew {
                    *signed_anew += 1;
                    (body, signature) = load.sign(fields);
                }
            }
            let headers = [("content-type", "application/json"), ("x-signature", &signature)];
            let started = Instant::now();
            let body = body.clone();
            match self.client().send(Method::POST, CALLBACK_PATH, &headers, body).await {
                Ok(Answer { status: 200, .. }) => {
                    self.report.latencies.push(started.elapsed());
                    return Ok(());
                }
                Ok(answer) => {
                    self.set_back(answer.status.to_string());
                    reason = format!("{}: {}", answer.status, answer.text());
                    if !matches!(answer.status, 408 | 429 | 500 | 502 | 503 | 504) {
                        break;
                    }
                    self.turn += usize::from(load.rotate);
                }
                Err(error) => {
                    reason = format!("{error:#}");
                    self.set_back(reason.clone());
                    self.turn += 1;
                }
            }
        }
        Err(reason)
    }

    fn set_back(&self, kind: String) {
        *lock(&self.shared.setbacks).entry(kind).or_default() += 1;
    }

    /// The connection to the target whose turn it is.
    fn client(&mut self) -> &mut Client {
        let targets = lock(&self.shared.targets);
        let target = targets[self.turn % targets.len()];
        self.clients.entry(target).or_insert_with(|| Client::new(target))
    }
}
