//! What must hold of a database when everything is applied, whatever happened on the way.

use std::collections::{HashMap, HashSet};
use std::fmt;

use anyhow::Result;
use async_nats::jetstream;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::ClusterInfo;
use sea_orm::{DatabaseConnection, DbErr, EntityTrait, QueryOrder};
use serde::Serialize;
use serde_json::Value;
use worker::entity::job_event::Kind;
use worker::entity::{dead_letter, job, job_event, partition};

use crate::cluster::ANSWER_LIMIT;
use crate::load;

/// All jobs, by id.
pub async fn jobs(db: &DatabaseConnection) -> Result<Vec<job::Model>, DbErr> {
    job::Entity::find().order_by_asc(job::Column::Id).all(db).await
}

/// All events, by position.
pub async fn events(db: &DatabaseConnection) -> Result<Vec<job_event::Model>, DbErr> {
    job_event::Entity::find()
        .order_by_asc(job_event::Column::Partition)
        .order_by_asc(job_event::Column::Seq)
        .order_by_asc(job_event::Column::Idx)
        .all(db)
        .await
}

/// All dead letters, by position.
pub async fn dead_letters(db: &DatabaseConnection) -> Result<Vec<dead_letter::Model>, DbErr> {
    dead_letter::Entity::find()
        .order_by_asc(dead_letter::Column::Partition)
        .order_by_asc(dead_letter::Column::Seq)
        .order_by_asc(dead_letter::Column::Idx)
        .all(db)
        .await
}

/// All partitions, by number.
pub async fn partitions(db: &DatabaseConnection) -> Result<Vec<partition::Model>, DbErr> {
    partition::Entity::find().order_by_asc(partition::Column::Partition).all(db).await
}

/// The last sequence of every partition's stream.
pub async fn stream_ends(client: async_nats::Client) -> Result<Vec<u64>> {
    let jetstream = jetstream::new(client);
    let mut ends = Vec::new();
    for partition in shared::stream::find_open(&jetstream, None).await?.all() {
        let stream = jetstream.get_stream(partition.stream()).await?;
        ends.push(stream.cached_info().state.last_sequence);
    }
    Ok(ends)
}

/// Whether each stream has a leader, and all its copies, one on each server, are up to date.
pub async fn is_whole(client: async_nats::Client, servers: usize) -> Result<bool> {
    let context = ContextBuilder::new().timeout(ANSWER_LIMIT).build(client);
    // Each by its name, because not everybody may list them.
    for partition in shared::stream::find_open(&context, None).await?.all() {
        let stream = context.get_stream(partition.stream()).await?;
        let is_whole = |cluster: &ClusterInfo| {
            cluster.leader.is_some()
                && cluster.replicas.len() + 1 == servers
                && cluster.replicas.iter().all(|copy| copy.current && !copy.offline)
        };
        let cluster = stream.cached_info().cluster.as_ref();
        if servers > 1 && !cluster.is_some_and(is_whole) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether every stream is applied to this end of it.
pub async fn is_applied(db: &DatabaseConnection, ends: &[u64]) -> Result<bool, DbErr> {
    let rows = partitions(db).await?;
    let is_applied = |(row, end): (&partition::Model, &u64)| {
        u64::try_from(row.applied_seq).is_ok_and(|applied| applied == *end)
    };
    Ok(rows.len() == ends.len() && rows.iter().zip(ends).all(is_applied))
}

/// What is not as it must be; each finding is a line for people.
#[derive(Debug, Default)]
pub struct Findings {
    /// Accepted callbacks that have taken no effect.
    pub lost: Vec<String>,
    /// Callbacks that have taken effect more than once.
    pub repeated: Vec<String>,
    /// Jobs whose callbacks have taken effect in another order.
    pub reordered: Vec<String>,
    /// Everything else.
    pub wrong: Vec<String>,
}

impl Findings {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all().all(|(_, findings)| findings.is_empty())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
        let Self { lost, repeated, reordered, wrong } = self;
        [("lost", lost), ("repeated", repeated), ("reordered", reordered), ("wrong", wrong)]
            .into_iter()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, findings) in self.all() {
            for finding in findings {
                writeln!(f, "{kind}: {finding}")?;
            }
        }
        Ok(())
    }
}

/// Compares what senders know to be accepted with what has taken effect. `others` are jobs that
/// are nobody's here.
///
/// A heartbeat that is sent again after an unknown outcome is signed anew, with another time, and
/// counts as another one: there may be as many more of a job's as it has signed anew.
pub async fn exactly_once(
    db: &DatabaseConnection,
    sent: &[load::Job],
    others: &[&str],
) -> Result<Findings, DbErr> {
    let mut jobs: HashMap<String, job::Model> =
        jobs(db).await?.into_iter().map(|job| (job.id.clone(), job)).collect();
    let mut effects: HashMap<String, Vec<Effect>> = HashMap::new();
    let mut events = events(db).await?;
    // A job's order is that of its sequences, in whatever partitions it has been.
    events.sort_by_key(|event| (event.seq, event.idx));
    for event in events {
        // What workers say is not the senders', and a heartbeat leaves an event only when it takes
        // that back; heartbeats are counted. A sender's retry of a callback that was stored, but not
        // answered, is a duplicate.
        let is_status = !matches!(event.kind, Kind::Lost | Kind::Heartbeat);
        if is_status && event.reason.as_deref() != Some("duplicate") {
            let effect = (event.event_id.unwrap_or_default(), word(&event.kind));
            effects.entry(event.job_id).or_default().push(effect);
        }
    }
    let mut dead: HashMap<String, usize> = HashMap::new();
    for job_id in dead_letters(db).await?.into_iter().filter_map(|letter| letter.job_id) {
        *dead.entry(job_id).or_default() += 1;
    }

    let mut findings = Findings::default();
    for sent in sent {
        let id = &sent.job_id;
        let effects = effects.remove(id).unwrap_or_default();
        compare(&mut findings, sent, jobs.remove(id).as_ref(), &effects);
        if let Some(count) = dead.get(id) {
            findings.wrong.push(format!("{id} has {count} dead letters"));
        }
    }
    let unknown = jobs.into_keys().filter(|id| !others.contains(&id.as_str()));
    findings.wrong.extend(unknown.map(|id| format!("{id} is a job that nobody has sent")));
    Ok(findings)
}

/// The id and the status of a callback.
type Effect = (String, String);

fn compare(
    findings: &mut Findings,
    sent: &load::Job,
    job: Option<&job::Model>,
    effects: &[Effect],
) {
    let id = &sent.job_id;
    if let Some((callback, reason)) = &sent.given_up {
        findings.wrong.push(format!("{} was given up: {reason}", callback.event_id));
    }
    let accepted: Vec<Effect> = sent
        .accepted
        .iter()
        .filter_map(|sent| Some((sent.event_id.clone(), sent.status?.to_owned())))
        .collect();
    let known: HashSet<&Effect> = accepted.iter().collect();
    let mut seen = HashSet::new();
    let mut order = Vec::new();
    for effect in effects {
        let (event_id, status) = effect;
        if !known.contains(effect) {
            findings.wrong.push(format!("{event_id} ({status}) of {id} was never accepted"));
        } else if !seen.insert(effect) {
            findings.repeated.push(format!("{event_id} ({status})"));
        } else {
            order.push(effect);
        }
    }
    let lost = accepted.iter().filter(|effect| !seen.contains(effect));
    findings.lost.extend(lost.map(|(event_id, status)| format!("{event_id} ({status})")));
    if accepted.iter().filter(|effect| seen.contains(effect)).ne(order.iter().copied()) {
        findings.reordered.push(format!("{id}: {order:?}"));
    }

    let heartbeats = sent.heartbeats();
    let counted = job.map_or(0, |job| u64::try_from(job.heartbeat_count).unwrap_or_default());
    if counted < heartbeats {
        findings.lost.push(format!("{} of {heartbeats} heartbeats of {id}", heartbeats - counted));
    }
    if counted > heartbeats + sent.signed_anew {
        findings.repeated.push(format!("{} heartbeats of {id}", counted - heartbeats));
    }
    if job.map(|job| word(&job.status)).as_deref() != sent.last_status() {
        findings.wrong.push(format!("{id} is not {:?}: {job:?}", sent.last_status()));
    }
}

/// The word that stands for a value in JSON.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Job, Sent};

    fn found(effects: &[(&str, &str)]) -> Findings {
        let callback = |event_id: &str, status| Sent { event_id: event_id.to_owned(), status };
        let sent = Job {
            number: 0,
            job_id: "a".to_owned(),
            accepted: vec![callback("0", Some("queued")), callback("1", Some("running"))],
            signed_anew: 0,
            given_up: None,
        };
        let effects: Vec<Effect> =
            effects.iter().map(|(id, status)| ((*id).to_owned(), (*status).to_owned())).collect();
        let mut findings = Findings::default();
        compare(&mut findings, &sent, None, &effects);
        // There is no row in this test.
        assert_eq!(findings.wrong.pop().map(|wrong| wrong.contains("is not")), Some(true));
        findings
    }

    #[test]
    fn what_is_lost_repeated_reordered_or_unknown_is_found() {
        let (queued, running) = (("0", "queued"), ("1", "running"));
        let counts = |effects: &[(&str, &str)]| {
            let Findings { lost, repeated, reordered, wrong } = found(effects);
            (lost.len(), repeated.len(), reordered.len(), wrong.len())
        };
        assert_eq!(counts(&[queued, running]), (0, 0, 0, 0));
        assert_eq!(counts(&[queued]), (1, 0, 0, 0));
        assert_eq!(counts(&[queued, queued, running]), (0, 1, 0, 0));
        assert_eq!(counts(&[running, queued]), (0, 0, 1, 0));
        assert_eq!(counts(&[queued, running, ("1", "failed")]), (0, 0, 0, 1));
        assert_eq!(found(&[queued]).to_string(), "lost: 1 (running)\n");
    }
}
