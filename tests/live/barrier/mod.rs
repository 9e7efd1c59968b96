//! Sets of backups that are taken under a barrier are restored, and nothing in them is split: every
//! transfer is on both sides, or on neither.
//!
//! The snapshots are what `pg_dump` and `mysqldump --single-transaction` begin with, and what a
//! snapshot of a storage volume is: the files of a server all of whose processes stand still.

mod restored;
mod traffic;

use std::path::Path;
use std::time::Duration;

use unanimous::log::{FileLog, TableLog};
use unanimous::operator::{Access, BarrierOptions, ConfigFile};
use unanimous::{TransactionManager, TransactionManagerBuilder};

use self::restored::{Copies, Servers};
use self::traffic::{Dump, Site, Traffic};
use crate::support::{Db, eventually, short_intervals, table};

/// What the tool is told of log and servers.
fn config(folder: &Path, log: &str, site: &Site) -> ConfigFile {
    let mut text = format!("[log]\n{log}\n");
    for (name, url) in site.urls() {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (userinfo, host) = rest.split_once('@').unwrap();
        let (user, password) = userinfo.split_once(':').unwrap();
        let file = folder.join(format!("{name}.pw"));
        std::fs::write(&file, password).unwrap();
        text.push_str(&format!(
            "[resources.{name}]\nurl = \"{scheme}://{user}@{host}\"\npassword_file = \"{}\"\n",
            file.display()
        ));
    }
    let path = folder.join("unanimous.toml");
    std::fs::write(&path, text).unwrap();
    ConfigFile::read(&path).unwrap()
}

/// Does something while a barrier stands, and knows that it stood all the time.
async fn under_a_barrier<T>(file: &ConfigFile, act: impl Future<Output = T>) -> T {
    let access = Access::open(file).await.unwrap();
    let mut wanted = BarrierOptions::default();
    wanted.within = Duration::from_secs(60);
    wanted.limit = Duration::from_secs(300);
    let barrier = access.barrier(&wanted).await.unwrap();
    let (took, waited_for) = (barrier.stood().took_ms, barrier.stood().waited_for);
    let done = act.await;
    let held = barrier.end().await.unwrap().held_ms;
    println!("a barrier: {took} ms to stand, {waited_for} waited for, held for {held} ms");
    access.close().await.unwrap();
    done
}

fn builder(site: &Site) -> TransactionManagerBuilder {
    TransactionManager::builder()
        .resource(&site.orders)
        .resource(&site.ledger)
        .resource(&site.stock)
        .config(short_intervals)
}

async fn member(site: &Site) -> TransactionManager {
    let log = TableLog::on(&site.orders).suspect_after(Duration::from_secs(2));
    builder(site).log(log).start().await.unwrap()
}

/// The servers are shared with others, whose transactions go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_logical_dumps_under_a_barrier_are_not_split_and_others_are() {
    let name = table("barrier");
    let urls = [Db::Postgres15, Db::Mysql, Db::Mariadb].map(Db::url);
    let site = Site::new(urls, &name);
    site.create_tables().await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let tm = builder(&site).log(FileLog::at(&log)).start().await.unwrap();
    let traffic = Traffic::start(&site, std::slice::from_ref(&tm));
    traffic.moved(20).await;
    let mut splits = 0;
    for _ in 0..20 {
        // Else this test could find nothing wrong.
        splits += site.dump().await.splits().len();
        if splits > 0 {
            break;
        }
    }
    assert!(
        splits > 0,
        "the traffic splits what is taken without a barrier"
    );
    let file = config(
        folder.path(),
        &format!("folder = \"{}\"", log.display()),
        &site,
    );
    for _ in 0..3 {
        let before = traffic.count();
        let dump = under_a_barrier(&file, site.dump()).await;
        assert_whole(&dump);
        assert_whole(&site.restore(&dump).await);
        traffic.moved(before + 20).await;
    }
    traffic.stop().await;
    tm.shutdown().await.unwrap();
    site.drop_tables().await;
}

/// First with a log in a folder, then with one in a table of the orders' database, which two
/// members share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_physical_snapshots_under_a_barrier_agree_after_their_recovery() {
    let mut servers = Servers::start().await;
    let site = Site::new(servers.urls(), &table("barrier"));
    site.create_tables().await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");

    let tm = builder(&site).log(FileLog::at(&log)).start().await.unwrap();
    let traffic = Traffic::start(&site, std::slice::from_ref(&tm));
    traffic.moved(20).await;
    let file = config(
        folder.path(),
        &format!("folder = \"{}\"", log.display()),
        &site,
    );
    let first = Copies::new();
    under_a_barrier(&file, servers.copy(&first, Some(&log))).await;
    traffic.moved(traffic.count() + 20).await;
    traffic.stop().await;
    tm.shutdown().await.unwrap();

    let members = [member(&site).await, member(&site).await];
    let traffic = Traffic::start(&site, &members);
    traffic.moved(20).await;
    let file = config(
        folder.path(),
        "resource = \"orders\"\nsuspect_after = \"2s\"",
        &site,
    );
    let second = Copies::new();
    let dump = under_a_barrier(&file, async {
        servers.copy(&second, None).await;
        site.dump().await
    })
    .await;
    assert_whole(&dump);
    traffic.moved(traffic.count() + 20).await;
    traffic.stop().await;
    for member in &members {
        member.shutdown().await.unwrap();
    }
    drop(members);

    servers.restore(&first).await;
    let left = site.prepared().await;
    assert!(left > 0, "what was held is prepared in the snapshots");
    FileLog::at(first.log()).adopt().unwrap();
    let tm = builder(&site).log(FileLog::at(first.log()));
    nothing_is_split(&site, &tm.start().await.unwrap()).await;

    servers.restore(&second).await;
    assert!(site.prepared().await > 0);
    let tm = member(&site).await;
    nothing_is_split(&site, &tm).await;
    assert_eq!(
        site.dump().await,
        dump,
        "as the dump of the same barrier has it"
    );
}

/// Every transfer is on both sides.
fn assert_whole(dump: &Dump) {
    let splits = dump.splits();
    assert!(splits.is_empty(), "{splits:?} of {}", dump.len());
    assert!(dump.len() >= 20, "{}", dump.len());
}

/// Once recovery has ended what was prepared.
async fn nothing_is_split(site: &Site, tm: &TransactionManager) {
    eventually("everything prepared is ended", async || {
        tm.recover().await;
        site.prepared().await == 0
    })
    .await;
    let found = site.dump().await;
    assert_whole(&found);
    tm.shutdown().await.unwrap();
}
