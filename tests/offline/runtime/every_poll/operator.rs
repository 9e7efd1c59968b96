//! The operator's ways to a log, through the application that holds it and alone. The databases of
//! the config file cannot be reached: what matters here is that the log is let go of.

use std::path::{Path, PathBuf};

use unanimous::log::FileLog;
use unanimous::operator::{
    Access, Adoption, BarrierOptions, Checked, ConfigFile, LogExport, LogImport,
};
use unanimous::{ResourceName, TransactionManager};
use unanimous_testing::{MemoryResource, drop_after};

use super::{TICK, completed_after, soon};

/// A config file, and a log that was shut down.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Self { folder };
        let text = "[log]\nfolder = \"log\"\n\
                    [resources.orders]\nurl = \"postgres://app@127.0.0.1:1/app\"\n\
                    connect_timeout = \"1s\"\n";
        std::fs::write(place.path(), text).unwrap();
        place.log_is_free().await;
        place
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("unanimous.toml")
    }

    fn file(&self) -> ConfigFile {
        ConfigFile::read(self.path()).unwrap()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// An application that holds the log.
    async fn application(&self) -> TransactionManager {
        let orders = MemoryResource::new("orders");
        let builder = TransactionManager::builder().log(FileLog::at(self.log()));
        builder.resource(&orders).start().await.unwrap()
    }

    async fn log_is_free(&self) {
        soon("the log is free", opens(&self.log())).await;
    }
}

async fn opens(log: &Path) {
    loop {
        let opened = FileLog::at(log).open().await;
        if let Ok(log) = opened {
            unanimous::ports::DecisionLog::shutdown(&*log)
                .await
                .unwrap();
            return;
        }
        tokio::time::sleep(super::TICK).await;
    }
}

/// Runs `one` with 0, 1, 2, … polls, with an application that holds the log and without.
async fn at_every_poll(polls_min: usize, one: impl AsyncFn(&Place, usize) -> bool) {
    for with_application in [false, true] {
        let mut is_done = false;
        for polls in 0..super::POLLS_MAX {
            let place = Place::new().await;
            let tm = match with_application {
                true => Some(place.application().await),
                false => None,
            };
            is_done = one(&place, polls).await;
            match tm {
                Some(tm) => tm.shutdown().await.unwrap(),
                None => place.log_is_free().await,
            }
            if is_done {
                completed_after(polls, polls_min);
                break;
            }
        }
        assert!(is_done);
    }
}

#[tokio::test]
async fn i7_access_open() {
    at_every_poll(1, async |place, polls| {
        let opened = drop_after(polls, Access::open(&place.file())).await;
        let is_done = opened.is_some();
        if let Some(access) = opened {
            access.unwrap().close().await.unwrap();
        }
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_access_list() {
    at_every_poll(2, async |place, polls| {
        let access = Access::open(&place.file()).await.unwrap();
        let listed = drop_after(polls, access.list()).await;
        let is_done = listed.is_some();
        let again = soon("the next list", access.list()).await.unwrap();
        let names = again.resources.iter().map(|at| at.resource.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["orders"]);
        drop(listed.map(Result::unwrap));
        access.close().await.unwrap();
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_access_recover() {
    at_every_poll(2, async |place, polls| {
        let access = Access::open(&place.file()).await.unwrap();
        let recovered = drop_after(polls, access.recover(None, &[])).await;
        let is_done = recovered.is_some();
        soon("the next pass", access.recover(None, &[]))
            .await
            .unwrap();
        access.close().await.unwrap();
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_access_close() {
    at_every_poll(1, async |place, polls| {
        let access = Access::open(&place.file()).await.unwrap();
        let closed = drop_after(polls, access.close()).await;
        closed.is_some()
    })
    .await;
}

/// Decisions are free again, and another barrier stands and ends.
async fn another_barrier_stands(access: &Access) {
    let wanted = BarrierOptions::default();
    let again = access.barrier(&wanted);
    let again = soon("the next barrier", again).await.unwrap();
    again.end().await.unwrap();
}

#[tokio::test]
async fn i7_access_barrier() {
    at_every_poll(1, async |place, polls| {
        let access = Access::open(&place.file()).await.unwrap();
        let wanted = BarrierOptions::default();
        let stood = drop_after(polls, access.barrier(&wanted)).await;
        let is_done = stood.is_some();
        drop(stood.map(Result::unwrap));
        another_barrier_stands(&access).await;
        access.close().await.unwrap();
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_barrier_fallen() {
    at_every_poll(1, async |place, polls| {
        let access = Access::open(&place.file()).await.unwrap();
        let mut wanted = BarrierOptions::default();
        wanted.limit = TICK * 300;
        let mut barrier = access.barrier(&wanted).await.unwrap();
        let fallen = drop_after(polls, barrier.fallen()).await;
        let is_done = fallen.is_some();
        drop(barrier);
        another_barrier_stands(&access).await;
        access.close().await.unwrap();
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_barrier_end() {
    at_every_poll(0, async |place, polls| {
        let access = Access::open(&place.file()).await.unwrap();
        let barrier = access.barrier(&BarrierOptions::default()).await.unwrap();
        let ended = drop_after(polls, barrier.end()).await;
        let is_done = ended.is_some();
        let _ = ended.map(Result::unwrap);
        another_barrier_stands(&access).await;
        access.close().await.unwrap();
        is_done
    })
    .await;
}

#[tokio::test]
async fn i7_checked_run() {
    at_every_poll(2, async |place, polls| {
        let file = place.file();
        let checked = drop_after(polls, Checked::run(&file)).await;
        let again = Checked::run(&file).await;
        let name: ResourceName = "orders".parse().unwrap();
        assert_eq!(again.resources[0].resource, name.as_str());
        checked.is_some()
    })
    .await;
}

async fn exported(file: &ConfigFile) -> Vec<u8> {
    loop {
        // The folder is locked until the step that was dropped has ended.
        if let Ok(plan) = LogExport::plan(file, true, false).await {
            let mut bytes = Vec::new();
            plan.run(&mut bytes).await.unwrap();
            return bytes;
        }
        tokio::time::sleep(super::TICK).await;
    }
}

#[tokio::test]
async fn i7_log_export_run() {
    for polls in 0..super::POLLS_MAX {
        let place = Place::new().await;
        let file = place.file();
        let plan = LogExport::plan(&file, true, false).await.unwrap();
        let mut bytes = Vec::new();
        let is_done = drop_after(polls, plan.run(&mut bytes)).await.is_some();
        let again = soon("the export", exported(&file)).await;
        if is_done {
            assert_eq!(again, bytes);
            completed_after(polls, 2);
            return;
        }
    }
    panic!("it ends");
}

#[tokio::test]
async fn i7_log_import_run() {
    let place = Place::new().await;
    let bytes = exported(&place.file()).await;
    for polls in 0..super::POLLS_MAX {
        let name = format!("log{polls}");
        let text = std::fs::read_to_string(place.path()).unwrap();
        let path = place.folder.path().join("new.toml");
        std::fs::write(&path, text.replace("\"log\"", &format!("\"{name}\""))).unwrap();
        let file = ConfigFile::read(path).unwrap();
        let plan = LogImport::plan(&file, &bytes, false).await.unwrap();
        let is_done = drop_after(polls, plan.run()).await.is_some();
        let goes_on = async {
            loop {
                match LogImport::plan(&file, &bytes, false).await {
                    Ok(plan) => drop(plan.run().await.unwrap()),
                    Err(error) if error.to_string().contains("is here already") => return,
                    Err(_) => tokio::time::sleep(super::TICK).await,
                }
            }
        };
        soon("the import", goes_on).await;
        soon("the log opens", opens(&place.folder.path().join(name))).await;
        if is_done {
            completed_after(polls, 3);
            return;
        }
    }
    panic!("it ends");
}

#[tokio::test]
async fn i7_log_adoption_run() {
    let place = Place::new().await;
    let log = place.folder.path().join("log");
    for polls in 0..super::POLLS_MAX {
        let name = format!("copy{polls}");
        let copy = place.folder.path().join(&name);
        std::fs::create_dir(&copy).unwrap();
        for entry in log.read_dir().unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
        }
        let text = std::fs::read_to_string(place.path()).unwrap();
        let path = place.folder.path().join("new.toml");
        std::fs::write(&path, text.replace("\"log\"", &format!("\"{name}\""))).unwrap();
        let file = ConfigFile::read(path).unwrap();
        let plan = Adoption::plan(&file).await.unwrap();
        let is_done = drop_after(polls, plan.run()).await.is_some();
        let goes_on = async {
            loop {
                match Adoption::plan(&file).await {
                    Ok(plan) if plan.planned().done_before => return,
                    Ok(plan) => drop(plan.run().await.unwrap()),
                    Err(_) => tokio::time::sleep(super::TICK).await,
                }
            }
        };
        soon("the adoption", goes_on).await;
        soon("the log opens", opens(&copy)).await;
        if is_done {
            completed_after(polls, 1);
            return;
        }
    }
    panic!("it ends");
}
