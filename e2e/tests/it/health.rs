//! `ackline-ingress health` and `ackline-worker health`, which containers are watched by.

use e2e::process::Program;
use e2e::stack::Stack;

use crate::expect::*;

/// The exit code, and what was said on standard error.
async fn ask(stack: &Stack, program: &str, ops: &str) -> (Option<i32>, String) {
    let program = Program::new("health", e2e::tools::binary(program).unwrap(), stack.dir());
    let mut process = program.env("OPS_LISTEN", ops).args(["health"]).start().unwrap();
    let code = process.wait(SOON).await.unwrap().code();
    (code, process.log().text())
}

#[tokio::test]
async fn the_process_on_this_machine_says_how_it_is() {
    let mut stack = Stack::builder().partitions(1).start().await.unwrap();
    let programs = [("ackline-ingress", stack.ingress.ops), ("ackline-worker", stack.worker.ops)];
    for (program, ops) in programs {
        assert_eq!(ask(&stack, program, &ops.to_string()).await, (Some(0), String::new()));
        // As the process itself was told, in a container.
        let anywhere = format!("0.0.0.0:{}", ops.port());
        assert_eq!(ask(&stack, program, &anywhere).await, (Some(0), String::new()));
    }

    stack.nats.stop_server().await.unwrap();
    for (program, ops) in programs {
        stack.wait_until("it is not ready", SOON, async || !is_ready(ops).await).await;
        let (code, said) = ask(&stack, program, &ops.to_string()).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(": not ready: ") && said.contains("the broker"), "{said}");
    }
    for (address, why) in [
        ("127.0.0.1:1", "no answer at 127.0.0.1:1: Connection refused"),
        ("localhost:1", "--ops-listen (OPS_LISTEN)"),
    ] {
        let (code, said) = ask(&stack, "ackline-worker", address).await;
        assert!(code != Some(0) && said.contains(why), "{code:?}: {said}");
    }
    // Somebody else's server.
    let (code, said) = ask(&stack, "ackline-ingress", &stack.ingress.addr.to_string()).await;
    assert!(code == Some(1) && said.contains("404 Not Found, which is not Ackline's"), "{said}");
}
