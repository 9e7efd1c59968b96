//! `recover` asks a person before it acts. The person is at a pseudo terminal; standard output and
//! error are pipes, so that what is said can be told apart.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use mysql_async::prelude::Queryable;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::application::Plan;
use crate::support::{Ran, Service};

const QUESTION: &str = "make this recovery pass? [y/N] ";

/// The tool, having asked its question.
pub(crate) struct Asked {
    pub(crate) child: Child,
    keyboard: File,
    said: String,
}

impl Asked {
    pub(crate) fn run(service: &Service, arguments: &[&str]) -> Self {
        let (keyboard, terminal) = terminal();
        let mut child = service
            .tool(arguments)
            .stdin(terminal)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let stderr = child.stderr.as_mut().unwrap();
        while !said.ends_with(QUESTION) {
            let mut byte = [0];
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "not asked: {said}");
            said.push(char::from(byte[0]));
        }
        Self {
            child,
            keyboard,
            said,
        }
    }

    /// Types this, and waits for the end.
    pub(crate) fn answer(mut self, keys: &str) -> Ran {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        let mut ran = Ran::new(self.child.wait_with_output().unwrap());
        ran.stderr.insert_str(0, &self.said);
        ran
    }
}

/// The two ends of a terminal: where keys are typed, and where a program reads them.
pub(crate) fn terminal() -> (File, OwnedFd) {
    let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let name = ptsname(&keyboard, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let terminal = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    (File::from(keyboard), terminal)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_yes_acts() {
    let service = Service::new("prompt");
    service.create_tables().await;
    service.start(Plan::DecisionDurable).kill();
    // End of transmission at an empty line is the end of the input.
    for keys in ["n\n", "\n", "yess\n", "nonsense\n", "\u{4}"] {
        let no = Asked::run(&service, &["recover"]).answer(keys).exits(1);
        assert!(no.stderr.contains("nothing was done"), "{no:?}");
        assert_eq!(no.stdout, "");
        assert_eq!(service.rows().await, (0, 0), "{keys:?}");
    }
    let yes = Asked::run(&service, &["recover", "--format", "json"]);
    let yes = yes.answer("y\n").exits(0);
    service.shows_no_password(&yes);
    assert_eq!(yes.json()["clean"], true);
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_nobody_is_asked_and_nothing_is_done() {
    let service = Service::new("noterminal");
    service.create_tables().await;
    service.start(Plan::DecisionDurable).kill();
    let refused = service.run(&["recover"]).exits(2);
    assert!(
        refused
            .stderr
            .contains("add --yes to act, or --dry-run to look"),
        "{refused:?}"
    );
    assert_eq!(service.rows().await, (0, 0));
    // Nothing to ask about, nothing to refuse.
    service.run(&["recover", "--yes"]).exits(0);
    service.run(&["recover"]).exits(0);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_an_application_can_start_while_a_person_thinks_and_is_then_asked() {
    let service = Service::new("thinks");
    service.create_tables().await;
    service.start(Plan::DecisionDurable).kill();
    let asked = Asked::run(&service, &["recover", "--format", "json"]);
    let application = service.start(Plan::Idle);
    let answered = asked.answer("y\n").exits(0);
    assert_eq!(answered.json()["application"], application.pid());
    assert_eq!(service.rows().await, (1, 1));
    drop(application);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_is_killed_leaves_nothing_behind() {
    let service = Service::new("toolkilled");
    service.create_tables().await;
    service.start(Plan::DecisionDurable).kill();
    let mut asked = Asked::run(&service, &["recover"]);
    asked.child.kill().unwrap();
    asked.child.wait().unwrap();
    // At whatever moment it is killed: it may hold the log, or look at the databases.
    for millis in [5, 20, 50, 100] {
        let mut child = service
            .tool(&["list"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    service.run(&["list"]).exits(1);
    assert_eq!(service.rows().await, (0, 0));
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    service.drop_tables().await;
}

/// One resource takes its time: its address answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_takes_long_shows_a_bar_on_a_terminal_and_nowhere_else() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let service = Service::new("bar");
    service.create_tables().await;
    service.configure(&format!(
        "[resources.silent]\nurl = \"postgres://app@{}/shop\"\nconnect_timeout = \"1500ms\"",
        silent.local_addr().unwrap()
    ));
    // The service needs the other two alone.
    let config = service.config_text();
    let (whole, _) = config.split_once("[resources.silent]").unwrap();
    for on_terminal in [true, false] {
        service.write_config(whole);
        service.start(Plan::DecisionDurable).kill();
        service.write_config(&config);
        let arguments = ["recover", "--yes"];
        let said = if on_terminal {
            let (screen, terminal) = terminal();
            let mut child = {
                let mut tool = service.tool(&arguments);
                let tool = tool.env("TERM", "xterm").stdout(Stdio::null());
                // It alone has the terminal then.
                tool.stderr(terminal).spawn().unwrap()
            };
            let said = seen_on(screen);
            assert_eq!(child.wait().unwrap().code(), Some(2), "{said}");
            said
        } else {
            service.run(&arguments).exits(2).stderr
        };
        assert!(said.contains("done: 2 committed"), "{said}");
        assert_eq!(said.contains("/2 ended"), on_terminal, "{said}");
        service
            .orders(&format!("DELETE FROM {}", service.table))
            .await;
        let sql = format!("DELETE FROM {}", service.table);
        service.ledger().await.query_drop(sql).await.unwrap();
    }
    drop(silent);
    service.drop_tables().await;
}

/// Everything, until nobody has the other end any more.
fn seen_on(mut screen: File) -> String {
    let (mut seen, mut some) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = screen.read(&mut some) {
        seen.extend_from_slice(&some[..count]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}
