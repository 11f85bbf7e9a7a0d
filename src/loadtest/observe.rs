//! This file watches a load while it goes on: one interval a second, until the time is over, somebody interrupts, or
//! the target is gone.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hdr_log::Slice;
use super::lag::LagWatch;
use super::measure::{Tallies, Tally};
use super::progress::{Moment, Progress, Silence};
use super::results::{Figures, Interval, Latency};
use super::session::Session;
use super::target::Look;

const EVERY: Duration = Duration::from_secs(1);

/// Why a measurement ends before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Somebody asked for it.
    Interrupted,
    /// The history of all answers has no more room.
    Full {
        /// Its limit, in MB.
        megabytes: u64,
    },
    /// The target does not answer any more; what is known of that.
    Gone(String),
}

/// Watches the load of a session.
pub(crate) struct Observer<'a> {
    session: Arc<Session>,
    progress: &'a Progress,
    interrupt: CancellationToken,
    gone: Pin<Box<dyn Future<Output = String> + Send + 'a>>,
    /// When the first measurement began.
    began: Option<Instant>,
    /// The end of the last interval.
    until: Instant,
    /// The last look that told anything, from which the counts of the next are taken.
    looked: (Instant, Look),
    lag: Option<LagWatch>,
    intervals: Vec<Interval>,
    /// The latencies of each, when somebody wants them.
    slices: Option<Vec<Slice>>,
}

impl<'a> Observer<'a> {
    pub(crate) fn new(
        session: &'a Arc<Session>,
        progress: &'a Progress,
        interrupt: CancellationToken,
        keeps_slices: bool,
    ) -> Self {
        let target = Arc::clone(&session.target);
        Self {
            session: Arc::clone(session),
            progress,
            interrupt,
            gone: session.target.gone(),
            began: None,
            until: Instant::now(),
            looked: (Instant::now(), Look::default()),
            lag: LagWatch::start(move || target.lag_events()),
            intervals: Vec::new(),
            slices: keeps_slices.then(Vec::new),
        }
    }

    /// Lets time go by without counting.
    ///
    /// # Errors
    /// [`Cut`] when it ended before.
    pub(crate) async fn wait(&mut self, time: Duration) -> Result<(), Cut> {
        tokio::select! {
            biased;
            () = self.interrupt.cancelled() => Err(Cut::Interrupted),
            megabytes = self.session.room.full() => Err(Cut::Full { megabytes }),
            why = &mut self.gone => Err(Cut::Gone(why)),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Counts what ends during this time; returns that, and why it took no longer, if so.
    pub(crate) async fn measure(&mut self, time: Duration) -> (Tallies, Duration, Option<Cut>) {
        self.looked = (Instant::now(), self.session.target.look().await);
        self.session.measures.count();
        drop(self.session.measures.take());
        self.lag.as_ref().map(LagWatch::take_most);
        let start = Instant::now();
        self.began.get_or_insert(start);
        (self.until, self.looked.0) = (start, start);
        let (mut sum, mut taken, mut cut) = (Tallies::default(), start, None);
        let mut next = start;
        while cut.is_none() && start.elapsed() < time {
            next = (next + EVERY).min(start + time);
            cut = self.wait(next.saturating_duration_since(Instant::now())).await.err();
            let tallies = self.session.measures.take();
            // What is answered while somebody looks at the target is not in these counts.
            taken = Instant::now();
            sum.add(&tallies);
            let moment = self.interval(&tallies).await;
            self.progress.at(&Moment { elapsed: start.elapsed(), of: time, errors: sum.total().failed(), ..moment });
        }
        (sum, taken - start, cut)
    }

    /// One interval a second, in order, and the latencies of each when they were wanted.
    pub(crate) fn into_intervals(self) -> (Vec<Interval>, Option<Vec<Slice>>) {
        (self.intervals, self.slices)
    }

    /// When the first measurement began.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// Whether the target was silent in the interval that began then.
    fn silence_since(&self, interval: Instant) -> Option<Silence> {
        let at_its_end = self.session.in_flight.load(Ordering::Relaxed);
        let at_its_start = self.intervals.last().and_then(|interval| interval.in_flight).unwrap_or(at_its_end);
        let in_flight = [at_its_start, at_its_end];
        silence(self.session.measures.last_heard(), interval, self.began.unwrap_or(interval), in_flight)
    }

    async fn interval(&mut self, tallies: &Tallies) -> Moment {
        let now = Instant::now();
        let before = std::mem::replace(&mut self.until, now);
        let new = self.session.target.look().await;
        let (looked, old) = &self.looked;
        let (group_mean, cpu_cores) = (group_mean(old, &new), cpu_cores(old, &new, now - *looked));
        let seconds = (now - before).as_secs_f64();
        let total = tallies.total();
        let figures = figures(&total, seconds);
        if let Some(slices) = &mut self.slices {
            let start = self.began.map_or(Duration::ZERO, |began| before.saturating_duration_since(began));
            slices.push(Slice { start, length: now - before, latencies: total.latencies });
        }
        let moment = Moment {
            per_second: figures.per_second,
            p50_micros: (figures.answered > 0).then_some(figures.latency.p50_micros),
            p99_micros: (figures.answered > 0).then_some(figures.latency.p99_micros),
            silence: self.silence_since(before),
            lag_events: new.lag_events,
            ..Moment::default()
        };
        let reads = tallies.kinds.values().filter(|tally| tally.is_read).map(|tally| tally.latencies.len()).sum();
        self.intervals.push(Interval {
            at_seconds: self.began.map_or(0.0, |began| (now - began).as_secs_f64()),
            length_seconds: seconds,
            figures,
            reads,
            lag_events: new.lag_events,
            lag_events_max: self.lag.as_ref().map(|lag| lag.take_most().max(new.lag_events.unwrap_or_default())),
            group_mean,
            group_max: new.batch_max,
            rss_bytes: new.resident_bytes,
            cpu_cores,
            in_flight: Some(self.session.in_flight.load(Ordering::Relaxed)),
        });
        // A process that is being started again tells nothing, and the next look counts over that time too.
        if new != Look::default() {
            self.looked = (now, new);
        }
        moment
    }
}

/// What the target's last word before `interval` makes of it; `in_flight` are the operations at its start and its end.
/// Nobody who was not asked is silent, nor who was asked a moment ago only.
fn silence(last_heard: Option<Instant>, interval: Instant, began: Instant, in_flight: [u64; 2]) -> Option<Silence> {
    match last_heard {
        _ if in_flight.contains(&0) => None,
        Some(heard) if heard >= interval => None,
        Some(heard) => Some(heard.checked_duration_since(began).map_or(Silence::FromTheStart, Silence::Since)),
        None => Some(Silence::FromTheStart),
    }
}

/// What a tally over this time comes to.
pub(crate) fn figures(tally: &Tally, seconds: f64) -> Figures {
    let answered = tally.latencies.len();
    Figures {
        answered,
        per_second: if seconds > 0.0 { answered as f64 / seconds } else { 0.0 },
        latency: Latency::of(&tally.latencies),
        errors: tally.errors.iter().map(|(class, errors)| ((*class).to_owned(), errors.count)).collect(),
        events: tally.events,
        ..Figures::default()
    }
}

/// What a tally comes to of which a part came only after this time: no rate has that part.
pub(crate) fn figures_with_late(mut in_time: Tally, late: &Tally, seconds: f64) -> Figures {
    let per_second = figures(&in_time, seconds).per_second;
    in_time.add(late);
    let (answered_late, events_late) = (late.latencies.len(), late.events);
    Figures { per_second, answered_late, events_late, ..figures(&in_time, seconds) }
}

/// Commands in a batch, of the batches in between. Another process began its counts at zero.
fn group_mean(old: &Look, new: &Look) -> Option<f64> {
    let is_another = is_another(old, new)?;
    let grown = |old: Option<u64>, new: Option<u64>| new?.checked_sub(if is_another { 0 } else { old? });
    let batches = grown(old.batches, new.batches).filter(|batches| *batches > 0)?;
    Some(grown(old.batch_commands, new.batch_commands)? as f64 / batches as f64)
}

/// How many cores were busy in between; with another process, since it started.
fn cpu_cores(old: &Look, new: &Look, between: Duration) -> Option<f64> {
    let (before, seconds) = match is_another(old, new)? {
        true => (0.0, new.uptime_seconds.unwrap_or(between.as_secs_f64())),
        false => (old.cpu_seconds?, between.as_secs_f64()),
    };
    Some((new.cpu_seconds? - before) / seconds)
}

/// Whether the later look was at another process; none when one of them was at nothing.
fn is_another(old: &Look, new: &Look) -> Option<bool> {
    if *old == Look::default() || *new == Look::default() {
        return None;
    }
    // Starts are told in whole seconds, and no count of one process becomes smaller.
    let has_fewer = new.batches < old.batches || new.cpu_seconds < old.cpu_seconds;
    Some(old.started_seconds != new.started_seconds || has_fewer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_group_is_that_of_the_batches_in_between() {
        let look =
            |batches, commands| Look { batches: Some(batches), batch_commands: Some(commands), ..Look::default() };

        assert_eq!(group_mean(&look(10, 100), &look(20, 350)), Some(25.0));
        assert_eq!(group_mean(&look(10, 100), &look(10, 100)), None, "no batch, no mean");
        assert_eq!(group_mean(&look(10, 100), &look(2, 24)), Some(12.0), "it was restarted, and counts from zero");
        assert_eq!(group_mean(&Look::default(), &look(2, 24)), None, "since when is not known");
        assert_eq!(group_mean(&look(10, 100), &Look::default()), None, "it tells nothing");
    }

    #[test]
    fn a_target_is_silent_when_it_was_asked_and_last_heard_before_the_interval() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let interval = at(2_000);

        let since = Silence::Since(Duration::from_millis(1_500));
        assert_eq!(silence(Some(at(1_500)), interval, began, [8, 8]), Some(since));
        assert_eq!(silence(Some(at(2_001)), interval, began, [8, 8]), None, "it was heard in the interval");
        assert_eq!(silence(Some(at(1_500)), interval, began, [8, 0]), None, "nobody waits for it");
        assert_eq!(silence(Some(at(1_500)), interval, began, [0, 8]), None, "it was asked a moment ago");
        assert_eq!(silence(None, interval, began, [8, 8]), Some(Silence::FromTheStart));
        assert_eq!(silence(Some(began), interval, at(1), [8, 8]), Some(Silence::FromTheStart), "heard in the warm-up");
    }

    #[test]
    fn processor_time_of_a_process_that_was_started_again_is_counted_from_zero() {
        let look = |started, cpu| Look { started_seconds: Some(started), cpu_seconds: Some(cpu), ..Look::default() };
        let young = Look { uptime_seconds: Some(0.5), ..look(2, 0.4) };
        let second = Duration::from_secs(1);

        assert_eq!(cpu_cores(&look(1, 1.0), &look(1, 1.5), second), Some(0.5));
        assert_eq!(cpu_cores(&look(1, 0.1), &look(2, 0.5), second), Some(0.5));
        assert_eq!(cpu_cores(&look(1, 0.7), &look(1, 0.5), second), Some(0.5), "within the same second");
        assert_eq!(cpu_cores(&look(1, 0.7), &young, second), Some(0.8), "over the time that it ran");
    }
}
