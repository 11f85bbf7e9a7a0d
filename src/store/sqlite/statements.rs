//! This file cuts many rows into statements of a few fixed sizes, so that each is prepared once and used again.

// Each statement is a hop to the connection's thread; beyond this many rows the hop no longer counts.
const MAX_CHUNK: usize = 128;
/// SQLite: `SQLITE_MAX_VARIABLE_NUMBER`, 32,766 bind parameters a statement.
const MAX_BINDS: usize = 32_766;

/// Slices of 128, 64, 32, … 1 items, largest first.
pub(super) struct Chunks<'a, T> {
    rest: &'a [T],
    largest: usize,
}

impl<'a, T> Chunks<'a, T> {
    /// Of all items.
    pub(super) fn of(items: &'a [T]) -> Self {
        Self { rest: items, largest: MAX_CHUNK }
    }

    /// Of all items, each of which takes this many bind parameters.
    pub(super) fn with_binds(items: &'a [T], binds: usize) -> Self {
        Self { rest: items, largest: floor_power_of_two(MAX_BINDS / binds.max(1)).clamp(1, MAX_CHUNK) }
    }
}

impl<'a, T> Iterator for Chunks<'a, T> {
    type Item = &'a [T];

    fn next(&mut self) -> Option<&'a [T]> {
        if self.rest.is_empty() {
            return None;
        }
        let (chunk, rest) = self.rest.split_at(floor_power_of_two(self.rest.len()).min(self.largest));
        self.rest = rest;
        Some(chunk)
    }
}

/// An INSERT for each size of [`Chunks`].
pub(super) struct Inserts(Vec<String>);

impl Inserts {
    /// `head` ends with `VALUES `.
    pub(super) fn new(head: &str, columns: usize) -> Self {
        let sizes = (0..=MAX_CHUNK.ilog2()).map(|power| format!("{head}{}", rows(1 << power, columns)));
        Self(sizes.collect())
    }

    /// The statement for so many rows, a power of two.
    pub(super) fn of_rows(&self, rows: usize) -> &str {
        &self.0[rows.ilog2() as usize]
    }
}

/// `(?,?),(?,?)`
pub(super) fn rows(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    vec![row; rows].join(",")
}

fn floor_power_of_two(number: usize) -> usize {
    1 << number.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_into_powers_of_two_without_losing_any() {
        let items: Vec<usize> = (0..300).collect();

        let chunks: Vec<_> = Chunks::of(&items).collect();

        assert_eq!(chunks.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), [128, 128, 32, 8, 4]);
        assert_eq!(chunks.concat(), items);
    }

    #[test]
    fn wide_rows_stay_below_the_limit_of_bind_parameters() {
        let items = [(); 128];

        assert!(Chunks::with_binds(&items, 1_000).all(|chunk| chunk.len() * 1_000 <= MAX_BINDS));
    }

    #[test]
    fn an_insert_has_as_many_places_as_rows_times_columns() {
        assert_eq!(Inserts::new("VALUES ", 2).of_rows(2), "VALUES (?,?),(?,?)");
    }
}
