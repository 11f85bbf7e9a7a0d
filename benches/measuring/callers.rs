//! This file runs callers that do something again and again, and keeps how often and how long it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::processor::Processor;
use super::table::percentile;

const WARM_UP: Duration = Duration::from_secs(1);

/// What a number of callers got through.
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) median: Duration,
    pub p99: Duration,
    /// Microseconds of the processor for one piece of work: in this process, and in the server's.
    pub(crate) processor: (f64, f64),
}

/// Which of `streams` a caller takes the how-many-eth time: all alike often, in no order. Callers that go round in step
/// would take neighbours, whose entries stand on one page of an index, and a bare loop keeps its callers in step where
/// the engine does not.
pub(crate) fn scattered(caller: usize, n: u64, streams: usize) -> usize {
    // SplitMix64's finaliser: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    let mut mixed = ((caller as u64) << 40 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) % streams as u64) as usize
}

/// Runs `callers` tasks that each do `work` (told who calls, and the how-many-eth time) again and again for `time`.
pub(crate) async fn measure<F, Fut>(callers: usize, time: Duration, mut processor: Processor, work: F) -> Measured
where
    F: Fn(usize, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (work, done, counting, stop) = (
        Arc::new(work),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (work, done, counting, stop) =
                (Arc::clone(&work), Arc::clone(&done), Arc::clone(&counting), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    work(caller, n).await;
                    n += 1;
                    if counting.load(Ordering::Relaxed) {
                        done.fetch_add(1, Ordering::Relaxed);
                        latencies.push(started.elapsed());
                    }
                }
                latencies
            })
        })
        .collect();
    tokio::time::sleep(WARM_UP).await;
    let before = processor.spent().await;
    counting.store(true, Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(time).await;
    let count = done.load(Ordering::Relaxed) as f64;
    let elapsed = started.elapsed();
    let (here, server) = processor.spent().await.since(&before);
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a caller does not panic"));
    }
    latencies.sort_unstable();
    Measured {
        per_second: count / elapsed.as_secs_f64(),
        median: percentile(&latencies, 0.5),
        p99: percentile(&latencies, 0.99),
        processor: (here as f64 / count, server as f64 / count),
    }
}
