//! The program `ackline`.

use std::process::ExitCode;

use cli::commands::watch::Unfinished;
use cli::{Bars, Cli};
use shared::settings::{self, Invalid};
use shared::telemetry;

#[tokio::main]
async fn main() -> ExitCode {
    let bars = Bars::on_stderr();
    let beside = bars.clone();
    telemetry::init_logs_to(move || beside.beside());
    let Err(error) = run(&bars).await else { return ExitCode::SUCCESS };
    if cli::is_closed_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    #[expect(clippy::print_stderr, reason = "the last words of a command are for its caller")]
    {
        eprintln!("ackline: {}", cli::said(&error));
    }
    if error.is::<Invalid>() {
        ExitCode::from(2)
    } else if error.is::<Unfinished>() {
        ExitCode::from(3)
    } else {
        ExitCode::FAILURE
    }
}

async fn run(bars: &Bars) -> anyhow::Result<()> {
    let (cli, problems) = settings::parse_or_exit::<Cli>()?;
    let command = problems.finish(Some(cli.command))?;
    cli::run(command, bars).await
}
