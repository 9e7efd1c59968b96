//! A server does not outlive its owner. The owner here is this test program, run once more.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use xtask::servers::{Kind, Options, Server};

/// Names the kind of server that the second run is to own.
const OWNED: &str = "XTASK_TEST_OWNED_SERVER";

#[test]
fn a_server_does_not_outlive_an_owner_that_is_killed() {
    if let Ok(kind) = env::var(OWNED) {
        own_a_server(&kind);
    }
    for kind in [Kind::Postgres15, Kind::Mysql, Kind::Mariadb] {
        let mut owner = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "a_server_does_not_outlive_an_owner_that_is_killed",
                "--nocapture",
            ])
            .env(OWNED, kind.variable())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(owner.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let mut owned = lines.filter_map(|line| line.strip_prefix("owned: ").map(str::to_owned));
        let (pid, folder) = (owned.next().unwrap(), owned.next().unwrap());
        assert!(is_alive(&pid) && Path::new(&folder).is_dir(), "{kind}");
        owner.kill().unwrap();
        owner.wait().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while is_alive(&pid) || Path::new(&folder).exists() {
            assert!(
                Instant::now() < end,
                "{kind}: process {pid} or {folder} is left over"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Starts a server, says where it is, and waits to be killed.
fn own_a_server(variable: &str) -> ! {
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.variable() == variable)
        .unwrap();
    let server = Server::start(kind, &Options::new()).unwrap();
    // On lines of their own: the test harness has begun one.
    println!(
        "\nowned: {}\nowned: {}",
        server.pid(),
        server.folder().display()
    );
    thread::sleep(Duration::from_secs(600));
    panic!("nobody has killed the owner of {variable}");
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
