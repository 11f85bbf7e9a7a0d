//! This file proves that a read table is what the log makes of it: it folds the log up to the table's checkpoint, in
//! memory, and compares digests. It only reads, so that it may run beside a daemon.

use async_trait::async_trait;

use crate::event::ChainHash;
use crate::projections::table::{Digest, Keys, Table};
use crate::projections::{Projection, Row, Sources, TableSpec, Values};
use crate::store::{Checkpoint, EventStore, LogFilter, LogPage, StoreError};
use crate::stream::GlobalPosition;

/// Events read at a time.
const PAGE: usize = 1_000;

/// A projection of any type.
#[async_trait]
pub(crate) trait Verifiable: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Its table.
    fn table(&self) -> TableSpec;

    /// Compares table and log. `progress` is told each position reached.
    ///
    /// # Errors
    /// [`StoreError`] when either cannot be read, [`StoreError::Corrupt`] when one cannot be understood.
    async fn verify(
        &self,
        store: &dyn EventStore,
        progress: &(dyn Fn(GlobalPosition) + Send + Sync),
    ) -> Result<Verdict, StoreError>;
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// No checkpoint was ever saved.
    NoCheckpoint,
    /// The checkpoint is ahead of the log, which must have gone backwards.
    AheadOfLog {
        /// The checkpoint's position.
        checkpoint: GlobalPosition,
        /// The log's.
        head: GlobalPosition,
    },
    /// The log has another event at the checkpoint's position than the table was made from.
    OtherLog {
        /// The checkpoint's position.
        checkpoint: GlobalPosition,
    },
    /// Both were read to the same position.
    Compared(Comparison),
}

/// Table and log at one position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comparison {
    /// The checkpoint's position.
    pub(crate) position: GlobalPosition,
    /// Digest of the rows in the table.
    pub(crate) stored: Digest,
    /// Digest of the rows that the log makes.
    pub(crate) folded: Digest,
    /// How many rows the table has.
    pub(crate) rows: usize,
    /// How many rows are missing, too many or different.
    pub(crate) differing: usize,
}

impl Verdict {
    /// Whether there is nothing wrong.
    pub(crate) fn is_ok(&self) -> bool {
        match self {
            Self::NoCheckpoint => true,
            Self::AheadOfLog { .. } | Self::OtherLog { .. } => false,
            Self::Compared(found) => found.stored == found.folded,
        }
    }
}

#[async_trait]
impl<P: Projection> Verifiable for P {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn table(&self) -> TableSpec {
        TableSpec::of::<P>()
    }

    async fn verify(
        &self,
        store: &dyn EventStore,
        progress: &(dyn Fn(GlobalPosition) + Send + Sync),
    ) -> Result<Verdict, StoreError> {
        let Some((checkpoint, stored)) = load::<P>(store).await? else { return Ok(Verdict::NoCheckpoint) };
        let head = store.head().await?.position;
        if checkpoint.position > head {
            return Ok(Verdict::AheadOfLog { checkpoint: checkpoint.position, head });
        }
        if hash_at(store, checkpoint.position).await? != checkpoint.chain_hash {
            return Ok(Verdict::OtherLog { checkpoint: checkpoint.position });
        }
        let folded = fold(self, store, checkpoint.position, progress).await?;
        Ok(Verdict::Compared(Comparison {
            position: checkpoint.position,
            stored: stored.read(|rows| rows.digest()),
            folded: folded.read(|rows| rows.digest()),
            rows: stored.len(),
            differing: differing(&stored, &folded),
        }))
    }
}

async fn load<P: Projection>(store: &dyn EventStore) -> Result<Option<(Checkpoint, Table<P>)>, StoreError> {
    let mut rows: Vec<P::Row> = Vec::new();
    let mut take = |values| {
        let row = P::Row::read(&mut Values::new(P::Row::COLUMNS, values));
        rows.push(row.map_err(|error| StoreError::Corrupt { what: format!("table of {}: {error}", P::NAME) })?);
        Ok(())
    };
    let checkpoint = store.load_table(&TableSpec::of::<P>(), &mut take).await?;
    Ok(checkpoint.map(|checkpoint| {
        let table = Table::with_rows(rows, checkpoint.position, checkpoint.chain_hash);
        (checkpoint, table)
    }))
}

async fn hash_at(store: &dyn EventStore, position: GlobalPosition) -> Result<ChainHash, StoreError> {
    let Some(before) = position.0.checked_sub(1) else { return Ok(ChainHash::START) };
    let page = store.read_log(GlobalPosition(before), 1, &LogFilter::default()).await?;
    let event = page.events.first().filter(|event| event.position == position);
    event
        .map(|event| event.hash)
        .ok_or_else(|| StoreError::Corrupt { what: format!("no event at position {position}") })
}

async fn fold<P: Projection>(
    projection: &P,
    store: &dyn EventStore,
    up_to: GlobalPosition,
    progress: &(dyn Fn(GlobalPosition) + Send + Sync),
) -> Result<Table<P>, StoreError> {
    let sources = Sources::of();
    let categories = sources.categories().into_iter().map(Into::into).collect();
    let filter = LogFilter { categories, ..LogFilter::default() };
    let (table, mut dirty, mut after) = (Table::<P>::default(), Keys::<P>::default(), GlobalPosition::START);
    while after < up_to {
        let LogPage { events, scanned_to, .. } = store.read_log(after, PAGE, &filter).await?;
        if scanned_to <= after {
            return Err(StoreError::Corrupt { what: format!("the log ends at position {after}, before {up_to}") });
        }
        for event in events.iter().take_while(|event| event.position <= up_to) {
            let undecodable = |error| StoreError::Corrupt { what: format!("event {}: {error}", event.position) };
            table.apply(projection, &sources, event, &mut dirty).map_err(undecodable)?;
        }
        dirty.clear();
        after = scanned_to;
        progress(after.min(up_to));
    }
    Ok(table)
}

fn differing<P: Projection>(stored: &Table<P>, folded: &Table<P>) -> usize {
    let (stored_rows, folded_rows) = (stored.read(|rows| rows.rows()), folded.read(|rows| rows.rows()));
    let differs = |row: &P::Row, other: &Table<P>| other.get(&row.key()).is_none_or(|twin| twin.write() != row.write());
    let missing_or_different = folded_rows.iter().filter(|row| differs(row, stored)).count();
    missing_or_different + stored_rows.iter().filter(|row| folded.get(&row.key()).is_none()).count()
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Serialize};
    use uuid::Uuid;

    use super::*;
    use crate::aggregate::Aggregate;
    use crate::event::{Metadata, RecordedEvent, TypedEvent};
    use crate::projections::{JsonRow, ProjectFrom, Rows};
    use crate::store::sqlite::SqliteStore;
    use crate::store::{Batch, CheckpointSave, ClaimChanges, LogWriter, TakeOver};
    use crate::stream::{StreamId, Version};

    #[derive(Default)]
    struct Till;

    #[derive(Debug, Clone, Serialize, Deserialize)]
    enum TillEvent {
        Paid { cents: i64 },
    }

    #[derive(Debug, thiserror::Error, Serialize, Deserialize)]
    #[error("never")]
    struct Never;

    impl Aggregate for Till {
        const CATEGORY: &'static str = "till";
        type Command = ();
        type Event = TillEvent;
        type Rejection = Never;

        fn decide(&self, (): &()) -> Result<Vec<TillEvent>, Never> {
            Ok(Vec::new())
        }

        fn apply(&mut self, _: &TillEvent) {}
    }

    struct Takings;

    impl Projection for Takings {
        const NAME: &'static str = "takings";
        type Row = JsonRow<i64>;
        type Index = ();

        fn sources(sources: Sources<Self>) -> Sources<Self> {
            sources.from::<Till>()
        }
    }

    impl ProjectFrom<Till> for Takings {
        fn project(&self, event: &TypedEvent<'_, TillEvent>, rows: &mut Rows<'_, JsonRow<i64>>) {
            let TillEvent::Paid { cents } = event.data;
            let key = event.stream.key().to_owned();
            let before = rows.get(&key).map_or(0, |row| row.data);
            rows.put(JsonRow { key, data: before + cents });
        }
    }

    /// A log in which till `a` took 1 cent at position 1, till `b` 2 cents at position 2, till `a` 3 at 3 …
    struct Log {
        _folder: tempfile::TempDir,
        store: SqliteStore,
        _writer: Box<dyn LogWriter>,
        events: Vec<RecordedEvent>,
    }

    impl Log {
        async fn with_events(count: u64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = SqliteStore::open(folder.path().join("a.db")).await.unwrap();
            store.prepare_table(&TableSpec::of::<Takings>()).await.unwrap();
            let mut writer = store.open_writer(Uuid::from_u128(1), TakeOver::OnlyDead).await.unwrap();
            let (head, mut hash) = (writer.head().clone(), ChainHash::START);
            let mut events = Vec::new();
            for position in 1..=count {
                let mut event = paid(position);
                hash = hash.extended_by(&event);
                event.hash = hash;
                events.push(event);
            }
            let batch = Batch {
                epoch: head.epoch,
                previous: head.batch,
                id: Uuid::from_u128(2),
                events: events.clone().into(),
                claims: ClaimChanges::default(),
                outcomes: Vec::new(),
                recorded_at: time(),
            };
            writer.append(&batch).await.unwrap();
            Self { _folder: folder, store, _writer: writer, events }
        }

        /// Saves these takings as those at this position.
        async fn save(&self, position: u64, chain_hash: ChainHash, takings: &[(&str, i64)]) {
            let rows = takings.iter().map(|(key, data)| JsonRow { key: (*key).to_owned(), data: *data }.write());
            let (table, position) = (TableSpec::of::<Takings>(), GlobalPosition(position));
            let epoch = self.store.head().await.unwrap().epoch;
            let projection = Takings::NAME.to_owned();
            let checkpoint = Checkpoint { projection, version: 1, position, chain_hash, epoch, saved_at: time() };
            let upserts = rows.collect();
            let save = CheckpointSave {
                table: &table,
                previous: None,
                checkpoint,
                upserts,
                deletes: vec![],
                replace_all: false,
            };
            self.store.save_checkpoint(save).await.unwrap();
        }

        async fn verify(&self) -> Verdict {
            Takings.verify(&self.store, &|_| {}).await.unwrap()
        }
    }

    fn paid(position: u64) -> RecordedEvent {
        RecordedEvent {
            position: GlobalPosition(position),
            event_id: Uuid::from_u128(position.into()),
            stream: StreamId::new("till", if position % 2 == 1 { "a" } else { "b" }),
            version: Version(position.div_ceil(2)),
            event_type: "Paid".into(),
            schema_version: 1,
            json: format!(r#"{{"cents":{position}}}"#).into(),
            metadata: Metadata::from_json("{}"),
            recorded_at: time(),
            hash: ChainHash::START,
            decoded: None,
        }
    }

    fn time() -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000_000, 0).unwrap()
    }

    #[tokio::test]
    async fn a_table_that_was_never_saved_has_nothing_wrong() {
        let log = Log::with_events(3).await;

        let verdict = log.verify().await;

        assert_eq!((verdict.is_ok(), verdict), (true, Verdict::NoCheckpoint));
    }

    #[tokio::test]
    async fn a_table_is_compared_with_the_log_as_it_was_at_its_checkpoint_not_as_it_is() {
        let log = Log::with_events(5).await;
        log.save(3, log.events[2].hash, &[("a", 1 + 3), ("b", 2)]).await;

        let verdict = log.verify().await;

        let Verdict::Compared(found) = &verdict else { panic!("{verdict:?}") };
        assert_eq!((found.position, found.rows, found.differing), (GlobalPosition(3), 2, 0));
        assert!(verdict.is_ok());
    }

    #[tokio::test]
    async fn a_log_of_many_pages_is_folded_whole() {
        let log = Log::with_events(2 * PAGE as u64 + 1).await;
        let of = |remainder| (1..=2 * PAGE as i64 + 1).filter(|cents| cents % 2 == remainder).sum();
        log.save(log.events.len() as u64, log.events.last().unwrap().hash, &[("a", of(1)), ("b", of(0))]).await;

        assert!(log.verify().await.is_ok());
    }

    #[tokio::test]
    async fn rows_that_differ_are_too_many_or_are_missing_are_found() {
        let log = Log::with_events(3).await;
        log.save(3, log.events[2].hash, &[("a", 5), ("c", 1)]).await;

        let verdict = log.verify().await;

        let Verdict::Compared(found) = &verdict else { panic!("{verdict:?}") };
        assert_eq!(found.differing, 3);
        assert!(!verdict.is_ok());
    }

    #[tokio::test]
    async fn a_table_made_from_another_log_is_found_even_when_the_position_exists() {
        let log = Log::with_events(3).await;
        log.save(3, ChainHash([7; 32]), &[("a", 4), ("b", 2)]).await;

        assert_eq!(log.verify().await, Verdict::OtherLog { checkpoint: GlobalPosition(3) });
    }

    #[tokio::test]
    async fn a_table_ahead_of_the_log_is_found() {
        let log = Log::with_events(3).await;
        log.save(4, log.events[2].hash, &[("a", 4), ("b", 2)]).await;

        let ahead = Verdict::AheadOfLog { checkpoint: GlobalPosition(4), head: GlobalPosition(3) };
        assert_eq!(log.verify().await, ahead);
    }
}
