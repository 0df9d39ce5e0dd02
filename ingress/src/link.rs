//! The connection to the broker.
//!
//! Nothing is published while disconnected. async-nats would queue such publishes without bound and
//! send them after it has reconnected, long after their senders got 503. So its clients are kept
//! from reconnecting: a client that loses its connection ends, with everything that it had queued,
//! and a new one is made here.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, Event, connection, jetstream};
use shared::broker::Servers;
use shared::bundle;
use shared::partition::Layout;
use shared::stream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics;

/// How long to wait for one answer of the broker: a confirmation, or a stream's description.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long connecting to any of the servers may take, including name resolution.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often the streams are checked again while they are usable, and while they are not.
const RECHECK_GOOD: Duration = Duration::from_secs(10);
const RECHECK_BAD: Duration = Duration::from_secs(2);
const RECHECK_SILENT: Duration = Duration::from_secs(1);
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// More than there are partitions, each of which waits for one confirmation at a time.
const MAX_UNCONFIRMED: usize = 1024;
/// An address that no connection can reach.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// What is known of the broker.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// Entered at start; left by the first attempt to connect.
    Connecting,
    /// There is no connection, for this reason; new attempts are made until one succeeds.
    Unreachable(String),
    /// There is a connection, but the broker behind it cannot be used, for this reason.
    Unfit(String),
    /// Callbacks can be published. Left the moment the connection is lost.
    Up(Box<Up>),
}

/// A connection that callbacks can be published on.
#[derive(Clone, Debug)]
pub(crate) struct Up {
    /// Waits [`ANSWER_LIMIT`] for each confirmation.
    pub(crate) jetstream: jetstream::Context,
    /// The streams that are open.
    pub(crate) layout: Layout,
    /// The largest bundle that this connection takes, in bytes.
    pub(crate) bundle_limit: usize,
    /// Counts the connections.
    pub(crate) connection: u64,
    /// Has the streams looked at again at once: one of them takes nothing any more.
    pub(crate) recheck: Arc<Notify>,
}

impl Up {
    /// Whether a bundle for the one can be published on the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.connection, self.layout) == (other.connection, other.layout)
    }
}

impl State {
    /// Why callbacks cannot be published, for people.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Self::Connecting => Some("ACK-421: connecting to the broker".into()),
            Self::Unreachable(why) => Some(format!("ACK-422: the broker can't be reached: {why}")),
            Self::Unfit(why) => Some(format!("ACK-423: the broker can't be used: {why}")),
            Self::Up(_) => None,
        }
    }
}

/// The connection, as soon as there is one; none if ingress shuts down.
pub(crate) async fn up(link: &mut watch::Receiver<State>) -> Option<Up> {
    let up = link.wait_for(|state| matches!(state, State::Up(_))).await.ok()?;
    match &*up {
        State::Up(up) => Some(Up::clone(up)),
        State::Connecting | State::Unreachable(_) | State::Unfit(_) => None,
    }
}

/// The broker does not accept messages as large as a callback may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "--max-body-bytes {max_body_bytes} does not fit the broker's max_payload of {max_payload}: \
     a callback needs up to {} bytes beside its body: lower the one, or raise the other",
    bundle::MAX_METADATA_BYTES + bundle::MAX_HEADER_BYTES
)]
pub struct TooSmall {
    max_body_bytes: usize,
    max_payload: usize,
}

/// Keeps the connection.
pub(crate) struct Link {
    servers: Servers,
    state: watch::Sender<State>,
    max_body_bytes: usize,
    /// How long all streams may be without a leader before callbacks are refused: as long as they
    /// would wait for one.
    patience: Duration,
    /// Since when they have been, across connections.
    silent_since: Option<Instant>,
    /// Whether the streams were usable when they were last described.
    sound: bool,
    /// Known from the first usable connection on.
    layout: Option<Layout>,
    connection: u64,
    recheck: Arc<Notify>,
}

impl Link {
    pub(crate) fn new(
        servers: Servers,
        state: watch::Sender<State>,
        max_body_bytes: usize,
        patience: Duration,
    ) -> Self {
        Self {
            servers,
            state,
            max_body_bytes,
            patience,
            silent_since: None,
            sound: false,
            layout: None,
            connection: 0,
            recheck: Arc::default(),
        }
    }

    /// Connects, and connects again, until `stop`.
    ///
    /// # Errors
    /// [`TooSmall`], if there has never been a usable connection: the configuration is wrong.
    /// Later, it is a change at the broker, and this waits for it to be undone.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), TooSmall> {
        let mut pause = RETRY_MIN;
        loop {
            let lost = CancellationToken::new();
            let why = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                connected = connect(&self.servers, lost.clone()) => match connected {
                    Err(why) => why,
                    Ok(client) => {
                        self.connection += 1;
                        tokio::select! {
                            biased;
                            () = stop.cancelled() => {
                                // At shutdown: what is not flushed by then is lost anyway.
                                let _ = timeout(FLUSH_LIMIT, client.flush()).await;
                                return Ok(());
                            }
                            () = lost.cancelled() => {
                                pause = RETRY_MIN;
                                "the connection was lost".to_owned()
                            }
                            ended = self.attend(&client) => ended?,
                        }
                    }
                },
            };
            self.set(State::Unreachable(why));
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(with_jitter(pause)) => {}
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Watches one connection; returns why it can no longer be used.
    async fn attend(&mut self, client: &Client) -> Result<String, TooSmall> {
        // From here on the client cannot reconnect. Nothing was published on it before.
        if let Err(error) = client.set_server_pool(NOWHERE).await {
            return Ok(error.to_string());
        }
        let max_payload = client.server_info().max_payload;
        let small = TooSmall { max_body_bytes: self.max_body_bytes, max_payload };
        let needed = self.max_body_bytes + bundle::MAX_METADATA_BYTES + bundle::MAX_HEADER_BYTES;
        if max_payload < needed {
            if self.layout.is_none() {
                return Err(small);
            }
            self.set(State::Unfit(small.to_string()));
            sleep(RECHECK_BAD).await;
            return Ok(small.to_string());
        }
        let jetstream = ContextBuilder::new()
            .timeout(ANSWER_LIMIT)
            .ack_timeout(ANSWER_LIMIT)
            .max_ack_inflight(MAX_UNCONFIRMED)
            .build(client.clone());
        let bundle_limit = bundle::MAX_BYTES.min(max_payload - bundle::MAX_HEADER_BYTES);
        loop {
            let checked = self.check(&jetstream).await;
            // async-nats drops the event that says so if too many others are queued.
            if client.connection_state() == connection::State::Disconnected {
                return Ok("the connection was lost".to_owned());
            }
            let usable = match checked {
                Ok(layout) => {
                    (self.silent_since, self.sound) = (None, true);
                    Ok((layout, RECHECK_GOOD))
                }
                Err(Unfit::Wrong(why)) => {
                    self.sound = false;
                    Err((why, RECHECK_BAD))
                }
                Err(Unfit::Silent(why)) => match self.bear(&jetstream).await {
                    Some(layout) => {
                        tracing::warn!("{why}");
                        Ok((layout, RECHECK_SILENT))
                    }
                    None => Err((why, RECHECK_SILENT)),
                },
            };
            let pause = match usable {
                Ok((layout, pause)) => {
                    let (jetstream, connection) = (jetstream.clone(), self.connection);
                    let recheck = Arc::clone(&self.recheck);
                    let up = Up { jetstream, layout, bundle_limit, connection, recheck };
                    self.set(State::Up(Box::new(up)));
                    pause
                }
                Err((why, pause)) => {
                    self.set(State::Unfit(why));
                    pause
                }
            };
            // Whoever asks for another look does so at most every `RETRY_MIN`.
            sleep(RETRY_MIN).await;
            let _ = timeout(pause, self.recheck.notified()).await;
        }
    }

    /// Whether callbacks may wait although a stream has no leader, and of which streams. An
    /// election takes seconds, and is no reason to refuse callbacks that can wait for it; nor is a
    /// single stream, while others accept callbacks. But a broker without a majority of its nodes
    /// accepts none, and its connections stay up.
    async fn bear(&mut self, jetstream: &jetstream::Context) -> Option<Layout> {
        let layout = self.layout.filter(|_| self.sound)?;
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        let mut asked: JoinSet<_> = layout
            .all()
            .map(|partition| {
                let jetstream = jetstream.clone();
                async move { stream::find(&jetstream, partition).await }
            })
            .collect();
        while let Some(answered) = asked.join_next().await {
            if matches!(answered, Ok(Ok(Some(info))) if stream::has_leader(&info)) {
                self.silent_since = None;
                return Some(layout);
            }
        }
        (since.elapsed() < self.patience).then_some(layout)
    }

    async fn check(&mut self, jetstream: &jetstream::Context) -> Result<Layout, Unfit> {
        let found = stream::find_open(jetstream, self.layout).await.map_err(|error| {
            let why = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            if error.may_pass() { Unfit::Silent(why) } else { Unfit::Wrong(why) }
        })?;
        // A job's callbacks must stay with one partition, until `ackline move` begins a generation.
        match self.layout {
            Some(known) if known != found && known.generation() >= found.generation() => {
                Err(Unfit::Wrong(format!(
                    "there were {} partitions of generation {} and now there are {} of {}: restart \
                     ingress if that is meant",
                    known.partitions(),
                    known.generation(),
                    found.partitions(),
                    found.generation()
                )))
            }
            _ => {
                self.layout = Some(found);
                Ok(found)
            }
        }
    }

    fn set(&self, state: State) {
        let was = self.state.borrow().reason();
        match (was, state.reason()) {
            (Some(_), None) => tracing::info!(servers = %self.servers, "the broker is up"),
            (was, Some(why)) if was.as_ref() != Some(&why) => {
                tracing::warn!(servers = %self.servers, "{why}");
            }
            _ => {}
        }
        metrics::broker_up(matches!(state, State::Up(_)));
        self.state.send_if_modified(|now| {
            let same = match (&*now, &state) {
                (State::Up(now), State::Up(new)) => now.is_same(new),
                _ => now.reason() == state.reason(),
            };
            *now = state;
            !same
        });
    }
}

/// What a check of the streams found.
enum Unfit {
    Silent(String),
    Wrong(String),
}

/// Connects once; `lost` is cancelled when that connection is lost.
async fn connect(servers: &Servers, lost: CancellationToken) -> Result<Client, String> {
    let options = servers
        .options("ingress")
        // One attempt for each server now; and as many at NOWHERE when the connection is lost,
        // which fail at once and end the client.
        .max_reconnects(servers.count())
        .ignore_discovered_servers()
        .event_callback(move |event| {
            if matches!(event, Event::Disconnected | Event::Closed) {
                lost.cancel();
            }
            async {}
        });
    match timeout(CONNECT_LIMIT, servers.connect_with(options)).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err("connecting took too long".into()),
    }
}

/// A random time between half of a pause and all of it, so that many ingresses do not reconnect at
/// once.
fn with_jitter(pause: Duration) -> Duration {
    let random = (uuid::Uuid::new_v4().as_u128() as u32) >> 16;
    pause / 2 + pause / 2 * random / (1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_the_pause() {
        for _ in 0..100 {
            let pause = with_jitter(RETRY_MAX);
            assert!(pause >= RETRY_MAX / 2 && pause <= RETRY_MAX, "{pause:?}");
        }
    }

    #[tokio::test]
    async fn nothing_can_be_connected_to_nowhere() {
        let nowhere: async_nats::ServerAddr = NOWHERE.parse().unwrap();
        let address = nowhere.socket_addrs().await.unwrap().next().unwrap();
        assert_eq!(address.port(), 0);
        let attempt = tokio::net::TcpStream::connect(address);
        let attempt = timeout(Duration::from_millis(500), attempt).await;
        assert!(attempt.expect("fails at once").is_err());
    }
}
