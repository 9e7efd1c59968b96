//! `barrier`: an application's decisions are held as long as the tool stands there, and no longer.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::application::Plan;
use crate::by_hand::{gid, other_of};
use crate::shared_log::Shared;
use crate::support::Service;

/// The tool, holding decisions until it is told.
struct Standing(Child);

impl Standing {
    fn new(service: &Service, arguments: &[&str]) -> Self {
        let mut tool = service.tool(&[&["barrier"], arguments].concat());
        let tool = tool.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(tool.stderr(Stdio::null()).spawn().unwrap())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.0.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        line
    }
}

/// Nothing is committed, and nothing is split.
async fn assert_held(service: &Service) {
    let (orders, ledger) = service.rows().await;
    assert_eq!(orders, ledger);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(service.rows().await, (orders, ledger));
}

async fn assert_goes_on(service: &Service) {
    let (before, _) = service.rows().await;
    for _ in 0..1000 {
        if service.rows().await.0 > before + 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("decisions are held for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_of_a_living_application_are_held_until_enter() {
    let service = Service::new("barrier");
    service.create_tables().await;
    let _application = service.start(Plan::Busy);
    let mut tool = Standing::new(&service, &[]);
    let line = tool.line();
    assert!(line.starts_with("the barrier stands: it took "), "{line}");
    assert_held(&service).await;
    writeln!(tool.0.stdin.as_mut().unwrap()).unwrap();
    let line = tool.line();
    assert!(line.starts_with("the barrier has held for "), "{line}");
    assert!(tool.0.wait().unwrap().success());
    assert_goes_on(&service).await;

    // A tool that dies holds nothing.
    let mut tool = Standing::new(&service, &["--limit", "10m"]);
    tool.line();
    assert_held(&service).await;
    tool.0.kill().unwrap();
    tool.0.wait().unwrap();
    assert_goes_on(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_ended_by_hand_in_an_application_whose_decisions_are_held() {
    let service = Service::new("barrier_hand");
    service.configure("[limits]\nrecovery_interval = \"1h\"\nrecovery_interval_max = \"1h\"\n");
    service.create_tables().await;
    let application = service.start_idle();
    let mut tool = Standing::new(&service, &[]);
    tool.line();
    let gtrid = other_of(&application.gtrid);
    service.prepare_orders(&gid(&gtrid, "orders"), 10).await;
    let mut words = vec!["resolve", &gtrid, "--commit", "--against-the-decision"];
    words.extend(["--reason", "ticket 4713", "--yes"]);
    let refused = service.run(&words).exits(2);
    assert!(refused.stderr.contains("a barrier stands"), "{refused:?}");
    assert_eq!(service.rows().await, (0, 0));
    writeln!(tool.0.stdin.as_mut().unwrap()).unwrap();
    assert!(tool.0.wait().unwrap().success());
    service.run(&words).exits(0);
    assert_eq!(service.rows().await, (1, 0));
    drop(application);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_under_the_barrier_and_its_exit_code_is_told_if_it_has_held() {
    let service = Service::new("barrier_command");
    service.create_tables().await;
    let application = service.start(Plan::Busy);
    let ran = service.run(&["barrier", "--", "sh", "-c", "echo out; exit 7"]);
    let ran = ran.exits(7);
    assert_eq!(ran.stdout, "out\n", "it is the command's alone");
    assert!(ran.stderr.contains("the barrier stands"), "{ran:?}");
    assert!(ran.stderr.contains("the barrier has held for"), "{ran:?}");
    let killed = service.run(&["barrier", "--", "sh", "-c", "kill -9 $$"]);
    killed.exits(128 + 9);
    let late = service.run(&["barrier", "--limit", "300ms", "--", "sleep", "1"]);
    let late = late.exits(2);
    assert!(late.stderr.contains("THE BARRIER HAS NOT HELD"), "{late:?}");
    let long = service
        .run(&["barrier", "--limit", "2h", "--", "true"])
        .exits(2);
    assert!(long.stderr.contains("one hour at most"), "{long:?}");
    let absent = service.run(&["barrier", "--", "/no/such/program"]).exits(2);
    assert!(absent.stderr.contains("cannot be run"), "{absent:?}");
    assert_goes_on(&service).await;

    application.kill();
    service.run(&["recover", "--yes"]);
    let alone = service.run(&["barrier", "--", "true"]).exits(0);
    for said in ["no application holds the log", "holding the log"] {
        assert!(alone.stderr.contains(said), "{alone:?}");
    }
    service.drop_tables().await;
}

/// Without an application the tool holds the log itself, and lets it go when the limit has passed,
/// however long the command goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_can_start_when_the_limit_has_passed_and_the_command_goes_on() {
    let service = Service::new("barrier_late");
    service.create_tables().await;
    service.start(Plan::Busy).kill();
    service.run(&["recover", "--yes"]);
    let go = service.config().with_file_name("go");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.05; done", go.display());
    let mut tool = service.tool(&["barrier", "--limit", "300ms", "--", "sh", "-c", &script]);
    let mut tool = tool.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tool.stderr.take().unwrap()).lines();
    lines
        .find(|line| line.as_ref().unwrap().contains("THE BARRIER HAS NOT HELD"))
        .unwrap()
        .unwrap();
    // It says so, and then lets go.
    let is_ready = |_: &u32| service.launch(Plan::Obedient).word().unwrap() == "ready";
    let started = (0..20).find(is_ready);
    std::fs::write(go, "").unwrap();
    assert_eq!(tool.wait().unwrap().code(), Some(2));
    assert!(
        started.is_some(),
        "the log is held as long as the command runs"
    );
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_of_every_member_of_a_shared_log_are_held() {
    let shared = Shared::new("barrier_shared", "orders", "suspect_after = \"2s\"").await;
    let member = shared.service.start(Plan::Busy);
    let mut tool = Standing::new(&shared.service, &["--format", "json"]);
    let stood: Value = serde_json::from_str(&tool.line()).unwrap();
    assert_eq!(
        (&stood["shared"], &stood["application"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(stood["unfinished"], Value::Array(Vec::new()));
    assert_held(&shared.service).await;
    writeln!(tool.0.stdin.as_mut().unwrap()).unwrap();
    let ended: Value = serde_json::from_str(&tool.line()).unwrap();
    assert!(ended["held_ms"].as_u64().unwrap() >= 300, "{ended}");
    let lines = format!("{stood}\n{ended}");
    crate::schema::check(&["barrier", "--format", "json"], &lines);
    assert!(tool.0.wait().unwrap().success());
    assert_goes_on(&shared.service).await;
    drop(member);
    // What it has left prepared keeps a database from being dropped.
    let recover = ["recover", "--yes", "--close", "1"];
    shared.service.run(&recover).exits(0);
    shared.drop_databases().await;
}
