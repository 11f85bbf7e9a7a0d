//! This file finds where a file is put that is written aside and renamed: the rename replaces whatever stands there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The regular file that this name leads to, or is free for. A symbolic link is followed, so that it stays one.
///
/// # Errors
/// When it leads to a folder, a device, a pipe or the like, or when it is a symbolic link to nothing.
pub(crate) fn file_at(path: &Path) -> io::Result<PathBuf> {
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return refused("it is the name of a folder");
    }
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(path.to_owned()) };
    let file = match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return refused("it is a symbolic link to nothing"),
        file => file?,
    };
    match fs::metadata(&file)? {
        behind if behind.is_dir() => refused("it is a folder"),
        behind if !behind.is_file() => refused("it is no regular file, and would be replaced by one"),
        _ if found.is_symlink() => Ok(file),
        _ => Ok(path.to_owned()),
    }
}

/// The folder in which it stands, or will.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether both names are of one file, be it there already or not.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| {
        let file = file_at(path).ok()?;
        Some(folder_of(&file).canonicalize().ok()?.join(file.file_name()?))
    };
    one == other || whole(one).is_some_and(|one| whole(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_a_regular_file_or_a_free_name_is_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "old").unwrap();
        symlink("missing", at("dangling")).unwrap();
        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let refused = |path: &Path| file_at(path).unwrap_err().to_string();

        assert_eq!(file_at(&at("file")).unwrap(), at("file"));
        assert_eq!(file_at(&at("free")).unwrap(), at("free"));
        assert!(refused(&at("pipe")).contains("no regular file"));
        assert!(refused(Path::new("/dev/null")).contains("no regular file"));
        assert!(refused(&at("dangling")).contains("link to nothing"));
        assert!(refused(folder.path()).contains("is a folder"));
        assert!(refused(&at("folder/")).contains("name of a folder"));
    }

    #[test]
    fn a_symbolic_link_leads_to_its_file_and_both_names_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        fs::write(folder.join("file"), "old").unwrap();
        symlink("file", folder.join("link")).unwrap();

        assert_eq!(file_at(&folder.join("link")).unwrap(), folder.join("file"));
        assert!(is_same(&folder.join("link"), &folder.join("file")));
        assert!(is_same(&folder.join("free"), &folder.join("./free")));
        assert!(!is_same(&folder.join("free"), &folder.join("file")));
    }
}
