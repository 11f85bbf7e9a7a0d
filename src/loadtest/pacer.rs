//! This file lets operations begin: closed, by callers who go on at once; open, at moments kept by a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

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
    is_over: Arc<AtomicBool>,
    due: Arc<AtomicU64>,
    begun: Arc<AtomicU64>,
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
        let open = Self { is_over: Arc::default(), due: Arc::default(), begun: Arc::default() };
        let (sender, receiver) = mpsc::unbounded_channel();
        let (is_over, due) = (Arc::clone(&open.is_over), Arc::clone(&open.due));
        std::thread::spawn(move || keep_time(moments, &sender, &is_over, &due));
        let work = hand_out(Arc::clone(session), receiver, callers, Arc::clone(&open.is_over), Arc::clone(&open.begun));
        (open, work)
    }

    /// No further operation begins.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// Operations whose moment has come and that have not begun.
    pub(crate) fn waiting(&self) -> u64 {
        self.due.load(Ordering::Acquire).saturating_sub(self.begun.load(Ordering::Acquire))
    }
}

/// Sends every moment when it has come. It sleeps on a thread, because the runtime's timers are a millisecond coarse.
fn keep_time(moments: Moments, due: &mpsc::UnboundedSender<Instant>, is_over: &AtomicBool, count: &AtomicU64) {
    let start = Instant::now();
    for moment in moments.map(|since_start| start + since_start) {
        loop {
            if is_over.load(Ordering::Acquire) {
                return;
            }
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.clamp(SHORTEST_SLEEP, LONGEST_SLEEP));
        }
        count.fetch_add(1, Ordering::AcqRel);
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
    is_over: Arc<AtomicBool>,
    begun: Arc<AtomicU64>,
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
                let Some(moment) = moment.filter(|_| !is_over.load(Ordering::Acquire)) else { break };
                let mut worker: Worker = free.pop().unwrap_or_else(|| {
                    made += 1;
                    session.worker()
                });
                begun.fetch_add(1, Ordering::AcqRel);
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
