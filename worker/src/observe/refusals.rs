//! What the ingresses refused. Only they know, and export it as metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use hyper::StatusCode;
use serde::Serialize;
use shared::ops::client;
use tokio::net::lookup_host;
use tokio::time::timeout;
use utoipa::ToSchema;

/// How long an ingress may take to answer.
const LIMIT: Duration = Duration::from_secs(1);
/// The most addresses that are asked.
const MOST: usize = 32;

/// What the ingresses accepted and refused since each of them started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Refusals {
    /// The ingresses that answered; empty when `INGRESS_OPS` names none.
    pub ingresses: Vec<String>,
    /// How many callbacks they accepted.
    pub accepted: u64,
    /// How many requests they refused, by reason; reasons with 0 are left out.
    pub by_reason: BTreeMap<String, u64>,
}

/// Asks every address of each of these names. The second part names what did not answer.
pub(super) async fn ask(names: &[String]) -> (Refusals, Vec<String>) {
    let found = join_all(names.iter().map(|name| find(name))).await;
    let mut problems = Vec::new();
    let mut addresses = Vec::new();
    for found in found {
        match found {
            Ok(found) => addresses.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    addresses.sort();
    addresses.dedup();
    addresses.truncate(MOST);
    let mut refusals = Refusals::default();
    for answer in join_all(addresses.into_iter().map(page)).await {
        match answer {
            Ok((address, page)) => refusals.add(address, &page),
            Err(problem) => problems.push(problem),
        }
    }
    (refusals, problems)
}

async fn find(name: &str) -> Result<Vec<SocketAddr>, String> {
    match timeout(LIMIT, lookup_host(name)).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(format!("ACK-413: the ingress {name} is not found: {error}")),
        Err(_) => Err(format!("ACK-413: the ingress {name} is not found in time")),
    }
}

async fn page(address: SocketAddr) -> Result<(SocketAddr, String), String> {
    match timeout(LIMIT, client::get(address, "/metrics")).await {
        Ok(Ok((StatusCode::OK, page))) => Ok((address, page)),
        Ok(Ok((status, _))) => Err(format!("ACK-413: the ingress at {address} answers {status}")),
        Ok(Err(error)) => {
            Err(format!("ACK-413: the ingress at {address} does not answer: {error}"))
        }
        Err(_) => Err(format!("ACK-413: the ingress at {address} does not answer in time")),
    }
}

impl Refusals {
    /// Adds the figures of a page of metrics.
    fn add(&mut self, address: SocketAddr, page: &str) {
        self.ingresses.push(address.to_string());
        for line in page.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            if series == "ackline_ingress_accepted_total" {
                self.accepted = self.accepted.saturating_add(value);
            }
            let reason = series
                .strip_prefix("ackline_ingress_refused_total{reason=\"")
                .and_then(|rest| rest.strip_suffix("\"}"));
            if let Some(reason) = reason.filter(|_| value > 0) {
                let sum = self.by_reason.entry(reason.to_owned()).or_default();
                *sum = sum.saturating_add(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_added_up() {
        let mut refusals = Refusals::default();
        let page = "# TYPE ackline_ingress_refused_total counter\n\
                    ackline_ingress_refused_total{reason=\"malformed\"} 2\n\
                    ackline_ingress_refused_total{reason=\"stream_full\"} 0\n\
                    ackline_ingress_accepted_total 40\n\
                    ackline_ingress_publish_seconds_sum 0.5\n\nnonsense\n";
        for port in [1, 2] {
            refusals.add(SocketAddr::from(([127, 0, 0, 1], port)), page);
        }
        assert_eq!(refusals.accepted, 80);
        assert_eq!(refusals.by_reason, BTreeMap::from([("malformed".to_owned(), 4)]));
        assert_eq!(refusals.ingresses, ["127.0.0.1:1", "127.0.0.1:2"]);
    }

    #[tokio::test]
    async fn who_does_not_answer_is_named() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let names = [nobody.to_string(), "no such name:1".to_owned()];
        let (refusals, problems) = ask(&names).await;
        assert_eq!(refusals, Refusals::default());
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains(&nobody.to_string())));
    }
}
