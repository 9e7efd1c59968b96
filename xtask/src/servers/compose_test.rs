//! Whether an engine is found, and that nothing is left behind. A script stands for the client of
//! an engine and notes what it is asked; what containers do is for those who have an engine.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::*;

/// A folder with a program `docker` in it.
struct Client {
    folder: PathBuf,
}

impl Client {
    fn new(name: &str, script: &str) -> Self {
        let folder = env::temp_dir().join(format!("xtask-{name}-{}", ProcessId::current()));
        fs::create_dir_all(&folder).unwrap();
        let client = Self { folder };
        let folder = client.folder.display();
        let text = format!("#!/bin/sh\nfolder={folder}\necho \"$*\" >> $folder/asked\n{script}\n");
        fs::write(client.program(), text).unwrap();
        fs::set_permissions(client.program(), fs::Permissions::from_mode(0o755)).unwrap();
        client
    }

    fn program(&self) -> PathBuf {
        self.folder.join("docker")
    }

    fn find(&self) -> Result<Engine, Error> {
        // A script that was just written is refused as long as another test's child holds it open.
        let mut found = Err(Error::program("docker", "not asked"));
        wait_until(Duration::from_secs(10), || {
            found = Engine::find(self.program().into_os_string());
            !matches!(&found, Err(error) if error.to_string().contains("busy"))
        });
        found
    }

    fn refusal(&self) -> String {
        self.find().unwrap_err().to_string()
    }

    fn note(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// What was asked of compose, without the words that come with all of it.
    fn compose(&self) -> Vec<String> {
        let asked = self.note("asked");
        let words = asked.lines().filter_map(|line| line.split_once(" matrix "));
        words.map(|(_, rest)| rest.to_owned()).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A client whose engine answers, with `up` to be told; `port` is that of the test.
fn answering(name: &str, up: &str, port: u16) -> Client {
    let script = format!(
        "case \"$*\" in
            info*) echo 29.0.0 ;;
            *version*) echo 2.40.3 ;;
            *' up '*) env > $folder/env; {up} ;;
            *' port '*) echo 127.0.0.1:{port} ;;
            *) ;;
        esac"
    );
    Client::new(name, &script)
}

#[test]
fn without_a_client_there_is_no_engine() {
    let refusal = Engine::find("no-such-docker".into()).unwrap_err();
    assert!(
        refusal.to_string().starts_with("docker info: "),
        "{refusal}"
    );
}

#[test]
fn a_client_without_an_engine_is_told_by_its_own_words() {
    let client = Client::new(
        "no-engine",
        "echo 'Cannot connect to the daemon' >&2; exit 1",
    );
    let refusal = client.refusal();
    assert!(
        refusal.contains("Cannot connect to the daemon"),
        "{refusal}"
    );
    // Some versions of the client call that a success.
    let client = Client::new(
        "no-answer",
        "echo 'Cannot connect to the daemon' >&2; exit 0",
    );
    let refusal = client.refusal();
    assert!(
        refusal.contains("Cannot connect to the daemon"),
        "{refusal}"
    );
}

#[test]
fn an_engine_without_compose_is_none() {
    let script = "[ $1 = info ] && echo 29.0.0 || { echo 'unknown command' >&2; exit 1; }";
    let refusal = Client::new("no-compose", script).refusal();
    assert!(refusal.starts_with("docker compose: "), "{refusal}");
}

#[test]
fn a_client_that_hangs_is_ended_with_its_children() {
    let client = Client::new(
        "hangs",
        "echo $$ > $folder/pid; sleep 30; echo yes > $folder/slept",
    );
    let refusal = client.refusal();
    assert!(refusal.contains("no answer within 2 s"), "{refusal}");
    assert_eq!(client.note("slept"), "", "it was waited for");
    let pid = client.note("pid");
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "{pid}");
}

#[test]
fn each_server_has_its_address_and_all_go_at_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = answering("up", ":", port);
    let kinds = [Kind::Postgres15, Kind::Mysql];
    let containers = Containers::up(client.find().unwrap(), &kinds).unwrap();
    let wanted = kinds.map(|kind| (kind, Address::on(kind, port)));
    assert_eq!(containers.addresses(), wanted);
    // No other run has this name.
    let own = ProcessId::current().to_string();
    assert!(containers.project().ends_with(&own));
    let project = format!("--project-name {}", containers.project());
    drop(containers);
    let wanted = [
        "up --detach --wait --wait-timeout 300 postgres-15 mysql",
        "port postgres-15 5432",
        "port mysql 3306",
        "down --volumes --remove-orphans --timeout 0",
    ];
    assert_eq!(client.compose(), wanted);
    let asked = client.note("asked");
    assert_eq!(
        asked.lines().filter(|line| line.contains(&project)).count(),
        wanted.len()
    );
    let given: Vec<String> = client.note("env").lines().map(str::to_owned).collect();
    for variable in ["UNANIMOUS_PORT_POSTGRES_15=", "UNANIMOUS_PORT_MYSQL="] {
        assert!(given.iter().any(|line| line == variable), "no {variable}");
    }
}

#[test]
fn what_did_not_come_up_or_cannot_be_reached_is_taken_down() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    for (up, expected) in [
        ("exit 1", "docker compose up: "),
        (":", "not to be reached"),
    ] {
        let client = answering("fails", up, port);
        let result = Containers::up(client.find().unwrap(), &[Kind::Mysql]);
        let refusal = result.unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
        let last = client.compose().pop().unwrap();
        assert!(last.starts_with("down --volumes"), "{last}");
    }
}

#[test]
fn the_guard_takes_the_servers_down_for_an_owner_that_died_while_they_came_up() {
    let client = answering("orphan", "echo $$ > $folder/pid; sleep 600", 1);
    let project = Project::new(client.find().unwrap());
    let down = project.words(DOWN);
    let mut guard = Guard::start_with(down.iter().map(OsString::as_os_str)).unwrap();
    let mut up = project.bring_up(&[Kind::Mysql], &mut guard).unwrap();
    let is_up = || client.note("pid").ends_with('\n');
    assert!(wait_until(Duration::from_secs(10), is_up));
    guard.lose_owner();
    let has_ended = || matches!(up.try_wait(), Ok(Some(status)) if !status.success());
    let is_ended = wait_until(Duration::from_secs(10), has_ended);
    if let Some(left) = ProcessId::of(up.id()) {
        left.kill_tree();
    }
    assert!(is_ended, "`up` goes on without its owner");
    assert_eq!(client.compose().len(), 2, "{}", client.note("asked"));
    assert!(client.compose()[1].starts_with("down --volumes"));
}
