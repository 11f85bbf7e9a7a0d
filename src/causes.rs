//! This file tells an error with what is behind it, on one line.

use std::error::Error;

/// The message of an error and those of its causes. One that repeats what stands there already, as drivers' errors
/// do with their sources, is left out.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    for cause in std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source()) {
        let cause = cause.to_string();
        if !told.ends_with(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{message}")]
    struct Told {
        message: &'static str,
        source: Option<Box<Told>>,
    }

    fn told(messages: &[&'static str]) -> String {
        let nested = messages.iter().rev().fold(None, |source, message| Some(Box::new(Told { message, source })));
        with_causes(&*nested.expect("there is one"))
    }

    #[test]
    fn causes_follow_in_order_and_none_is_said_twice() {
        assert_eq!(told(&["no store"]), "no store");
        assert_eq!(told(&["no store", "no connection", "refused"]), "no store: no connection: refused");
        assert_eq!(
            told(&["no store: no answer: refused", "no answer: refused", "refused"]),
            "no store: no answer: refused"
        );
    }
}
