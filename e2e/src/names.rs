//! A name server for the names of a deployment's own hosts, as Docker has one for containers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, PacketFlag, RCODE, ResourceRecord};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

type Records = Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>;

/// It answers until it is dropped.
#[derive(Debug)]
pub struct Names {
    records: Records,
    task: JoinHandle<()>,
}

impl Names {
    /// Answers on this address.
    ///
    /// # Errors
    /// When it is in use.
    pub async fn serve(address: SocketAddr) -> Result<Self> {
        let failed = || format!("no name server can listen on {address}");
        let socket = UdpSocket::bind(address).await.with_context(failed)?;
        let records = Records::default();
        let task = tokio::spawn(answer_all(socket, Arc::clone(&records)));
        Ok(Self { records, task })
    }

    /// Gives a name one more address.
    pub fn add(&self, name: &str, address: Ipv4Addr) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.entry(name.to_owned()).or_default().push(address);
    }

    /// Takes an address from a name.
    pub fn remove(&self, name: &str, address: IpAddr) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(addresses) = records.get_mut(name) {
            addresses.retain(|known| *known != address);
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_all(socket: UdpSocket, records: Records) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let records = records.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // What is no question gets no answer.
        if let Ok(bytes) = answer(&buffer[..length], &records) {
            let _ = socket.send_to(&bytes, from).await;
        }
    }
}

/// A name that is known has IPv4 addresses, and none of any other kind.
fn answer(
    question: &[u8],
    records: &HashMap<String, Vec<Ipv4Addr>>,
) -> simple_dns::Result<Vec<u8>> {
    let query = Packet::parse(question)?;
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE | PacketFlag::AUTHORITATIVE_ANSWER);
    for question in &query.questions {
        match records.get(&question.qname.to_string()) {
            None => *reply.rcode_mut() = RCODE::NameError,
            Some(addresses) => {
                let record = |address: &Ipv4Addr| {
                    let address = RData::A(A { address: (*address).into() });
                    ResourceRecord::new(question.qname.clone(), CLASS::IN, 1, address)
                };
                let records = addresses.iter().map(record);
                let are_asked = |record: &ResourceRecord<'_>| record.match_qtype(question.qtype);
                reply.answers.extend(records.filter(are_asked));
            }
        }
    }
    reply.questions = query.questions;
    reply.build_bytes_vec_compressed()
}
