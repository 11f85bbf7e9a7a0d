//! This file asks a person whether a database that is not empty is meant.

use std::io::{BufRead, IsTerminal, Write};

use tokio_util::sync::CancellationToken;

use super::target::Target;

/// Whether the load may go on a log that has events; asked only on a terminal, and only where there are any. Without
/// an answer it may not.
pub(crate) async fn to_existing_events(target: &dyn Target, interrupt: &CancellationToken) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    // A target that cannot be asked is told of when the run begins.
    let Ok(head) = target.head().await else { return false };
    if head.0 == 0 {
        return false;
    }
    let question = format!("{} is not empty: its log has {head} events. Put load on it? [y/N] ", target.describe());
    // A thread of its own, because a runtime would wait at its end for one of its own that still reads.
    let (answered, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || answered.send(ask(&question)));
    tokio::select! {
        biased;
        () = interrupt.cancelled() => false,
        answer = answer => answer.unwrap_or(false),
    }
}

fn ask(question: &str) -> bool {
    let mut stderr = std::io::stderr();
    let mut line = String::new();
    let asked = write!(stderr, "{question}").and_then(|()| stderr.flush());
    asked.and_then(|()| std::io::stdin().lock().read_line(&mut line)).is_ok() && is_yes(&line)
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        assert_eq!(["y\n", "YES\n", " yes "].map(is_yes), [true; 3]);
        assert_eq!(["", "\n", "n\n", "yesterday\n"].map(is_yes), [false; 4]);
    }
}
