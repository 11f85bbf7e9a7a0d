//! This file holds a log in memory and decides what may be appended to it: everything is checked before anything is
//! changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::tables::Tables;
use crate::aggregate::Claim;
use crate::event::{ChainHash, CommandId, RecordedEvent};
use crate::store::audit::AuditFilter;
use crate::store::page::Collected;
use crate::store::{
    Batch, ClaimChanges, Epoch, Head, LoadRequest, LoadedStream, LogFilter, LogPage, Snapshot, StoreError,
    StoredOutcome, TakeOver,
};
use crate::stream::{GlobalPosition, StreamId, Version};

/// Positions that one filtered page looks at, at most, so that a rare type does not hold the lock for the whole log.
const SCANNED_AT_ONCE: usize = 10_000;

/// Held by a writer for as long as it lives.
pub(super) type Alive = Arc<()>;

/// Everything that one log consists of.
pub(super) struct Log {
    head: Head,
    holder: Weak<()>,
    events: Vec<RecordedEvent>,
    /// For each stream the indexes of its events, in order of their versions.
    streams: HashMap<StreamId, Vec<usize>>,
    claims: HashMap<Claim, StreamId>,
    outcomes: HashMap<CommandId, StoredOutcome>,
    snapshots: HashMap<StreamId, Snapshot>,
    pub(super) tables: Tables,
}

impl Log {
    pub(super) fn empty(log_id: Uuid) -> Self {
        let head = Head {
            position: GlobalPosition::START,
            epoch: Epoch(0),
            writer: Uuid::nil(),
            batch: Uuid::nil(),
            chain_hash: ChainHash::START,
            recorded_at: DateTime::UNIX_EPOCH,
            log_id,
        };
        Self {
            head,
            holder: Weak::new(),
            events: Vec::new(),
            streams: HashMap::new(),
            claims: HashMap::new(),
            outcomes: HashMap::new(),
            snapshots: HashMap::new(),
            tables: Tables::default(),
        }
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    pub(super) fn take_over(&mut self, writer: Uuid, alive: &Alive, how: TakeOver) -> Result<Head, StoreError> {
        if how == TakeOver::OnlyDead && self.holder.strong_count() > 0 {
            let Head { writer, epoch, .. } = self.head;
            return Err(StoreError::Held { holder: format!("writer {writer} of this process, epoch {epoch}") });
        }
        self.holder = Arc::downgrade(alive);
        self.head.writer = writer;
        self.head.epoch.0 += 1;
        Ok(self.head.clone())
    }

    pub(super) fn reclaim(&mut self, writer: Uuid, mine: Epoch, log_id: Option<Uuid>) -> Result<Head, StoreError> {
        if self.head.writer != writer {
            return Err(StoreError::Fenced { mine, found: self.head.epoch });
        }
        self.head.epoch.0 += 1;
        self.head.log_id = log_id.unwrap_or(self.head.log_id);
        Ok(self.head.clone())
    }

    pub(super) fn check_fence(&self, epoch: Epoch, batch: Uuid) -> Result<(), StoreError> {
        if self.head.epoch == epoch && self.head.batch == batch {
            return Ok(());
        }
        Err(StoreError::Fenced { mine: epoch, found: self.head.epoch })
    }

    pub(super) fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.check_fence(batch.epoch, batch.previous)?;
        check_texts(batch)?;
        self.check_places(&batch.events)?;
        self.check_claims(&batch.claims)?;
        self.check_outcomes(&batch.outcomes)?;
        self.commit(batch);
        Ok(())
    }

    fn check_places(&self, events: &[RecordedEvent]) -> Result<(), StoreError> {
        let mut position = self.head.position;
        let mut versions: HashMap<&StreamId, usize> = HashMap::new();
        for event in events {
            position = position.next();
            let version = versions.entry(&event.stream).or_insert_with(|| self.length(&event.stream));
            *version += 1;
            if event.position != position || event.version.0 != *version as u64 {
                let what = format!("{event:?} does not belong at position {position}, version {version}");
                return Err(StoreError::Conflict { what });
            }
        }
        Ok(())
    }

    fn check_claims(&self, changes: &ClaimChanges) -> Result<(), StoreError> {
        let taken = changes.take.iter().map(|(claim, _)| claim).filter(|claim| self.claims.contains_key(*claim));
        let taken: Vec<Claim> = taken.cloned().collect();
        if !taken.is_empty() {
            return Err(StoreError::ClaimsTaken { claims: taken });
        }
        let released = changes.release.iter().map(|(claim, holder)| (claim, holder));
        let transferred = changes.transfer.iter().map(|(claim, holder, _)| (claim, holder));
        match released.chain(transferred).find(|(claim, holder)| self.claims.get(*claim) != Some(*holder)) {
            Some((claim, holder)) => Err(StoreError::Conflict { what: format!("{holder} does not hold {claim}") }),
            None => Ok(()),
        }
    }

    fn check_outcomes(&self, outcomes: &[StoredOutcome]) -> Result<(), StoreError> {
        let mut new = HashSet::new();
        match outcomes.iter().find(|o| self.outcomes.contains_key(&o.command_id) || !new.insert(o.command_id)) {
            Some(twice) => {
                Err(StoreError::Conflict { what: format!("command {} has an outcome already", twice.command_id) })
            }
            None => Ok(()),
        }
    }

    fn commit(&mut self, batch: &Batch) {
        for event in batch.events.iter() {
            self.streams.entry(event.stream.clone()).or_default().push(self.events.len());
            // Read back, events are decoded from their text, as with every other store.
            self.events.push(RecordedEvent { decoded: None, ..event.clone() });
        }
        for (claim, holder) in &batch.claims.take {
            self.claims.insert(claim.clone(), holder.clone());
        }
        for (claim, _) in &batch.claims.release {
            self.claims.remove(claim);
        }
        for (claim, _, taker) in &batch.claims.transfer {
            self.claims.insert(claim.clone(), taker.clone());
        }
        self.outcomes.extend(batch.outcomes.iter().map(|outcome| (outcome.command_id, outcome.clone())));
        self.head.batch = batch.id;
        if let Some(last) = batch.events.last() {
            self.head.position = last.position;
            self.head.chain_hash = last.hash;
            self.head.recorded_at = last.recorded_at;
        }
    }

    pub(super) fn read_stream(&self, stream: &StreamId, after: Version, limit: usize) -> Vec<RecordedEvent> {
        let indexes = self.streams.get(stream).map_or(&[][..], |indexes| behind(indexes, after.0));
        indexes.iter().take(limit).map(|&index| self.events[index].clone()).collect()
    }

    pub(super) fn load_stream(&self, request: &LoadRequest, limit: usize) -> LoadedStream {
        let snapshot = request.snapshot_schema.and_then(|schema| self.fitting_snapshot(&request.stream, schema));
        let after = snapshot.as_ref().map_or(Version::EMPTY, |snapshot| snapshot.version);
        let events = self.read_stream(&request.stream, after, limit);
        let more = self.length(&request.stream) as u64 > after.0 + events.len() as u64;
        LoadedStream { snapshot, events, more }
    }

    fn fitting_snapshot(&self, stream: &StreamId, schema: u16) -> Option<Snapshot> {
        let snapshot = self.snapshots.get(stream).filter(|snapshot| snapshot.schema_version == schema)?;
        let event = snapshot.version.0.checked_sub(1).and_then(|before| usize::try_from(before).ok());
        let event = &self.events[*self.streams.get(stream)?.get(event?)?];
        (event.hash == snapshot.chain_hash).then(|| snapshot.clone())
    }

    pub(super) fn save_snapshot(&mut self, snapshot: &Snapshot) {
        let kept = self.snapshots.get(&snapshot.stream);
        if kept.is_none_or(|kept| kept.version <= snapshot.version) {
            self.snapshots.insert(snapshot.stream.clone(), snapshot.clone());
        }
    }

    pub(super) fn read_log(&self, after: GlobalPosition, limit: usize, filter: &LogFilter) -> LogPage {
        let scanned_at_most = if filter.is_all() { limit } else { SCANNED_AT_ONCE };
        let events = behind(&self.events, after.0);
        let (mut page, mut scanned_to) = (Collected::expecting(limit.min(events.len())), after);
        for event in events.iter().take(scanned_at_most) {
            if page.events.len() == limit || page.is_full() {
                break;
            }
            scanned_to = event.position;
            if filter.allows(event) {
                page.push(event.clone());
            }
        }
        LogPage { events: page.events, scanned_to, head: self.head.position }
    }

    pub(super) fn search(&self, filter: &AuditFilter, limit: usize) -> Vec<RecordedEvent> {
        self.events.iter().rev().filter(|event| filter.allows(event)).take(limit).cloned().collect()
    }

    pub(super) fn read_outcomes(&self, commands: &[CommandId]) -> Vec<StoredOutcome> {
        let wanted: BTreeSet<_> = commands.iter().collect();
        wanted.into_iter().filter_map(|command| self.outcomes.get(command).cloned()).collect()
    }

    pub(super) fn prune_outcomes(&mut self, before: DateTime<Utc>) -> u64 {
        let kept = self.outcomes.len();
        self.outcomes.retain(|_, outcome| outcome.internal || outcome.recorded_at >= before);
        (kept - self.outcomes.len()) as u64
    }

    pub(super) fn claim_holders(&self, claims: &[Claim]) -> Vec<(Claim, StreamId)> {
        let wanted: BTreeSet<_> = claims.iter().collect();
        let held = wanted.into_iter().filter_map(|claim| self.claims.get_key_value(claim));
        held.map(|(claim, holder)| (claim.clone(), holder.clone())).collect()
    }

    fn length(&self, stream: &StreamId) -> usize {
        self.streams.get(stream).map_or(0, Vec::len)
    }
}

/// What stands behind the `after`-th item, counted from 1; nothing when there are not so many.
fn behind<T>(items: &[T], after: u64) -> &[T] {
    usize::try_from(after).ok().and_then(|after| items.get(after..)).unwrap_or(&[])
}

/// Refuses U+0000, which Postgres keeps in no text.
fn check_texts(batch: &Batch) -> Result<(), StoreError> {
    let events = batch.events.iter().flat_map(|event| {
        [event.stream.category(), event.stream.key(), &event.event_type, &event.json, event.metadata.as_json()]
    });
    let claims = batch.claims.take.iter().flat_map(|(claim, holder)| [&claim.scope, &claim.value, holder.as_str()]);
    match events.chain(claims).find(|text| text.contains('\0')) {
        Some(text) => Err(StoreError::Data { what: format!("U+0000 in a text of {} bytes", text.len()) }),
        None => Ok(()),
    }
}
