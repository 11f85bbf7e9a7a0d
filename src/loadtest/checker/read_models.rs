//! This file holds a read model against the fold of the log: every row, column by column.

use super::finding::{Finding, Findings};
use crate::aggregate::DecodeError;
use crate::event::RecordedEvent;
use crate::projections::read_model::View;
use crate::projections::table::{Keys, Snapshot, Table};
use crate::projections::{Projection, Row, RowKey, Sources, Value};

/// The rows that the log makes, event by event.
pub struct Fold<P: Projection> {
    projection: P,
    sources: Sources<P>,
    table: Table<P>,
    changed: Keys<P>,
}

impl<P: Projection> Fold<P> {
    /// No rows yet.
    pub fn new(projection: P) -> Self {
        Self { projection, sources: Sources::of(), table: Table::default(), changed: Keys::<P>::default() }
    }

    /// Takes the next event of the log; those of other aggregates change nothing but the position.
    ///
    /// # Errors
    /// [`DecodeError`] when this program cannot understand the event.
    pub fn apply(&mut self, event: &RecordedEvent) -> Result<(), DecodeError> {
        self.table.apply(&self.projection, &self.sources, event, &mut self.changed)?;
        // A fold saves nothing, so nobody asks which rows changed.
        self.changed.clear();
        Ok(())
    }

    /// Compares the rows shown with those of the fold, both at one position.
    pub fn compare(&self, shown: &View<P>) -> Findings {
        shown.read(|shown| self.compare_rows(shown))
    }

    fn compare_rows(&self, shown: &Snapshot<'_, P>) -> Findings {
        self.table.read(|folded| compare(shown, folded))
    }
}

/// [`Fold::compare`] without an engine that shows the rows.
#[cfg(test)]
pub(super) fn compare_tables<P: Projection>(shown: &Table<P>, fold: &Fold<P>) -> Findings {
    shown.read(|shown| fold.compare_rows(shown))
}

fn compare<P: Projection>(shown: &Snapshot<'_, P>, folded: &Snapshot<'_, P>) -> Findings {
    let mut findings = Findings::default();
    if shown.position() != folded.position() {
        let (model, shown, expected) = (P::NAME.to_owned(), shown.position(), folded.position());
        findings.add(Finding::ReadModelElsewhere { model, shown, expected });
        return findings;
    }
    for row in folded.rows() {
        if let Some(finding) = differs::<P>(shown.get(&row.key()).as_deref(), &row) {
            findings.add(finding);
        }
    }
    for row in shown.rows() {
        if folded.get(&row.key()).is_none() {
            findings.add(Finding::RowTooMany { model: P::NAME.to_owned(), key: text(&row.key().to_value()) });
        }
    }
    findings
}

fn differs<P: Projection>(shown: Option<&P::Row>, folded: &P::Row) -> Option<Finding> {
    let (model, key) = (P::NAME.to_owned(), text(&folded.key().to_value()));
    let Some(shown) = shown else { return Some(Finding::RowMissing { model, key }) };
    let (shown, folded) = (shown.write(), folded.write());
    let column = shown.iter().zip(&folded).position(|(shown, folded)| shown != folded)?;
    Some(Finding::RowDiffers {
        model,
        key,
        column: P::Row::COLUMNS[column].name.to_owned(),
        shown: text(&shown[column]),
        folded: text(&folded[column]),
    })
}

/// A value as a person would write it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Text(text) => format!("{text:?}"),
        Value::Numeric(text) | Value::Json(text) => text.clone(),
        Value::BigInt(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Uuid(id) => id.to_string(),
        Value::Timestamp(time) => format!("{time:?}"),
    }
}
