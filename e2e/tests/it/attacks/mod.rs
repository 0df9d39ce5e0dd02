//! Attackers who hold the door's places for nothing, while honest senders go on sending.
//!
//! The long ones attack with programs that others wrote for it, and are marked `#[ignore]`:
//! `make test-door` runs all of them.

mod attacker;
mod balancer;
mod full_load;
mod observed;
mod programs;
mod siege;

use attacker::Attack;
use e2e::stack::{CALLBACK_PATH, Stack};
use programs::SlowHttpTest;
use rstest::rstest;
use siege::Siege;

/// More places than attackers: only the limits on time end them.
const ROOMY: [(&str, &str); 2] = [("MAX_CONNECTIONS", "4096"), ("MAX_IN_FLIGHT", "1024")];
/// Fewer places than attackers.
const NARROW: [(&str, &str); 2] = [("MAX_CONNECTIONS", "100"), ("MAX_IN_FLIGHT", "40")];

/// Every limit on time is so short that an attack reaches it within seconds.
async fn stack(places: [(&str, &str); 2]) -> Stack {
    let mut builder = Stack::builder();
    for (name, value) in places {
        builder = builder.env(name, value);
    }
    for name in
        ["HEADER_TIMEOUT", "BODY_TIMEOUT", "SILENCE_TIMEOUT", "IDLE_TIMEOUT", "WRITE_TIMEOUT"]
    {
        builder = builder.env(name, "2s");
    }
    builder.start().await.unwrap()
}

/// All kinds of attackers at once.
#[rstest]
#[case::with_room_for_all(ROOMY)]
#[case::in_the_places_of_slow_ones(NARROW)]
#[tokio::test]
async fn honest_senders_go_on(#[case] places: [(&str, &str); 2]) {
    let stack = stack(places).await;
    let siege = Siege::begin(&stack).await;
    let attackers: Vec<_> =
        Attack::ALL.into_iter().map(|attack| (attack, attack.begin(stack.ingress.addr))).collect();
    for (attack, attackers) in &attackers {
        // The attackers never give up, so it is ingress that ends them.
        let what = format!("ingress has ended every attacker with {attack:?}");
        stack.wait_until(&what, crate::expect::SOON, async || attackers.open() == 0).await;
    }
    let name = "slow heads, bodies and readers at once";
    siege.end(name, Attack::CONNECTIONS, places).await;
}

#[rstest]
#[case::slow_heads(SlowHttpTest::Heads)]
#[case::slow_bodies(SlowHttpTest::Bodies)]
#[case::slow_readers(SlowHttpTest::Readers)]
#[tokio::test]
#[ignore = "long: make test-door"]
async fn honest_senders_go_on_beside_slowhttptest(#[case] mode: SlowHttpTest) {
    for places in [ROOMY, NARROW] {
        let stack = stack(places).await;
        let siege = Siege::begin(&stack).await;
        let url = format!("http://{}{CALLBACK_PATH}", stack.ingress.addr);
        let attack = mode.begin(&url, stack.dir()).unwrap();
        siege.is_over(&attack).await;
        siege.end(mode.name(), SlowHttpTest::CONNECTIONS, places).await;
    }
}
