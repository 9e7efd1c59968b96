//! Round trips, counted between the driver and the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use unanimous_core::ports::{Branch, OnePhaseReply, Resource};
use unanimous_mysql::Mysql;

use crate::support::{Db, eventually, expect_prepared};

/// Passes everything on, and counts the commands: packets of the client with sequence number 0,
/// which can be seen because nothing is encrypted.
pub(crate) async fn proxy(url: &str) -> (String, Arc<AtomicUsize>) {
    let (before, rest) = url.split_once('@').unwrap();
    let (server, database) = rest.split_once('/').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let address = format!("{before}@{proxy}/{database}?ssl-mode=DISABLED");
    let commands = Arc::new(AtomicUsize::new(0));
    let (server, count) = (server.to_owned(), Arc::clone(&commands));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(&server).await.unwrap();
            // Header and body are written apart.
            upstream.set_nodelay(true).unwrap();
            client.set_nodelay(true).unwrap();
            tokio::spawn(pass(client, upstream, Arc::clone(&count)));
        }
    });
    (address, commands)
}

async fn pass(client: TcpStream, server: TcpStream, commands: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut header = [0; 4];
    while from_client.read_exact(&mut header).await.is_ok() {
        let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
        let mut body = vec![0; length];
        from_client.read_exact(&mut body).await.unwrap();
        if header[3] == 0 {
            commands.fetch_add(1, Ordering::SeqCst);
        }
        to_server.write_all(&header).await.unwrap();
        to_server.write_all(&body).await.unwrap();
    }
}

/// Waits until nothing is sent any more: a session that was released has been wiped.
pub(crate) async fn until_quiet(commands: &AtomicUsize) {
    eventually("nothing is sent any more", async || {
        let before = commands.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
        before == commands.load(Ordering::SeqCst)
    })
    .await;
}

/// Open, prepare, commit, wipe: one each. Rollback of an active branch and one-phase commit: one.
async fn every_step_of_the_protocol_is_one_round_trip(db: &Db) {
    let (url, commands) = proxy(&db.url).await;
    let resource = Mysql::builder("ledger", url).build().unwrap();
    // One warm session, so that no login is counted.
    let mut warm = resource.open(db.env(1)).await.unwrap();
    warm.rollback().await.unwrap();
    Box::new(warm).release().await;
    until_quiet(&commands).await;

    let taken = || commands.swap(0, Ordering::SeqCst);
    taken();
    let mut branch = resource.open(db.env(2)).await.unwrap();
    assert_eq!(taken(), 1, "open, on a session of the pool");
    db.insert(&mut branch, 2).await.unwrap();
    taken();
    expect_prepared(branch.prepare().await);
    assert_eq!(taken(), 1, "prepare");
    branch.commit().await.unwrap();
    assert_eq!(taken(), 1, "commit");
    Box::new(branch).release().await;
    until_quiet(&commands).await;
    assert_eq!(taken(), 1, "the wipe");

    let mut branch = resource.open(db.env(3)).await.unwrap();
    db.insert(&mut branch, 3).await.unwrap();
    taken();
    let reply = branch.commit_one_phase().await;
    assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
    assert_eq!(taken(), 1, "commit in one phase");

    let mut branch = resource.open(db.env(4)).await.unwrap();
    db.insert(&mut branch, 4).await.unwrap();
    taken();
    branch.rollback().await.unwrap();
    assert_eq!(taken(), 1, "rollback of an active branch");

    let mut branch = resource.open(db.env(5)).await.unwrap();
    db.insert(&mut branch, 5).await.unwrap();
    expect_prepared(branch.prepare().await);
    taken();
    branch.rollback().await.unwrap();
    assert_eq!(taken(), 1, "rollback of a prepared branch");
    assert!(db.has(2).await && db.has(3).await && !db.has(4).await && !db.has(5).await);
}

on_both!(every_step_of_the_protocol_is_one_round_trip);
