//! Where the streams of a generation begin and end.

use anyhow::Context as _;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Info;
use shared::partition::{Layout, Partition};
use shared::stream::{self, ContractError, has_leader};

use crate::rules::event::micros;
use crate::store::generations::Begin;

/// Where each stream begins.
///
/// # Errors
/// A stream is missing, or is not described by its leader.
pub async fn begins(jetstream: &Context, layout: Layout) -> anyhow::Result<Vec<Begin>> {
    let mut begins = Vec::new();
    for (partition, info) in describe(jetstream, layout).await? {
        let first_seq = i64::try_from(info.config.first_sequence.unwrap_or(1))?.max(1);
        begins.push(Begin { partition, first_seq, created_at: micros(info.created) });
    }
    Ok(begins)
}

/// The last sequence of each stream, which does not move any more if the streams are closed.
///
/// # Errors
/// A stream is missing, or is not described by its leader.
pub async fn ends(jetstream: &Context, layout: Layout) -> anyhow::Result<Vec<i64>> {
    let mut ends = Vec::new();
    for (_, info) in describe(jetstream, layout).await? {
        ends.push(i64::try_from(info.state.last_sequence)?);
    }
    Ok(ends)
}

async fn describe(jetstream: &Context, layout: Layout) -> anyhow::Result<Vec<(Partition, Info)>> {
    let mut infos = Vec::new();
    for partition in layout.all() {
        let name = partition.stream();
        let info = stream::find(jetstream, partition)
            .await
            .with_context(|| format!("the broker does not describe {name}"))?
            .ok_or_else(|| ContractError::Missing(name.clone()))?;
        if !has_leader(&info) {
            return Err(ContractError::NoLeader(name).into());
        }
        infos.push((partition, info));
    }
    Ok(infos)
}
