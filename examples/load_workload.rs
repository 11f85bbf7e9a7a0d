//! A workload of one's own: seats are booked and given back, by many at once, and every answer is held against the log.
//! `cargo run --release --example load_workload`

use std::time::Duration;

use essaim::loadtest::checker::Contents;
use essaim::loadtest::own::{Load, table};
use essaim::loadtest::progress::Progress;
use essaim::loadtest::random::Random;
use essaim::loadtest::results::Results;
use essaim::loadtest::run::Plan;
use essaim::loadtest::schedule::Schedule;
use essaim::loadtest::thresholds::Requirement;
use essaim::loadtest::workload::{Answer, Caller, CallerSeed, Expected, Operation, Workload};
use essaim::prelude::*;

const SEATS: u32 = 40;

#[derive(Debug, Default)]
struct Flight {
    booked: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum FlightCommand {
    Book,
    GiveBack,
}

#[derive(Debug, Serialize, Deserialize)]
enum FlightEvent {
    SeatBooked,
    SeatGivenBack,
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
enum FlightRejection {
    #[error("all seats are booked")]
    FullyBooked,
    #[error("no seat is booked")]
    NothingBooked,
}

impl Aggregate for Flight {
    const CATEGORY: &'static str = "flight";
    type Command = FlightCommand;
    type Event = FlightEvent;
    type Rejection = FlightRejection;

    fn decide(&self, command: &FlightCommand) -> Result<Vec<FlightEvent>, FlightRejection> {
        match command {
            FlightCommand::Book if self.booked == SEATS => Err(FlightRejection::FullyBooked),
            FlightCommand::Book => Ok(vec![FlightEvent::SeatBooked]),
            FlightCommand::GiveBack if self.booked == 0 => Err(FlightRejection::NothingBooked),
            FlightCommand::GiveBack => Ok(vec![FlightEvent::SeatGivenBack]),
        }
    }

    fn apply(&mut self, event: &FlightEvent) {
        match event {
            FlightEvent::SeatBooked => self.booked += 1,
            FlightEvent::SeatGivenBack => self.booked -= 1,
        }
    }
}

/// How many seats of each flight are booked.
#[derive(Clone)]
struct Bookings;

impl Projection for Bookings {
    const NAME: &'static str = "bookings";
    type Row = JsonRow<u32>;
    type Index = ();

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Flight>()
    }
}

impl ProjectFrom<Flight> for Bookings {
    fn project(&self, event: &TypedEvent<'_, FlightEvent>, rows: &mut Rows<'_, JsonRow<u32>>) {
        let key = event.stream.key().to_owned();
        let before = rows.get(&key).map_or(0, |row| row.data);
        let data = match event.data {
            FlightEvent::SeatBooked => before + 1,
            FlightEvent::SeatGivenBack => before - 1,
        };
        rows.put(JsonRow { key, data });
    }
}

/// Many travellers on few flights.
struct Travelling {
    engine: Engine,
    flights: u64,
}

impl Workload for Travelling {
    fn name(&self) -> &str {
        "travelling"
    }

    fn caller(&self, seed: CallerSeed) -> Box<dyn Caller> {
        let (engine, flights) = (self.engine.clone(), self.flights);
        Box::new(Traveller { engine, flights, random: seed.random, seat_on: None, asked: None })
    }
}

/// Holds a seat on one flight at most.
struct Traveller {
    engine: Engine,
    flights: u64,
    random: Random,
    seat_on: Option<u64>,
    /// Where it will hold a seat when its last command has success.
    asked: Option<u64>,
}

impl Caller for Traveller {
    fn next(&mut self) -> Operation {
        match self.seat_on {
            // Who holds a seat can give it back: to be refused would be a fault of the system.
            Some(flight) => {
                self.asked = None;
                self.order("give back", flight, FlightCommand::GiveBack, Expected::Success)
            }
            None => {
                let flight = self.random.below(self.flights);
                self.asked = Some(flight);
                self.order("book", flight, FlightCommand::Book, Expected::Either)
            }
        }
    }

    fn ended(&mut self, answer: &Answer) {
        if matches!(answer, Answer::Done { .. }) {
            self.seat_on = self.asked;
        }
    }
}

impl Traveller {
    fn order(&self, kind: &'static str, flight: u64, command: FlightCommand, expected: Expected) -> Operation {
        // What the log must then say of it, as it stands there.
        let event = match command {
            FlightCommand::Book => "SeatBooked",
            FlightCommand::GiveBack => "SeatGivenBack",
        };
        let order = Operation::execute(kind, &self.engine, Flight::id(flight), command, expected);
        order.deciding(move || Contents::of(event, "{}"))
    }
}

/// 128 travellers on four flights for so long, on a database of their own.
async fn travel(duration: Duration) -> Result<Results, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(folder.path().join("flights.db")).await?;
    let engine = Engine::builder(store).aggregate::<Flight>().projection(Bookings).start().await?;

    let plan = Plan { schedule: Schedule::Closed { callers: 128 }, duration, ..Plan::default() };
    let required = [Requirement::parse("errors=0")?];
    let workload = Travelling { engine: engine.clone(), flights: 4 };
    let results = Load::on(engine.clone(), Bookings).run(workload, &plan, &Progress::on_stderr(), &required).await?;

    engine.shutdown(Duration::from_secs(5)).await;
    Ok(results)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds: f64 = std::env::args().nth(1).map_or(Ok(5.0), |seconds| seconds.parse())?;

    let results = travel(Duration::from_secs_f64(seconds)).await?;

    println!("{}", table(&results, None));
    if results.verdict.passed { Ok(()) } else { Err(results.verdict.reasons.join("; ").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_seat_is_booked_twice_and_no_answer_is_lost() {
        let results = travel(Duration::from_millis(500)).await.unwrap();

        let verification = results.verification.unwrap();
        assert!(results.verdict.passed, "{:?}", results.verdict.reasons);
        assert!(verification.acknowledged > 0 && verification.read_models == ["bookings"], "{verification:?}");
        // 128 travellers want the 160 seats of four flights, and chance fills a flight now and then.
        assert!(results.kinds["book"].answered > 0 && results.kinds["give back"].answered > 0);
    }
}
