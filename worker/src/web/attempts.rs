//! Slows down whoever guesses the token: how often wrong ones may come from an address.
//!
//! Beyond its limit no token from there is compared, right or wrong: otherwise a guess would still
//! cost nothing. Behind a proxy all have the address of the proxy, so the one that it forwards has a
//! narrow limit of its own, within a wide one for the connection's, which nobody can choose freely.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use shared::listener::{forwarded_for, last_forwarded};
use shared::telemetry::Limited;
use tokio::time::Instant;

use super::metrics;

/// The limit of one client.
const CLIENT: Limit = Limit { burst: 20, every: Duration::from_secs(3) };
/// The limit of all clients of one proxy.
const PEER: Limit = Limit { burst: 200, every: Duration::from_millis(300) };
/// How many addresses are remembered for each limit.
const MAX_ADDRESSES: usize = 1024;
/// How often a wrong token is logged.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// So many at once, and then one in this time.
#[derive(Debug, Clone, Copy)]
struct Limit {
    burst: u32,
    every: Duration,
}

/// Wrong tokens of the recent past.
#[derive(Debug)]
pub(super) struct Attempts {
    clients: Mutex<Table<(IpAddr, Option<IpAddr>)>>,
    peers: Mutex<Table<IpAddr>>,
    tell: Limited,
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    peer: IpAddr,
    client: Option<IpAddr>,
}

impl Origin {
    pub(super) fn new(peer: IpAddr, headers: &HeaderMap) -> Self {
        Self { peer: network(peer), client: last_forwarded(headers).map(network) }
    }
}

/// Whoever has one IPv6 address has a whole network of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

impl Attempts {
    pub(super) fn new() -> Self {
        let clients = Mutex::new(Table::new(CLIENT));
        Self { clients, peers: Mutex::new(Table::new(PEER)), tell: Limited::new(TELL_EVERY) }
    }

    /// Whether a token from there may be compared; otherwise how long it must wait.
    pub(super) fn admit(&self, from: Origin) -> Result<(), Duration> {
        let now = Instant::now();
        let client = lock(&self.clients).wait(&(from.peer, from.client), now);
        let wait = client.max(lock(&self.peers).wait(&from.peer, now));
        if wait.is_zero() {
            return Ok(());
        }
        metrics::refused("too_many");
        Err(wait)
    }

    /// A token from there was wrong.
    pub(super) fn failed(&self, from: Origin, peer: IpAddr, headers: &HeaderMap) {
        let now = Instant::now();
        lock(&self.clients).count((from.peer, from.client), now);
        lock(&self.peers).count(from.peer, now);
        metrics::refused("wrong_token");
        let Some(not_logged) = self.tell.admit() else { return };
        let forwarded_for = forwarded_for(headers);
        tracing::warn!(
            address = %peer,
            forwarded_for,
            not_logged,
            "a wrong token was shown to the console"
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing can panic while it is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For each address the moment at which nothing of its attempts counts any more.
#[derive(Debug)]
struct Table<K> {
    limit: Limit,
    forgiven_at: HashMap<K, Instant>,
}

impl<K: Copy + Eq + std::hash::Hash> Table<K> {
    fn new(limit: Limit) -> Self {
        Self { limit, forgiven_at: HashMap::new() }
    }

    fn wait(&self, key: &K, now: Instant) -> Duration {
        let Limit { burst, every } = self.limit;
        let Some(forgiven_at) = self.forgiven_at.get(key) else { return Duration::ZERO };
        let rest = forgiven_at.saturating_duration_since(now);
        (rest + every).saturating_sub(every * burst)
    }

    fn count(&mut self, key: K, now: Instant) {
        if self.forgiven_at.len() >= MAX_ADDRESSES && !self.forgiven_at.contains_key(&key) {
            self.forgiven_at.retain(|_, at| *at > now);
            let soonest = self.forgiven_at.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key);
            if self.forgiven_at.len() >= MAX_ADDRESSES
                && let Some(soonest) = soonest
            {
                self.forgiven_at.remove(&soonest);
            }
        }
        let at = self.forgiven_at.entry(key).or_insert(now);
        *at = (*at).max(now) + self.limit.every;
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use tokio::time::advance;

    use super::*;

    fn from(peer: [u8; 4], client: Option<&str>) -> (Origin, IpAddr, HeaderMap) {
        let mut headers = HeaderMap::new();
        if let Some(client) = client {
            headers.insert("x-forwarded-for", HeaderValue::from_str(client).unwrap());
        }
        (Origin::new(peer.into(), &headers), peer.into(), headers)
    }

    /// How many of so many wrong tokens were compared.
    fn compared(attempts: &Attempts, count: u32, peer: [u8; 4], client: Option<&str>) -> u32 {
        let (origin, peer, headers) = from(peer, client);
        (0..count)
            .filter(|_| attempts.admit(origin).is_ok())
            .inspect(|_| attempts.failed(origin, peer, &headers))
            .count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_slowed_down_and_others_are_not() {
        let attempts = Attempts::new();
        assert_eq!(compared(&attempts, 300, [10, 0, 0, 1], None), 20);
        let wait = attempts.admit(from([10, 0, 0, 1], None).0).unwrap_err();
        assert_eq!(wait, Duration::from_secs(3));
        assert_eq!(compared(&attempts, 300, [10, 0, 0, 2], None), 20);
        advance(Duration::from_secs(3)).await;
        assert_eq!(compared(&attempts, 300, [10, 0, 0, 1], None), 1);
        advance(Duration::from_secs(3600)).await;
        assert_eq!(compared(&attempts, 300, [10, 0, 0, 1], None), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_proxy_each_client_has_its_limit_and_an_invented_one_gains_nothing() {
        let attempts = Attempts::new();
        let proxy = [10, 0, 0, 9];
        assert_eq!(compared(&attempts, 300, proxy, Some("1.1.1.1")), 20);
        assert_eq!(compared(&attempts, 300, proxy, Some("9.9.9.9, 1.1.1.1")), 0);
        assert_eq!(compared(&attempts, 1, proxy, Some("1.1.1.2")), 1);
        let invented: u32 = (0..100)
            .map(|n| compared(&attempts, 10, [10, 0, 0, 1], Some(&format!("1.1.2.{n}"))))
            .sum();
        assert_eq!(invented, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_addresses_is_one_and_the_table_is_bounded() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:10.0.0.1"), "10.0.0.1");
        let mut table = Table::new(CLIENT);
        let now = Instant::now();
        for _ in 0..20 {
            table.count(u64::MAX, now);
        }
        for n in 0..10_000 {
            table.count(n, now);
            assert!(table.forgiven_at.len() <= MAX_ADDRESSES);
        }
        assert!(!table.wait(&u64::MAX, now).is_zero(), "whoever waits longest is remembered");
    }
}
