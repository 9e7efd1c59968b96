//! The control socket between tool and application: who may use it, and what happens when the other
//! end is old, new, mad, silent, dead or not alone.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;

use unanimous::log::FileLog;

use crate::application::Plan;
use crate::support::{Ran, Service};

/// Something that listens in the log's folder and answers every request with this line.
fn answers(service: &Service, line: &'static str) {
    let listener = UnixListener::bind(service.log().join("control.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            // Whoever only looks whether somebody is there does not listen.
            drop(writeln!(stream, "{line}"));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_of_another_release_or_a_mad_one_is_refused_with_a_mend() {
    for (test, line, said) in [
        (
            "older",
            r#"{"version":0,"answer":{"done":{}}}"#,
            "version 0 of the control protocol, and this program version 1: use the tool of the \
             application's release",
        ),
        (
            "newer",
            r#"{"version":9,"answer":{"novelty":{}}}"#,
            "version 9 of the control protocol",
        ),
        (
            "mad",
            "\u{1b}[2Jhello",
            "the application's answer: it cannot be read",
        ),
        (
            "torn",
            r#"{"version":1,"answer":{"done":{"#,
            "cannot be read",
        ),
        (
            "refusing",
            r#"{"version":1,"answer":{"error":"not today"}}"#,
            "control.sock: not today",
        ),
        (
            "mixed",
            r#"{"version":1,"answer":{"done":{"application":1,"resources":[],
                "unknown_resources":[],"unfinished":[],"log_error":null,"clean":true}}}"#,
            "cannot be read",
        ),
    ] {
        let service = Service::new(test);
        std::fs::create_dir(service.log()).unwrap();
        answers(&service, line);
        for arguments in [
            &["list"][..],
            &["recover", "--yes"],
            &["recover", "--dry-run"],
        ] {
            let ran = service.run(arguments).exits(2);
            assert!(ran.stderr.contains(said), "{test}: {ran:?}");
            assert!(!ran.stderr.contains('\u{1b}'), "{ran:?}");
            assert_eq!(ran.stdout, "");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_socket_and_folder_are_the_applications_users_alone() {
    let service = Service::new("modes");
    let application = service.start(Plan::Idle);
    let mode = |path| {
        std::fs::symlink_metadata(path)
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(service.log().join("control.sock")), 0o600);
    assert_eq!(mode(service.log()), 0o700);
    drop(application);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_silence_on_the_socket_hurt_neither_transactions_nor_other_tools() {
    let service = Service::new("silence");
    service.create_tables().await;
    let application = service.start(Plan::Busy);
    let socket = service.log().join("control.sock");
    // As many as are answered at a time, and one that sends what no line is.
    let silent: Vec<_> = (0..4)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let mut garbage = UnixStream::connect(&socket).unwrap();
    garbage.write_all(&[0xff; 100_000]).unwrap_or(());
    let before = service.rows().await;
    // It waits for its turn, no longer than silence is borne.
    let listed = service.run(&["list", "--format", "json"]).exits(0);
    assert_eq!(listed.json()["application"], application.pid());
    assert!(
        service.rows().await > before,
        "transactions went on meanwhile"
    );
    for mut stream in silent {
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "", "hung up on");
    }
    drop(application);
    service.run(&["recover", "--yes"]).exits(0);
    service.drop_tables().await;
}

fn at_once(service: &Service, arguments: &[&str]) -> Vec<Ran> {
    let start = |_| {
        let mut command = service.tool(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let children: Vec<_> = (0..6).map(start).collect();
    let end = |child: std::process::Child| Ran::new(child.wait_with_output().unwrap());
    children.into_iter().map(end).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tools_at_once_are_all_answered_by_the_application() {
    let service = Service::new("many");
    service.create_tables().await;
    let application = service.start(Plan::Busy);
    for ran in at_once(&service, &["list"]) {
        ran.exits(0);
    }
    for ran in at_once(&service, &["recover", "--yes"]) {
        ran.exits(0);
    }
    drop(application);
    service.run(&["recover", "--yes"]).exits(0);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_of_many_tools_without_an_application_one_at_a_time_holds_the_log() {
    let service = Service::new("manyalone");
    service.create_tables().await;
    service.start(Plan::DecisionDurable).kill();
    for ran in at_once(&service, &["list"]) {
        // To look is in nobody's way.
        ran.exits(1);
    }
    let mut acted = 0;
    for ran in at_once(&service, &["recover", "--yes"]) {
        match ran.code {
            Some(0) => acted += 1,
            Some(2) => assert!(ran.stderr.contains("in use by"), "{ran:?}"),
            _ => panic!("{ran:?}"),
        }
    }
    assert!(acted > 0);
    assert_eq!(service.rows().await, (1, 1));
    service.run(&["list"]).exits(0);
    service.drop_tables().await;
}

/// The application is stopped while it is asked, and goes on later.
#[tokio::test(flavor = "multi_thread")]
async fn i5_an_application_that_does_not_answer_is_waited_for_and_not_acted_beside() {
    use rustix::process::{Pid, Signal, kill_process};

    let service = Service::new("stopped");
    let application = service.start(Plan::Idle);
    let pid = Pid::from_raw(application.pid().cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let mut command = service.tool(&["list"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = || lines.next().unwrap().unwrap();
    assert!(said().contains("asking the application"));
    assert!(said().contains("still waiting"));
    kill_process(pid, Signal::CONT).unwrap();
    assert!(said().contains("0 in doubt"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(application);
    let log = FileLog::at(service.log()).inspect().unwrap();
    assert_eq!(log.openings.len(), 1, "nobody else has opened the log");
}
