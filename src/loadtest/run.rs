//! This file is one run from its beginning to its results.
//!
//! ```text
//! is it there, is it empty ──> fill ──> warm up ──> measure ──> settle ──> verify ──> results
//!                                            Ctrl-C, or the target is gone ──┘ with what there is
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checker::Others;
use super::daemon::{Kill, OwnDaemon};
use super::error::LoadError;
use super::hdr_log::Slice;
use super::history::HistoryRoom;
use super::measure::Tallies;
use super::observe::{Cut, Observer, figures};
use super::pacer::{Open, closed};
use super::progress::{Progress, per_second};
use super::random::Random;
use super::results::{Generator, Interval, Latency, PeakSearch, PeakStep, Restart, Verification};
use super::schedule::peak::{Search, step_duration};
use super::schedule::{Arrivals, Moments, Schedule};
use super::session::{Repeats, Seeds, Session};
use super::target::{About, Target};
use super::verify::verify;
use super::workload::Workload;
use crate::clock::{Clock, SystemClock};
use crate::stream::GlobalPosition;

/// How long operations under way may take to end when the time is over.
const SETTLE: Duration = Duration::from_secs(20);
/// The share of a step's operations that may be missing or late before its rate counts as not kept.
const TOLERATED: f64 = 0.01;
/// What is measured of each step of a search comes after this share of it.
const STEP_WARMUP: f64 = 0.25;

/// How a run is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// When operations begin.
    pub schedule: Schedule,
    /// Before anything is counted.
    pub warmup: Duration,
    /// How long is measured; of a search for the peak, each step.
    pub duration: Duration,
    /// Makes the choices of each caller, and the moments of an open loop; not which caller takes which moment.
    pub seed: u64,
    /// Whether every answer is held against the log afterwards.
    pub verify: bool,
    /// Whether commands bring a key under which their outcome is kept, so that they can be repeated.
    pub is_kept: bool,
    /// Whether the log may have events already.
    pub allow_existing: bool,
    /// How much memory the answers kept for the verification may take, in MB (10^6 bytes), while it goes on too. The
    /// run ends when it is reached, with what it has.
    pub history_megabytes: u64,
    /// Whether the latencies of every interval are kept, for a log of them.
    pub keeps_slices: bool,
}

impl Default for Plan {
    /// 64 callers in a closed loop, 10 s after one of warm-up, verified.
    fn default() -> Self {
        Self {
            schedule: Schedule::Closed { callers: 64 },
            warmup: Duration::from_secs(1),
            duration: Duration::from_secs(10),
            seed: 1,
            verify: true,
            is_kept: false,
            allow_existing: false,
            history_megabytes: HISTORY_MEGABYTES,
            keeps_slices: false,
        }
    }
}

/// Room for the answers of some fourteen million commands on a million aggregates.
pub(crate) const HISTORY_MEGABYTES: u64 = 1_500;

/// What a run is about.
pub(crate) struct On {
    pub(crate) workload: Arc<dyn Workload>,
    pub(crate) target: Arc<dyn Target>,
    /// To be killed this often.
    pub(crate) daemon: Option<(Arc<OwnDaemon>, Duration)>,
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) restarts: Vec<Restart>,
    pub(crate) measured: Measured,
    pub(crate) intervals: Vec<Interval>,
    pub(crate) slices: Option<Vec<Slice>>,
    pub(crate) cut: Option<Cut>,
    pub(crate) end: End,
    pub(crate) verification: Option<Verification>,
    pub(crate) about: About,
}

/// How the target stood when nothing was waited for any more.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct End {
    /// Operations that were still without an answer when they were given up.
    pub(crate) unanswered: u64,
    /// When the target was last heard, in seconds since the measurement began, negative before it; none when it never
    /// was.
    pub(crate) last_answer_seconds: Option<f64>,
    /// How long it had been silent by then, in seconds.
    pub(crate) silent_seconds: f64,
}

/// What was measured.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) tallies: Tallies,
    pub(crate) seconds: f64,
    /// What ended after those seconds.
    pub(crate) late: Tallies,
    pub(crate) generator: Option<Generator>,
    pub(crate) peak: Option<PeakSearch>,
}

/// Does a run.
///
/// # Errors
/// [`LoadError`] when it cannot begin. Whatever happens later ends in an outcome.
pub(crate) async fn run(
    plan: &Plan,
    on: On,
    progress: &Progress,
    interrupt: CancellationToken,
) -> Result<Outcome, LoadError> {
    let On { workload, target, daemon } = on;
    let before = begin(plan, &*target).await?;
    let names = SystemClock.random_id().as_u64_pair().0;
    let seeds = Seeds { seed: plan.seed, names };
    // It is asked before the load, because it may be gone afterwards.
    let about = target.about().await;
    let room = if plan.verify { HistoryRoom::of(plan.history_megabytes) } else { HistoryRoom::none() };
    let repeats = match (plan.is_kept, &daemon) {
        (false, _) => Repeats::Never,
        (true, None) => Repeats::InDoubt,
        (true, Some(_)) => Repeats::OverRestarts,
    };
    let session = Session::new(workload, Arc::clone(&target), seeds, repeats, room);
    // It ends with the set, and that with the run.
    let mut timing = JoinSet::new();
    timing.spawn(time_commits(Arc::clone(&session)));
    fill(&session, progress, &interrupt).await?;
    let started_at = SystemClock.now();
    let mut observer = Observer::new(&session, progress, interrupt.clone(), plan.keeps_slices);
    let killer = daemon.map(|(daemon, every)| Killer::start(daemon, every, &session));
    let (mut measured, cut) = load(plan, &session, &mut observer, progress, killer.as_ref()).await;
    let end = end(&session, observer.began());
    let restarts = match killer {
        Some(killer) => killer.restarts(observer.began()).await,
        None => Vec::new(),
    };
    let (intervals, slices) = observer.into_intervals();
    let late_answers = session.measures.take();
    if measured.peak.is_none() {
        measured.late = late_answers;
    }
    let verification = match &cut {
        _ if !plan.verify => None,
        Some(Cut::Gone(_)) => {
            Some(Verification { incomplete: Some("the target is gone".to_owned()), ..Verification::default() })
        }
        _ => {
            progress.phase("holding every answer against the log");
            Some(verify(session.take_history(), &*target, before, others(plan)).await)
        }
    };
    Ok(Outcome { started_at, restarts, measured, intervals, slices, cut, end, verification, about })
}

fn end(session: &Session, began: Option<Instant>) -> End {
    let (heard, began) = (session.measures.last_heard(), began.unwrap_or(session.started));
    End {
        unanswered: session.unanswered(),
        last_answer_seconds: heard.map(|heard| seconds_since(began, heard)),
        silent_seconds: heard.unwrap_or(session.started).elapsed().as_secs_f64(),
    }
}

/// From `began` to `at`; negative when that was before.
fn seconds_since(began: Instant, at: Instant) -> f64 {
    match at.checked_duration_since(began) {
        Some(after) => after.as_secs_f64(),
        None => -(began - at).as_secs_f64(),
    }
}

/// Takes the time from commits to the read models, where the target can tell.
async fn time_commits(session: Arc<Session>) {
    let counting = Arc::clone(&session);
    let visible = move |position, after| counting.measures.commit_became_visible(position, after);
    session.target.time_commits(Arc::new(visible)).await;
}

/// Who needs an empty log has it to itself.
fn others(plan: &Plan) -> Others {
    if plan.allow_existing { Others::OnOtherStreams } else { Others::None }
}

/// Kills the daemon while the load goes on.
struct Killer {
    stop: CancellationToken,
    kills: JoinHandle<Vec<Kill>>,
}

impl Killer {
    fn start(daemon: Arc<OwnDaemon>, every: Duration, session: &Arc<Session>) -> Self {
        let stop = CancellationToken::new();
        let kills = tokio::spawn(daemon.kill_every(every, Arc::clone(session), stop.clone()));
        Self { stop, kills }
    }

    /// The kills, by when they were since the measurement began; those before have negative times.
    async fn restarts(self, began: Option<Instant>) -> Vec<Restart> {
        self.stop.cancel();
        let kills = self.kills.await.unwrap_or_default();
        let restart = |kill: Kill| Restart {
            at_seconds: began.map_or(0.0, |began| seconds_since(began, kill.at)),
            down_seconds: kill.down.map(|down| down.as_secs_f64()),
        };
        kills.into_iter().map(restart).collect()
    }
}

/// Looks whether the target is there, and empty where it must be; how far its log is.
async fn begin(plan: &Plan, target: &dyn Target) -> Result<GlobalPosition, LoadError> {
    target.probe().await?;
    target.admits().await?;
    let head = target.head().await?;
    if head > GlobalPosition::START && !plan.allow_existing {
        return Err(LoadError::NotEmpty { database: target.describe(), events: head.0 });
    }
    Ok(head)
}

async fn fill(session: &Arc<Session>, progress: &Progress, interrupt: &CancellationToken) -> Result<(), LoadError> {
    let lists = session.workload.fill(&session.seeds.of(u64::MAX));
    if lists.is_empty() {
        return Ok(());
    }
    progress.phase("filling");
    let mut fillers = JoinSet::new();
    for list in lists {
        fillers.spawn(session.filler(list).work());
    }
    while let Some(filled) = tokio::select! {
        biased;
        () = interrupt.cancelled() => return Err(LoadError::Failed("interrupted while filling; nothing was measured".into())),
        megabytes = session.room.full() => return Err(LoadError::Failed(format!(
            "the history of all answers reached its {megabytes} MB while filling; nothing was measured: raise \
             --history-mb, or leave it out with --verify=false"
        ))),
        why = session.target.gone() => return Err(LoadError::Failed(format!(
            "the target went away while filling; nothing was measured: {why}"
        ))),
        filled = fillers.join_next() => filled,
    } {
        let filled = filled.map_err(|error| LoadError::Failed(format!("filling failed: {error}")))?;
        filled.map_err(|failed| LoadError::Failed(format!("filling failed: {}: {}", failed.class, failed.detail)))?;
    }
    Ok(())
}

async fn load(
    plan: &Plan,
    session: &Arc<Session>,
    observer: &mut Observer<'_>,
    progress: &Progress,
    killer: Option<&Killer>,
) -> (Measured, Option<Cut>) {
    match plan.schedule {
        Schedule::Closed { callers } => {
            let session_of_callers = Arc::clone(session);
            let work = tokio::spawn(async move { closed(&session_of_callers, callers).await });
            let (measured, cut) = warm_up_and_measure(plan, observer, progress).await;
            session.is_over.store(true, Ordering::Release);
            settle(session, work, cut.as_ref(), killer, progress).await;
            (measured, cut)
        }
        Schedule::Open { rate, arrivals, callers } => {
            let (open, work) = Open::begin(session, moments(plan, rate, arrivals), callers);
            let work = tokio::spawn(work);
            let (mut measured, cut) = warm_up_and_measure(plan, observer, progress).await;
            open.end();
            settle(session, work, cut.as_ref(), killer, progress).await;
            measured.generator = Some(generator(&measured.tallies, open.skipped()));
            (measured, cut)
        }
        Schedule::Peak { rate, arrivals, callers, p99 } => {
            find_peak(plan, session, observer, progress, (rate, arrivals, callers), p99).await
        }
    }
}

fn moments(plan: &Plan, rate: f64, arrivals: Arrivals) -> Moments {
    // A part of the seed that no caller has.
    Moments::new(rate, arrivals, Random::part(plan.seed, u64::MAX - 1))
}

async fn warm_up_and_measure(plan: &Plan, observer: &mut Observer<'_>, progress: &Progress) -> (Measured, Option<Cut>) {
    if !plan.warmup.is_zero() {
        progress.phase("warming up");
        if let Err(cut) = observer.wait(plan.warmup).await {
            return (Measured::default(), Some(cut));
        }
    }
    let (tallies, time, cut) = observer.measure(plan.duration).await;
    (Measured { tallies, seconds: time.as_secs_f64(), ..Measured::default() }, cut)
}

/// Waits for what is under way; not for answers of a target that is gone, or is found to be so meanwhile.
async fn settle(
    session: &Session,
    mut work: JoinHandle<()>,
    cut: Option<&Cut>,
    killer: Option<&Killer>,
    progress: &Progress,
) {
    progress.phase("waiting for the last answers");
    if let Some(killer) = killer {
        killer.stop.cancel();
    }
    let patience = if let Some(Cut::Gone(_)) = cut { Duration::ZERO } else { SETTLE };
    let is_done = tokio::select! {
        biased;
        done = tokio::time::timeout(patience, &mut work) => done.is_ok(),
        _ = session.target.gone() => false,
    };
    if !is_done {
        session.abandoned.cancel();
        // It has nothing to wait for any more; should it have died, its callers are in flight for ever, and counted.
        let _ = work.await;
    }
}

fn generator(tallies: &Tallies, skipped: u64) -> Generator {
    let total = tallies.total();
    let due = total.latencies.len() + total.failed() + skipped;
    let behind = tallies.late + skipped;
    Generator {
        fell_behind: behind as f64 > due as f64 * TOLERATED,
        max_delay_micros: u64::try_from(tallies.max_delay.as_micros()).unwrap_or(u64::MAX),
        due,
        late: tallies.late,
        skipped,
    }
}

/// Tries one rate after the other. The totals are those of the highest that was borne, or of the last tried.
async fn find_peak(
    plan: &Plan,
    session: &Arc<Session>,
    observer: &mut Observer<'_>,
    progress: &Progress,
    (first, arrivals, callers): (f64, Arrivals, usize),
    p99: Duration,
) -> (Measured, Option<Cut>) {
    let limit = u64::try_from(p99.as_micros()).unwrap_or(u64::MAX);
    let mut search = Search::from(first);
    let (mut best, mut steps, mut cut) = (Measured::default(), Vec::new(), None);
    while let Some(rate) = search.next() {
        let duration = step_duration(rate, plan.duration);
        progress.phase(&format!("trying {} for {:.0} s", per_second(rate), duration.as_secs_f64().ceil()));
        let (open, work) = Open::begin(session, moments(plan, rate, arrivals), callers);
        let work = tokio::spawn(work);
        let (measured, ended) = match observer.wait(duration.mul_f64(STEP_WARMUP)).await {
            Err(cut) => (Measured::default(), Some(cut)),
            Ok(()) => {
                let (tallies, time, cut) = observer.measure(duration).await;
                (Measured { tallies, seconds: time.as_secs_f64(), ..Measured::default() }, cut)
            }
        };
        open.end();
        settle(session, work, ended.as_ref(), None, progress).await;
        let skipped = open.skipped();
        cut = ended;
        // Who was given up once is waited for no more, and a target that is silent bears nothing.
        if cut.is_some() || session.abandoned.is_cancelled() {
            break;
        }
        let step = step(rate, &measured, skipped, limit);
        search.tried(step.held);
        if step.held || search.peak().is_none() {
            best = measured;
            best.generator = Some(generator(&best.tallies, skipped));
        }
        steps.push(step);
    }
    best.peak = Some(PeakSearch {
        p99_limit_micros: limit,
        peak_per_second: search.peak(),
        steps,
        incomplete: !search.is_complete(),
    });
    (best, cut)
}

fn step(rate: f64, measured: &Measured, skipped: u64, limit: u64) -> PeakStep {
    let total = measured.tallies.total();
    let figures = figures(&total, measured.seconds);
    let (latency, reached): (Latency, f64) = (figures.latency, figures.per_second);
    let due = rate * measured.seconds;
    let held = latency.p99_micros < limit
        && !total.latencies.is_empty()
        && total.failed() == 0
        && (skipped as f64) <= due * TOLERATED;
    PeakStep { rate_per_second: rate, reached_per_second: reached, latency, errors: total.failed(), held }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadtest::measure::{Ended, Measures};

    /// What a generator is said to be that sent 1,000 operations, so many of them late, and left out so many.
    fn behind(late: u64, skipped: u64) -> bool {
        let measures = Measures::new();
        measures.count();
        let well = Ended::Well { events: 1 };
        (0..1_000).for_each(|n| measures.ended(n, "create", false, Duration::from_millis(1), &well));
        (0..late).for_each(|n| measures.began(n, Duration::from_millis(15)));
        generator(&measures.take(), skipped).fell_behind
    }

    #[test]
    fn a_generator_is_behind_when_more_than_one_in_a_hundred_was_sent_late_or_not_at_all() {
        assert!(!behind(10, 0) && behind(11, 0));
        assert!(!behind(5, 5) && behind(5, 6));
    }
}
