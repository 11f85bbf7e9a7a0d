//! An account and its turnover, from the first line to the last: `cargo run --example account`.

use essaim::prelude::*;

#[derive(Debug, Default)]
struct Account {
    cents: i64,
}

#[derive(Debug, Serialize, Deserialize)]
enum AccountCommand {
    Deposit { cents: i64 },
    Withdraw { cents: i64 },
}

#[derive(Debug, Serialize, Deserialize)]
enum AccountEvent {
    Deposited { cents: i64 },
    Withdrawn { cents: i64 },
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
enum AccountRejection {
    #[error("there are only {cents} cents left")]
    TooLittleLeft { cents: i64 },
}

impl Aggregate for Account {
    const CATEGORY: &'static str = "account";
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Rejection = AccountRejection;

    fn decide(&self, command: &AccountCommand) -> Result<Vec<AccountEvent>, AccountRejection> {
        match *command {
            AccountCommand::Deposit { cents } => Ok(vec![AccountEvent::Deposited { cents }]),
            AccountCommand::Withdraw { cents } if cents > self.cents => {
                Err(AccountRejection::TooLittleLeft { cents: self.cents })
            }
            AccountCommand::Withdraw { cents } => Ok(vec![AccountEvent::Withdrawn { cents }]),
        }
    }

    fn apply(&mut self, event: &AccountEvent) {
        match *event {
            AccountEvent::Deposited { cents } => self.cents += cents,
            AccountEvent::Withdrawn { cents } => self.cents -= cents,
        }
    }
}

/// What went through each account.
#[derive(Default)]
struct Turnover;

impl Projection for Turnover {
    const NAME: &'static str = "turnover";
    type Row = JsonRow<i64>;
    type Index = ();

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Account>()
    }
}

impl ProjectFrom<Account> for Turnover {
    fn project(&self, event: &TypedEvent<'_, AccountEvent>, rows: &mut Rows<'_, JsonRow<i64>>) {
        let (AccountEvent::Deposited { cents } | AccountEvent::Withdrawn { cents }) = event.data;
        let key = event.stream.key().to_owned();
        let before = rows.get(&key).map_or(0, |row| row.data);
        rows.put(JsonRow { key, data: before + cents });
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(folder.path().join("ledger.db")).await?;
    let engine = Engine::builder(store).aggregate::<Account>().projection(Turnover).start().await?;

    let ada = Account::id("ada");
    engine.execute(&ada, AccountCommand::Deposit { cents: 500 }).await?;
    let receipt = engine.execute(&ada, AccountCommand::Withdraw { cents: 200 }).await?;
    let refusal = engine.execute(&ada, AccountCommand::Withdraw { cents: 1_000 }).await;

    let turnover = engine.read_model::<Turnover>().at_least(receipt.position).await?;
    println!(
        "ada is at version {} and has turned over {} cents",
        receipt.version,
        turnover.get(&"ada".into()).map_or(0, |row| row.data)
    );
    println!("one more withdrawal: {}", refusal.expect_err("1,000 cents are not there"));

    engine.shutdown(std::time::Duration::from_secs(5)).await;
    Ok(())
}
