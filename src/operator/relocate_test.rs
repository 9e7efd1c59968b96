//! A log that was moved, and what is in its new home now.

use std::path::Path;

use unanimous_core::ports::DecisionLog;

use super::*;

fn config(folder: &Path, name: &str) -> ConfigFile {
    let path = folder.join(format!("{name}.toml"));
    let text = format!(
        "[log]\nfolder = \"{name}\"\n\
         [resources.orders]\nurl = \"postgres://app@127.0.0.1:1/app\"\n"
    );
    std::fs::write(&path, text).unwrap();
    ConfigFile::read(path).unwrap()
}

async fn open_once(folder: &Path) {
    let log = FileLog::at(folder).open().await.unwrap();
    log.shutdown().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Of the same manager, and without what was decided since the copy was made.
#[tokio::test]
async fn i1_a_move_has_ended_only_if_what_is_there_is_the_log_that_left() {
    let temp = tempfile::tempdir().unwrap();
    let place = |name: &str| temp.path().join(name);
    open_once(&place("old")).await;
    copy(&place("old"), &place("copy"));
    open_once(&place("old")).await;
    let (old, new) = (config(temp.path(), "old"), config(temp.path(), "new"));
    let moved = Move::plan(&old, &new).await.unwrap().run().await.unwrap();
    assert_eq!(moved.counts.openings, 2);
    open_once(&place("new")).await;
    let again = Move::plan(&old, &new).await.unwrap();
    assert!(again.planned().done_before);
    drop(again);

    std::fs::remove_dir_all(place("new")).unwrap();
    copy(&place("copy"), &place("new"));
    FileLog::at(place("new")).adopt().unwrap();
    let refused = Move::plan(&old, &new).await.unwrap_err().to_string();
    assert!(refused.contains("does not list epoch 2"), "{refused}");
}
