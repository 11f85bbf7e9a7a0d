//! This file gathers questions to the store: whatever came while the last ones were under way goes together.
//!
//! Cold loads and look-ups of outcomes use it, so that a thousand callers cost a few statements.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::store::StoreError;

struct Question<Q, R> {
    asked: Q,
    reply: oneshot::Sender<Result<R, Arc<StoreError>>>,
}

/// Answers questions in groups.
pub(crate) struct Batcher<Q, R> {
    questions: mpsc::Sender<Question<Q, R>>,
}

impl<Q, R> Clone for Batcher<Q, R> {
    fn clone(&self) -> Self {
        Self { questions: self.questions.clone() }
    }
}

impl<Q: Send + 'static, R: Send + 'static> Batcher<Q, R> {
    /// Starts answering with `answer`: one result a question, in order. At most `max_group` questions go together and
    /// at most `max_open` groups are under way.
    pub(crate) fn start<F, Fut>(max_group: usize, max_open: usize, answer: F) -> Self
    where
        F: Fn(Vec<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<R>, StoreError>> + Send,
    {
        let (questions, mut waiting) = mpsc::channel::<Question<Q, R>>(max_group * 4);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            let open = Arc::new(Semaphore::new(max_open));
            loop {
                let permit = Arc::clone(&open).acquire_owned().await.expect("the semaphore is never closed");
                let mut group = Vec::new();
                if waiting.recv_many(&mut group, max_group).await == 0 {
                    return;
                }
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let (asked, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|q| (q.asked, q.reply)).unzip();
                    settle(answer(asked).await, replies);
                    drop(permit);
                });
            }
        });
        Self { questions }
    }

    /// Asks one question and waits for its answer.
    ///
    /// # Errors
    /// The error of the group it went with.
    pub(crate) async fn ask(&self, asked: Q) -> Result<R, Arc<StoreError>> {
        let (reply, answer) = oneshot::channel();
        let gone = || Arc::new(StoreError::Unavailable { what: "the engine is shutting down", source: None });
        self.questions.send(Question { asked, reply }).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn settle<R>(result: Result<Vec<R>, StoreError>, replies: Vec<oneshot::Sender<Result<R, Arc<StoreError>>>>) {
    // Whoever stopped waiting for an answer does not miss it.
    match result {
        Ok(answers) => {
            debug_assert_eq!(answers.len(), replies.len(), "one answer a question");
            replies.into_iter().zip(answers).for_each(|(reply, answer)| drop(reply.send(Ok(answer))));
        }
        Err(error) => {
            let error = Arc::new(error);
            replies.into_iter().for_each(|reply| drop(reply.send(Err(Arc::clone(&error)))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn what_comes_while_one_group_is_under_way_goes_together() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let batcher = Batcher::start(100, 1, move |asked: Vec<u32>| {
            seen.lock().unwrap().push(asked.len());
            async move {
                tokio::task::yield_now().await;
                Ok(asked.into_iter().map(|n| n * 2).collect())
            }
        });

        let answers = futures::future::join_all((0..50).map(|n| batcher.ask(n))).await;

        let doubled: Vec<u32> = answers.into_iter().map(|answer| answer.unwrap()).collect();
        assert_eq!(doubled, (0..50).map(|n| n * 2).collect::<Vec<_>>());
        assert!(sizes.lock().unwrap().len() < 10, "50 questions went in {:?}", sizes.lock().unwrap());
    }
}
