//! This file holds the lock on the side file by which a second writer finds the first one alive.
//!
//! The operating system gives a dead holder's lock back at once, kill -9 included. The lock only keeps honest starts
//! apart; what a writer may commit is decided by the epoch in the head row.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use chrono::SecondsFormat;
use uuid::Uuid;

use crate::clock::{Clock, SystemClock};
use crate::store::{StoreError, TakeOver};

const WHAT: &str = "locking the database for its writer";

/// Held for as long as its value lives.
#[derive(Debug)]
pub(super) struct WriterLock {
    file: File,
}

impl WriterLock {
    /// The side file of this database: `<database>-writer.lock`.
    pub(super) fn path_for(database: &Path) -> PathBuf {
        let mut path = database.as_os_str().to_owned();
        path.push("-writer.lock");
        path.into()
    }

    /// Becomes the holder.
    ///
    /// # Errors
    /// [`StoreError::Held`] names the living holder that was to be left alone.
    pub(super) fn acquire(database: &Path, writer: Uuid, take_over: TakeOver) -> Result<Self, StoreError> {
        let path = Self::path_for(database);
        if take_over == TakeOver::Force {
            // The living holder keeps its lock on a file that has no name any more.
            remove_if_there(&path).map_err(unavailable)?;
        }
        loop {
            let mut file = open(&path).map_err(unavailable)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(held(&path)),
                Err(TryLockError::Error(error)) => return Err(unavailable(error)),
            }
            let record = record(writer);
            write_record(&mut file, &record).map_err(unavailable)?;
            // Somebody may have forced its way between opening and locking: then the name leads to another file.
            match fs::read_to_string(&path) {
                Ok(found) if found != record => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Where a lock keeps even its holder from reading, nobody can have removed the file.
                Ok(_) | Err(_) => return Ok(Self { file }),
            }
        }
    }

    /// Lets go at the end of a clean shutdown, and says so in the file.
    pub(super) fn release(self) {
        // The lock goes with the file's handle; an old record under no lock misleads nobody but a human reader.
        let _ = self.file.set_len(0);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn record(writer: Uuid) -> String {
    let since = SystemClock.now().to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("process {}, writer {writer}, since {since}", std::process::id())
}

fn write_record(file: &mut File, record: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(record.as_bytes())?;
    file.flush()
}

fn held(path: &Path) -> StoreError {
    let mut record = String::new();
    let read = File::open(path).and_then(|mut file| file.read_to_string(&mut record));
    // A holder that has the lock and has not written yet.
    let who = if read.is_ok() && !record.is_empty() { record.as_str() } else { "an unnamed process" };
    StoreError::Held { holder: format!("{who}, which locks {}", path.display()) }
}

fn unavailable(error: io::Error) -> StoreError {
    StoreError::unavailable(WHAT, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(database: &Path, take_over: TakeOver) -> Result<WriterLock, StoreError> {
        WriterLock::acquire(database, Uuid::from_u128(7), take_over)
    }

    #[test]
    fn a_living_holder_is_named_with_its_process_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        let _holder = lock(&database, TakeOver::OnlyDead).unwrap();

        let refused = lock(&database, TakeOver::OnlyDead).unwrap_err().to_string();

        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("a.db-writer.lock"), "{refused}");
    }

    #[test]
    fn a_holder_that_is_gone_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");

        drop(lock(&database, TakeOver::OnlyDead).unwrap());
        lock(&database, TakeOver::OnlyDead).unwrap().release();

        assert!(lock(&database, TakeOver::OnlyDead).is_ok());
    }

    #[test]
    fn one_that_forced_its_way_is_the_holder_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        let _old = lock(&database, TakeOver::OnlyDead).unwrap();

        let _new = lock(&database, TakeOver::Force).unwrap();

        assert!(matches!(lock(&database, TakeOver::OnlyDead), Err(StoreError::Held { .. })));
    }
}
