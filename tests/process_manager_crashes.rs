//! Kills engines that run process managers, at every step and at random, and then counts effects: every command of a
//! manager must have exactly one.
//!
//! A life is a runtime of its own: dropping it ends everything at once, as a kill would. On a log in memory its time
//! is virtual, so that hours pass in no time.

#[path = "support/managers.rs"]
mod managers;
#[path = "support/postgres.rs"]
mod postgres;
mod support;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use essaim::clock::{Clock, SystemClock};
use essaim::prelude::*;
use essaim::testing::{FaultyStore, VirtualClock};
use futures::StreamExt;
use managers::{Clerk, Place, is_settled, log, note, start};
use support::Purse;
use uuid::Uuid;

/// Draws numbers that look random, the same for the same seed (SplitMix64).
struct Draws(u64);

impl Draws {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// What is the same over all lives.
struct World {
    place: Place,
    now: DateTime<Utc>,
    seed: u64,
}

impl World {
    fn on(place: Place) -> Self {
        Self { place, now: SystemClock.now(), seed: 0 }
    }

    fn is_virtual(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }

    /// One life of an engine; killed at this step of the store, if it comes so far. True when it did what it was to do.
    fn live(&mut self, stop_at: Option<u64>, work: impl AsyncFn(&Engine)) -> bool {
        self.seed += 1;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(self.is_virtual())
            .build()
            .expect("a runtime");
        let (is_done, now) = runtime.block_on(async {
            let clock: Arc<dyn Clock> =
                if self.is_virtual() { VirtualClock::starting_at(self.now, self.seed) } else { Arc::new(SystemClock) };
            let store = Arc::new(FaultyStore::new(self.place.open().await));
            let faults = store.faults();
            if let Some(step) = stop_at {
                faults.stop_at(step);
            }
            let life = async {
                let build = |builder: EngineBuilder| {
                    builder.aggregate::<Purse>().process_manager(Clerk).clock(Arc::clone(&clock))
                };
                let engine = start(async || Arc::clone(&store) as _, build).await;
                work(&engine).await;
            };
            let patience = Duration::from_secs(if self.is_virtual() { 5_000 } else { 300 });
            let is_done = tokio::select! {
                biased;
                () = faults.stopped() => false,
                () = life => true,
                () = tokio::time::sleep(patience) => panic!("a life that was not killed never got done"),
            };
            (is_done, clock.now())
        });
        self.now = now;
        is_done
    }

    /// What was put into each purse in the end.
    fn puts(&self) -> HashMap<String, Vec<RecordedEvent>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut puts: HashMap<String, Vec<RecordedEvent>> = HashMap::new();
        for event in runtime.block_on(async { log(&*self.place.open().await).await }) {
            let of_purse = puts.entry(event.stream.key().to_owned()).or_default();
            if event.event_type == "Put" {
                of_purse.push(event);
            }
        }
        puts
    }
}

/// Notes under ids that are the same in every life, until they are answered.
async fn insist(engine: &Engine, purse: u64, text: &str) {
    let options = || Options { command_id: Some(CommandId(Uuid::from_u64_pair(1, purse))), ..Options::default() };
    while engine.execute_with(&Purse::id(purse), note(text), options()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until this many cents are in the log and no command is without its outcome.
async fn wait_for_effects(engine: &Engine, events: u64) {
    while engine.head() < GlobalPosition(events) || !is_settled(engine).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn one_reaction_and_one_deadline(engine: &Engine) {
    insist(engine, 1, "now").await;
    insist(engine, 2, "in 20 ms").await;
    insist(engine, 3, "three").await;
    wait_for_effects(engine, 8).await;
    // So that what came last is saved too, and with it all steps were taken.
    assert!(engine.shutdown(Duration::from_secs(20)).await);
}

/// Kills a first life at one step after the other until it lives through them all, each time with a fresh log.
fn kill_at_every_step(place: impl Fn() -> Place) {
    let mut step = 0;
    loop {
        step += 1;
        let mut world = World::on(place());
        let is_through = world.live(Some(step), one_reaction_and_one_deadline);
        assert!(world.live(None, one_reaction_and_one_deadline));

        let amounts: HashMap<_, Vec<_>> =
            world.puts().into_iter().map(|(key, puts)| (key, puts.into_iter().map(|put| put.json).collect())).collect();
        let cents = |list: &[i64]| list.iter().map(|n| format!(r#"{{"cents":{n}}}"#).into()).collect::<Vec<Arc<str>>>();
        let expected = [("1", cents(&[1])), ("2", cents(&[1])), ("3", cents(&[1, 2, 3]))];
        assert_eq!(amounts, expected.map(|(key, puts)| (key.to_owned(), puts)).into(), "killed at step {step}");
        if is_through {
            break;
        }
    }
    assert!(step > 40, "only {step} steps: are they counted?");
}

#[test]
fn a_command_takes_effect_once_wherever_the_engine_is_killed_in_memory() {
    kill_at_every_step(Place::memory);
}

#[test]
fn a_command_takes_effect_once_wherever_the_engine_is_killed_on_sqlite() {
    kill_at_every_step(Place::sqlite);
}

/// Sets as many deadlines as there are purses, and lets one life after the other be killed until all have fired.
fn kill_at_random(world: &mut World, purses: u64, within: Duration, longest_life: u64, seed: u64) {
    const AT_ONCE: usize = 256;
    let mut draws = Draws(seed);
    let first_due = world.now + TimeDelta::seconds(1);
    let spread = within.as_millis() as u64;
    let waits: Vec<u64> = (0..purses).map(|_| 1_000 + draws.below(spread) / 100 * 100).collect();
    let mut kills = 0;
    let noted = RefCell::new(HashSet::new());
    let work = async |engine: &Engine| {
        let missing = (0..purses).filter(|purse| !noted.borrow().contains(purse)).collect::<Vec<_>>().into_iter();
        let noting = missing.map(|purse| {
            let (noted, text) = (&noted, format!("in {} ms", waits[purse as usize]));
            async move {
                insist(engine, purse, &text).await;
                noted.borrow_mut().insert(purse);
            }
        });
        futures::stream::iter(noting).buffer_unordered(AT_ONCE).for_each(async |()| {}).await;
        wait_for_effects(engine, purses * 2).await;
    };
    // The lives become longer, so that the last one can do all that is left.
    loop {
        let life = 5 + draws.below(longest_life) + kills * longest_life / 50;
        if world.live(Some(life), work) {
            break;
        }
        kills += 1;
        world.now += TimeDelta::milliseconds(draws.below(5_000) as i64);
    }

    let puts = world.puts();
    println!("{purses} deadlines, {kills} kills, seed {seed}");
    assert!(kills >= 10, "only {kills} kills");
    assert_eq!(puts.len() as u64, purses);
    for (purse, puts) in &puts {
        assert_eq!(puts.len(), 1, "purse {purse}, seed {seed}: {puts:?}");
        assert!(puts[0].recorded_at >= first_due, "purse {purse}, seed {seed}: too early");
    }
}

fn is_long() -> bool {
    std::env::var("TEST_LONG").is_ok_and(|long| long == "1")
}

#[test]
fn every_deadline_of_many_takes_effect_once_whenever_the_engine_is_killed_in_memory() {
    let (purses, longest_life, seeds) = if is_long() { (100_000, 3_000, 1..=1) } else { (1_000, 200, 1..=3) };
    for seed in seeds {
        kill_at_random(&mut World::on(Place::memory()), purses, Duration::from_secs(600), longest_life, seed);
    }
}

#[test]
fn every_deadline_of_many_takes_effect_once_whenever_the_engine_is_killed_on_sqlite() {
    let (purses, within, longest_life) = if is_long() { (100_000, 60, 2_000) } else { (300, 3, 40) };
    kill_at_random(&mut World::on(Place::sqlite()), purses, Duration::from_secs(within), longest_life, 4);
}
