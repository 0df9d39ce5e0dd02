//! Honest senders during an attack, and what it costs them and ingress.

use std::time::Duration;

use e2e::check;
use e2e::load::{Load, Running};
use e2e::process::Process;
use e2e::stack::Stack;

use super::observed::{Held, Watch};
use crate::expect::*;

/// Honest senders of each kind.
const SENDERS: usize = 4;
/// More than ingress has beside its senders': listeners, operators, the broker.
const OWN_SOCKETS: usize = 24;
/// How much more memory an attack may cost.
const MORE_KIB: u64 = 64 * 1024;

/// An attack is going on, or about to.
pub(super) struct Siege<'a> {
    stack: &'a Stack,
    /// Those who keep their connection, and those who open one for each callback.
    honest: [Running; 2],
    before: Held,
    watch: Watch,
}

impl<'a> Siege<'a> {
    /// Lets honest senders begin.
    pub(super) async fn begin(stack: &'a Stack) -> Self {
        let honest = [("kept", false), ("anew", true)].map(|(prefix, reconnect)| {
            let mut load = Load::new(stack.ingress.addr, stack.secret(), usize::MAX / 4);
            load.prefix = prefix.to_owned();
            load.reconnect = reconnect;
            load.connections = SENDERS;
            load.rest = Duration::from_millis(5);
            load.max_tries = 10_000;
            load.retry_pause = Duration::from_millis(50);
            // The very same callback again, so that heartbeats can be counted, too.
            load.sign_anew = false;
            load.start()
        });
        let siege = Self {
            stack,
            honest,
            before: Held::default(),
            watch: Watch::begin(stack.ingress.process.pid()),
        };
        siege.goes_on().await;
        Self { before: Held::by(stack.ingress.process.pid()), ..siege }
    }

    async fn goes_on(&self) {
        let targets = self.honest.each_ref().map(|running| running.accepted() + 100);
        let is_reached = || {
            let mut running = self.honest.iter().zip(targets);
            running.all(|(running, target)| running.accepted() >= target)
        };
        self.stack.wait_until("honest senders go on", SOON, async || is_reached()).await;
    }

    fn has_recovered(&self) -> bool {
        let sockets = Held::by(self.stack.ingress.process.pid()).sockets;
        sockets <= self.before.sockets + SENDERS
    }

    /// Waits until ingress is rid of an attack by a program.
    pub(super) async fn is_over(&self, attacker: &Process) {
        let log = attacker.log();
        let has_begun = || self.watch.most().sockets >= self.before.sockets + 50;
        self.stack
            .wait_until("the attack has begun", SOON, async || {
                has_begun() || !attacker.is_running()
            })
            .await;
        assert!(has_begun(), "it ended by itself\n{}", log.tail(40));
        self.stack
            .wait_until("ingress is rid of the attackers", SOON, async || self.has_recovered())
            .await;
        let is_ended = log.find_line(|line| line.contains("No open connections left")).is_some();
        assert!(attacker.is_running() || is_ended, "it gave up by itself\n{}", log.tail(40));
    }

    /// Lets the honest senders finish, and counts.
    pub(super) async fn end(self, attack: &str, attackers: usize, places: [(&str, &str); 2]) {
        self.stack
            .wait_until("ingress has as many connections as before", SOON, async || {
                self.has_recovered()
            })
            .await;
        self.goes_on().await;
        let after = Held::by(self.stack.ingress.process.pid());
        let Self { stack, honest, before, watch } = self;
        let most = watch.most();
        drop(watch);

        println!(
            "{attack}: {attackers} attackers, {}; memory {} KiB before, {} at most, {} after; at \
             most {} sockets",
            places.map(|(name, value)| format!("{name}={value}")).join(" "),
            before.memory_kib,
            most.memory_kib,
            after.memory_kib,
            most.sockets,
        );
        let mut sent = Vec::new();
        for (running, kind) in honest.into_iter().zip(["kept connections", "new connections"]) {
            running.stop();
            let report = running.finish().await.unwrap();
            println!(
                "  {kind}: {} callbacks accepted, {} tries repeated; accepted after p50 {:.1?}, p99 \
                 {:.1?}, at most {:.1?}",
                report.accepted(),
                report.retries,
                report.wait(0.5),
                report.wait(0.99),
                report.wait(1.0),
            );
            sent.extend(report.jobs);
        }
        assert!(most.memory_kib < before.memory_kib + MORE_KIB, "{most:?}, before {before:?}");
        let allowed = places.iter().find(|(name, _)| *name == "MAX_CONNECTIONS");
        let allowed: usize = allowed.unwrap().1.parse().unwrap();
        assert!(most.sockets <= allowed + OWN_SOCKETS, "{most:?}, {allowed} allowed");

        let db = stack.db().await.unwrap();
        wait_until_applied(stack, &db).await;
        let findings = check::exactly_once(&db, &sent, &[]).await.unwrap();
        assert!(findings.is_empty(), "{findings}");
        assert_audited(stack).await;
    }
}
