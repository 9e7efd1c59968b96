//! Servers whose files are copied while they stand still, and put back later.

use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::servers::{Kind, Options, Server};

/// PostgreSQL, MySQL and MariaDB, of this test alone.
pub(super) struct Servers(Vec<Server>);

/// A set of copies.
pub(super) struct Copies(tempfile::TempDir);

impl Copies {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn of(&self, server: &Server) -> PathBuf {
        self.0.path().join(server.pid_free_name())
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }
}

/// A name that stays the same over restarts.
trait Named {
    fn pid_free_name(&self) -> String;
}

impl Named for Server {
    fn pid_free_name(&self) -> String {
        let (_, port) = self.url().rsplit_once(':').map_or_else(
            || panic!("an address has a port"),
            |(server, rest)| (server.to_owned(), rest.to_owned()),
        );
        format!("data-{}", port.split('/').next().unwrap_or_default())
    }
}

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    let status = command.arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "{} to {}", from.display(), to.display());
}

impl Servers {
    pub(super) async fn start() -> Self {
        let kinds = [Kind::PostgresNewest, Kind::Mysql, Kind::Mariadb];
        let starting = kinds.map(|kind| {
            tokio::task::spawn_blocking(move || Server::start(kind, &Options::new()).unwrap())
        });
        let mut servers = Vec::new();
        for server in starting {
            servers.push(server.await.unwrap());
        }
        Self(servers)
    }

    pub(super) fn urls(&self) -> [String; 3] {
        [0, 1, 2].map(|index| self.0[index].url())
    }

    /// One after the other, as the snapshots of three volumes that know nothing of each other; and
    /// the folder of the log.
    pub(super) async fn copy(&self, copies: &Copies, log: Option<&Path>) {
        for server in &self.0 {
            server.pause();
            copy(&server.data(), &copies.of(server));
            server.resume();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        if let Some(log) = log {
            copy(log, &copies.log());
        }
    }

    /// In the place of what is there.
    pub(super) async fn restore(&mut self, copies: &Copies) {
        let restoring: Vec<_> = self
            .0
            .drain(..)
            .map(|mut server| {
                let copied = copies.of(&server);
                tokio::task::spawn_blocking(move || {
                    server.kill();
                    std::fs::remove_dir_all(server.data()).unwrap();
                    copy(&copied, &server.data());
                    // As a crash leaves it: whose process it was is not so any more.
                    server.kill();
                    server.restart().unwrap();
                    server
                })
            })
            .collect();
        for server in restoring {
            self.0.push(server.await.unwrap());
        }
    }
}
