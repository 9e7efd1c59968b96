//! Where a log is put: links, odd names, places where nothing can be written.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use unanimous_core::ports::DecisionLog;

use super::{FileLog, errors};

async fn refused(folder: &Path) -> String {
    let opened = FileLog::at(folder).open().await;
    opened.map(drop).unwrap_err().to_string()
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// From the root by as many `..` as the working folder is deep.
fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.ancestors().skip(1).map(|_| "..").collect();
    up.join(path.strip_prefix("/").unwrap())
}

#[tokio::test]
async fn i5_every_path_to_a_folder_leads_to_the_same_lock() {
    let temp = tempfile::tempdir().unwrap();
    let temp = temp.path().canonicalize().unwrap();
    let folder = temp.join("log");
    let log = FileLog::at(&folder).open().await.unwrap();
    let (link, link_to_link) = (temp.join("link"), temp.join("link to link"));
    symlink(&folder, &link).unwrap();
    symlink(&link, &link_to_link).unwrap();
    let parent = temp.join("parent");
    symlink(&temp, &parent).unwrap();
    let ways = [
        folder.clone(),
        folder.join("."),
        folder.join("../log"),
        folder
            .join("../../")
            .join(temp.file_name().unwrap())
            .join("log"),
        link,
        link_to_link,
        parent.join("log"),
        relative(&folder),
    ];
    for way in &ways {
        let text = refused(way).await;
        assert_says(&text, &["in use by this process itself", "of its own"]);
    }
    log.shutdown().await.unwrap();
    for way in &ways {
        FileLog::at(way).open().await.unwrap();
    }
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_named_with_its_target() {
    let temp = tempfile::tempdir().unwrap();
    let (link, target) = (temp.path().join("link"), temp.path().join("volume"));
    symlink(&target, &link).unwrap();
    let text = refused(&link).await;
    assert_says(
        &text,
        &["/link:", "symbolic link to", "/volume", "make that folder"],
    );
    fs::create_dir(&target).unwrap();
    FileLog::at(&link).open().await.unwrap();
    fs::remove_file(&link).unwrap();
    symlink(&link, &link).unwrap();
    assert_says(&refused(&link).await, &["/link"]);
}

#[tokio::test]
async fn a_path_of_any_bytes_is_a_path() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join(OsStr::from_bytes(b"log \xff\n'"));
    let log = FileLog::at(&folder).open().await.unwrap();
    assert_says(&refused(&folder).await, &["in use"]);
    // Names that are no text do no harm in the folder either.
    let name = folder.join(OsStr::from_bytes(b"segment-\xff"));
    fs::write(name, "x").unwrap();
    log.shutdown().await.unwrap();
    FileLog::at(&folder).open().await.unwrap();
}

#[tokio::test]
async fn other_files_in_a_logs_folder_do_no_harm() {
    let temp = tempfile::tempdir().unwrap();
    let log = FileLog::at(temp.path()).open().await.unwrap();
    let manager = log.opening().manager;
    log.shutdown().await.unwrap();
    fs::create_dir(temp.path().join("lost+found")).unwrap();
    for name in [
        "holiday.jpg",
        "segment-1",
        "segment-00000000000x",
        ".nfs001",
    ] {
        fs::write(temp.path().join(name), "x").unwrap();
    }
    let log = FileLog::at(temp.path()).open().await.unwrap();
    assert_eq!(log.opening().manager, manager);
    assert!(temp.path().join("holiday.jpg").exists());
}

/// `/sys` takes no files, whoever asks; mounted read-only, as in containers, it says that.
#[tokio::test]
async fn a_place_where_nobody_may_write_is_refused_with_the_mend() {
    for folder in ["/sys", "/sys/unanimous-log"] {
        let text = refused(Path::new(folder)).await;
        let mends = ["the right to write", "mounted read-only"];
        assert!(mends.iter().any(|mend| text.contains(mend)), "{text}");
        assert_says(&text, &[folder, "cannot make the f"]);
    }
}

#[test]
fn each_way_in_which_a_disk_refuses_has_its_mend() {
    let said = |kind: ErrorKind| {
        let folder = Path::new("/var/lib/log");
        errors::io(folder, "write to the log", kind.into()).to_string()
    };
    for (kind, mend) in [
        (ErrorKind::StorageFull, "make room"),
        (ErrorKind::QuotaExceeded, "make room"),
        (ErrorKind::FileTooLarge, "make room"),
        (ErrorKind::ReadOnlyFilesystem, "mount it writable"),
        (ErrorKind::PermissionDenied, "the right to write"),
        (ErrorKind::NotFound, "put it back"),
        (ErrorKind::NotADirectory, "a file is where the folder"),
        (ErrorKind::Other, "look for errors of this disk"),
    ] {
        assert_says(
            &said(kind),
            &["/var/lib/log", "cannot write to the log", mend],
        );
    }
}
