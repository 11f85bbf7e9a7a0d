//! This file reads large pages of the log by COPY in the binary format: there each row comes as it is, and costs the
//! driver less than a row of a query. Such a statement takes no parameters and is planned anew each time, so that it
//! pays for large pages only.

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use uuid::Uuid;

use super::log::{EventDecoder, Fetched, READ_LOG, no_head, reading_events};
use crate::event::{ChainHash, RecordedEvent};
use crate::store::StoreError;
use crate::store::page::Collected;
use crate::stream::{GlobalPosition, StreamId, Version};

/// The signature, the flags and the length of the header's extension, which Postgres leaves empty: PostgreSQL manual,
/// COPY, Binary Format.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Columns of [`READ_LOG`].
const COLUMNS: usize = 12;
const NAMES: [&str; COLUMNS] = [
    "position",
    "event_id",
    "category",
    "key",
    "version",
    "event_type",
    "schema_version",
    "data",
    "metadata",
    "recorded_at",
    "hash",
    "head.position",
];

/// What stands where a row's number of columns would, behind the last one.
const TRAILER: i16 = -1;

/// Microseconds from 1970, where ours begin, to 2000, where Postgres's do.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The events behind one position and up to another, `expected` of them if all are there.
pub(super) async fn fetch_page(
    pool: &PgPool,
    (after, until): (i64, i64),
    expected: usize,
) -> Result<Fetched, StoreError> {
    let rows = READ_LOG.replace("$1", &after.to_string()).replace("$2", &until.to_string());
    let statement = format!("COPY ({rows}) TO STDOUT (FORMAT binary)");
    let mut borrowed = Borrowed::of(pool).await?;
    let mut chunks = borrowed.connection().copy_out_raw(&statement).await.map_err(reading_events)?;
    let (mut decoder, mut page, mut head) = (EventDecoder::default(), Collected::expecting(expected), None);
    let (mut unread, mut has_begun) = (Vec::new(), false);
    while let Some(chunk) = chunks.try_next().await.map_err(reading_events)? {
        // Each chunk is a row, as servers send them today; the protocol promises that of none.
        unread.extend_from_slice(&chunk);
        let mut rest = unread.as_slice();
        if !has_begun {
            let Some(behind) = behind_header(rest)? else { continue };
            (rest, has_begun) = (behind, true);
        }
        while let Some(row) = CopiedRow::split_off(&mut rest)? {
            head = Some(GlobalPosition(row.unsigned(11)?));
            if row.fields[0].is_some() {
                page.push(row.event(&mut decoder)?);
            }
        }
        let read = unread.len() - rest.len();
        unread.drain(..read);
        if page.is_full() {
            drop(chunks);
            return Ok(Fetched { is_cut: true, events: page.events, head: head.ok_or_else(no_head)? });
        }
    }
    drop(chunks);
    borrowed.give_back();
    Ok(Fetched { is_cut: false, events: page.events, head: head.ok_or_else(no_head)? })
}

/// A connection of the pool that goes back there only when all that it was asked for was read; the driver would take
/// what is left for the answer to the next question.
struct Borrowed(Option<PoolConnection<Postgres>>);

impl Borrowed {
    async fn of(pool: &PgPool) -> Result<Self, StoreError> {
        pool.acquire().await.map(|connection| Self(Some(connection))).map_err(reading_events)
    }

    fn connection(&mut self) -> &mut PoolConnection<Postgres> {
        self.0.as_mut().expect("it is there until it is given back")
    }

    fn give_back(mut self) {
        self.0.take();
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// What follows the header; none while it has not come as a whole.
fn behind_header(bytes: &[u8]) -> Result<Option<&[u8]>, StoreError> {
    match bytes.split_at_checked(HEADER.len()) {
        None => Ok(None),
        Some((header, rest)) if header == HEADER => Ok(Some(rest)),
        Some(_) => {
            Err(StoreError::Corrupt { what: "the server copies in another format than it was asked for".into() })
        }
    }
}

/// One row of [`READ_LOG`], in the binary format.
struct CopiedRow<'b> {
    fields: [Option<&'b [u8]>; COLUMNS],
}

impl<'b> CopiedRow<'b> {
    /// Takes the first row off; none when it has not come as a whole, or when there are no more.
    fn split_off(bytes: &mut &'b [u8]) -> Result<Option<Self>, StoreError> {
        let Some((count, mut rest)) = bytes.split_first_chunk() else { return Ok(None) };
        match i16::from_be_bytes(*count) {
            TRAILER => return Ok(None),
            count if usize::try_from(count) == Ok(COLUMNS) => {}
            count => return Err(StoreError::Corrupt { what: format!("a copied row has {count} columns") }),
        }
        let mut fields = [None; COLUMNS];
        for field in &mut fields {
            let Some((length, behind)) = rest.split_first_chunk() else { return Ok(None) };
            rest = behind;
            // A negative length is that of NULL.
            if let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) {
                let Some((value, behind)) = rest.split_at_checked(length) else { return Ok(None) };
                (*field, rest) = (Some(value), behind);
            }
        }
        *bytes = rest;
        Ok(Some(Self { fields }))
    }

    fn event(&self, decoder: &mut EventDecoder) -> Result<RecordedEvent, StoreError> {
        Ok(RecordedEvent {
            position: GlobalPosition(self.unsigned(0)?),
            event_id: Uuid::from_bytes(self.sized(1)?),
            stream: StreamId::new(self.text(2)?, self.text(3)?),
            version: Version(self.unsigned(4)?),
            event_type: self.text(5)?.to_owned().into(),
            schema_version: u16::try_from(i32::from_be_bytes(self.sized(6)?)).map_err(|_| damaged(6))?,
            json: self.text(7)?.into(),
            metadata: decoder.metadata(self.text(8)?),
            recorded_at: self.time(9)?,
            hash: ChainHash(self.sized(10)?),
            decoded: None,
        })
    }

    fn bytes(&self, index: usize) -> Result<&'b [u8], StoreError> {
        self.fields[index].ok_or_else(|| damaged(index))
    }

    fn sized<const N: usize>(&self, index: usize) -> Result<[u8; N], StoreError> {
        self.bytes(index)?.try_into().map_err(|_| damaged(index))
    }

    fn unsigned(&self, index: usize) -> Result<u64, StoreError> {
        u64::try_from(i64::from_be_bytes(self.sized(index)?)).map_err(|_| damaged(index))
    }

    fn text(&self, index: usize) -> Result<&'b str, StoreError> {
        str::from_utf8(self.bytes(index)?).map_err(|_| damaged(index))
    }

    fn time(&self, index: usize) -> Result<DateTime<Utc>, StoreError> {
        let micros = i64::from_be_bytes(self.sized(index)?).checked_add(EPOCH_MICROS);
        micros.and_then(DateTime::from_timestamp_micros).ok_or_else(|| damaged(index))
    }
}

fn damaged(index: usize) -> StoreError {
    StoreError::Corrupt { what: format!("column {} is not what such a column holds", NAMES[index]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row whose columns hold these bytes.
    fn row(fields: [Option<&[u8]>; COLUMNS]) -> Vec<u8> {
        let mut bytes = (COLUMNS as i16).to_be_bytes().to_vec();
        for field in fields {
            bytes.extend(field.map_or(-1, |value| value.len() as i32).to_be_bytes());
            bytes.extend(field.unwrap_or_default());
        }
        bytes
    }

    #[test]
    fn a_row_is_taken_off_only_when_all_of_it_is_there() {
        let mut fields = [None; COLUMNS];
        (fields[0], fields[2]) = (Some(&[0, 0, 0, 0, 0, 0, 0, 9][..]), Some(&b"purse"[..]));
        let mut bytes = row(fields);
        bytes.extend(TRAILER.to_be_bytes());

        for length in 0..bytes.len() - 2 {
            let mut some = &bytes[..length];
            assert!(CopiedRow::split_off(&mut some).unwrap().is_none(), "{length} bytes");
            assert_eq!(some.len(), length, "nothing is taken off");
        }
        let mut all = bytes.as_slice();
        let row = CopiedRow::split_off(&mut all).unwrap().unwrap();
        assert_eq!((row.unsigned(0).unwrap(), row.text(2).unwrap()), (9, "purse"));
        assert!(CopiedRow::split_off(&mut all).unwrap().is_none(), "the end");
    }

    #[test]
    fn what_no_such_column_can_hold_is_told_by_the_columns_name() {
        let told = |index: usize, value: Option<&[u8]>| {
            let mut fields = [Some(&b""[..]); COLUMNS];
            fields[index] = value;
            let bytes = row(fields);
            let row = CopiedRow::split_off(&mut bytes.as_slice()).unwrap().unwrap();
            let result = match index {
                2 => row.text(2).map(drop),
                6 => row.sized::<4>(6).map(drop),
                9 => row.time(9).map(drop),
                other => row.unsigned(other).map(drop),
            };
            result.unwrap_err().to_string()
        };

        for (index, value, name) in [
            (0, None, "position"),
            (4, Some(&[0xff; 8][..]), "version"),
            (2, Some(&[0xff][..]), "category"),
            (6, Some(&[0; 3][..]), "schema_version"),
            (9, Some(&[0x7f; 8][..]), "recorded_at"),
        ] {
            let told = told(index, value);
            assert!(told.contains(&format!("column {name} is not")), "{told}");
        }
    }

    #[test]
    fn another_format_and_another_number_of_columns_are_refused() {
        assert!(behind_header(b"PGCOPY\n").unwrap().is_none(), "it has not come as a whole");
        assert!(behind_header(&[b'x'; 19]).is_err());
        assert_eq!(behind_header(&[HEADER.as_slice(), b"rows"].concat()).unwrap(), Some(&b"rows"[..]));
        assert!(CopiedRow::split_off(&mut [0_u8, 3].as_slice()).is_err());
    }
}
