//! The program `ackline`.

use std::process::ExitCode;

use cli::Bars;
use cli::commands::watch::Unfinished;
use shared::settings::Invalid;
use shared::telemetry;

#[tokio::main]
async fn main() -> ExitCode {
    let bars = Bars::on_stderr();
    let beside = bars.clone();
    telemetry::init_logs_to(move || beside.beside());
    let done = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli::run(cli.command, &bars).await,
        Err(invalid) => Err(invalid.into()),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    if cli::is_closed_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    #[expect(clippy::print_stderr, reason = "the last words of a command are for its caller")]
    {
        eprintln!("ackline: {error:#}");
    }
    if error.is::<Invalid>() {
        ExitCode::from(2)
    } else if error.is::<Unfinished>() {
        ExitCode::from(3)
    } else {
        ExitCode::FAILURE
    }
}
