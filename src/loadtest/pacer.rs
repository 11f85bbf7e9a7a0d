//! This file lets operations begin: closed, by callers who go on at once; open, at moments kept by a thread of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::measure::LATE;
use super::schedule::Moments;
use super::session::{Session, Worker};

/// The pacer sleeps at least so long: what falls into it begins together, each still counted from its own moment.
const SHORTEST_SLEEP: Duration = Duration::from_micros(100);
/// And at most so long, so that it sees soon that the run is over.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

/// Lets so many callers work until the run is over, and waits for all of them.
pub(crate) async fn closed(session: &Arc<Session>, callers: usize) {
    let mut workers = JoinSet::new();
    for _ in 0..callers {
        workers.spawn(session.worker().work());
    }
    workers.join_all().await;
}

/// An open loop under way.
pub(crate) struct Open {
    /// When no further operation began.
    ended: Arc<OnceLock<Instant>>,
    skipped: Arc<AtomicU64>,
}

impl Open {
    /// Begins operations at these moments, counted from now, by at most `callers` callers at a time.
    ///
    /// Returns the future that works, and a handle to end it with.
    pub(crate) fn begin(
        session: &Arc<Session>,
        moments: Moments,
        callers: usize,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let open = Self { ended: Arc::default(), skipped: Arc::default() };
        let (sender, receiver) = mpsc::unbounded_channel();
        let ended = Arc::clone(&open.ended);
        std::thread::spawn(move || keep_time(moments, &sender, &ended));
        let (ended, skipped) = (Arc::clone(&open.ended), Arc::clone(&open.skipped));
        let work = hand_out(Arc::clone(session), receiver, callers, ended, skipped);
        (open, work)
    }

    /// No further operation begins.
    pub(crate) fn end(&self) {
        let _ = self.ended.set(Instant::now());
    }

    /// Operations that never began though their moment had come and was not just then; known when the work is done.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Acquire)
    }
}

/// Sends every moment when it has come. It sleeps on a thread, because the runtime's timers are a millisecond coarse.
fn keep_time(moments: Moments, due: &mpsc::UnboundedSender<Instant>, ended: &OnceLock<Instant>) {
    let start = Instant::now();
    for moment in moments.map(|since_start| start + since_start) {
        loop {
            if ended.get().is_some() {
                return;
            }
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.clamp(SHORTEST_SLEEP, LONGEST_SLEEP));
        }
        if due.send(moment).is_err() {
            return;
        }
    }
}

/// Gives each moment to a caller who is free, the one who was busy last first: few callers do all that few can.
async fn hand_out(
    session: Arc<Session>,
    mut due: mpsc::UnboundedReceiver<Instant>,
    callers: usize,
    ended: Arc<OnceLock<Instant>>,
    skipped: Arc<AtomicU64>,
) {
    let (mut free, mut made): (Vec<Worker>, usize) = (Vec::new(), 0);
    let mut busy = JoinSet::new();
    loop {
        let has_room = !free.is_empty() || made < callers;
        tokio::select! {
            biased;
            Some(worker) = busy.join_next(), if !busy.is_empty() => {
                free.push(worker.expect("a caller does not panic"));
            }
            moment = due.recv(), if has_room => {
                let Some(moment) = moment else { break };
                if let Some(ended) = ended.get() {
                    let rest = std::iter::once(moment).chain(std::iter::from_fn(|| due.try_recv().ok()));
                    skipped.store(overdue(rest, *ended), Ordering::Release);
                    break;
                }
                let mut worker: Worker = free.pop().unwrap_or_else(|| {
                    made += 1;
                    session.worker()
                });
                busy.spawn(async move {
                    worker.operate(Some(moment)).await;
                    worker
                });
            }
        }
    }
    free.extend(busy.join_all().await);
    free.into_iter().for_each(Worker::finish);
}

/// How many of these moments were past at the end by more than what counts as late: those after had no chance.
fn overdue(moments: impl Iterator<Item = Instant>, ended: Instant) -> u64 {
    moments.filter(|moment| *moment + LATE <= ended).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_whose_moment_came_just_before_the_end_is_not_one_that_was_left_out() {
        let ended = Instant::now() + Duration::from_secs(1);
        let before = |millis| ended - Duration::from_millis(millis);

        assert_eq!(overdue([before(300), before(5), before(4), ended].into_iter(), ended), 2);
    }
}
