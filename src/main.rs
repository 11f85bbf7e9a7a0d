//! This file is the program's thin edge: process-wide set-up, one message, one exit code.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use essaim::daemon::cli;
use essaim::daemon::failure::{Failure, told};

fn main() -> ExitCode {
    // One TLS provider for the whole process. It can only be there already if something above this line installs one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match cli::parse(std::env::args_os()) {
        Ok(invocation) => run(invocation).map_or_else(|error| report(&error), |()| ExitCode::SUCCESS),
        Err(answer) => {
            // Help and usage go where they belong; a reader that went away is no error.
            let _ = answer.print();
            ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(2))
        }
    }
}

fn run(invocation: cli::Invocation) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    let result = runtime.block_on(invocation.run());
    // Whatever still runs was given its time by the drain.
    runtime.shutdown_background();
    Ok(result?)
}

fn report(error: &anyhow::Error) -> ExitCode {
    let failure = error.downcast_ref::<Failure>();
    let code = failure.map_or(1, Failure::exit_code);
    if code != 0 {
        let mut stderr = std::io::stderr();
        let _ = writeln!(stderr, "error: {}", told(error.as_ref()));
        if let Some(advice) = failure.and_then(Failure::advice) {
            let _ = writeln!(stderr, "hint: {advice}");
        }
    }
    ExitCode::from(code)
}
