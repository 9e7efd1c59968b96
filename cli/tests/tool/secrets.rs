//! Invariant I8: no password in an output, at a process that others can look at, or with a child.

use crate::application::Plan;
use crate::support::Service;
use crate::terminal::Asked;

fn all_by_file(service: &Service) {
    let beside = |name: &str| service.config().with_file_name(name);
    std::fs::write(beside("orders.pw"), &service.passwords[0]).unwrap();
    let text = service.config_text();
    let (begin, rest) = text.split_once("password_env").unwrap();
    let (_, end) = rest.split_once('\n').unwrap();
    service.write_config(&format!("{begin}password_file = \"orders.pw\"\n{end}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_neither_arguments_nor_environment_of_the_tool_hold_what_it_has_read() {
    let service = Service::new("proc");
    service.create_tables().await;
    service.start(Plan::DecisionDurable).kill();
    // It has logged in everywhere by the time that it asks.
    let asked = Asked::run(&service, &["recover"]);
    let of_tool = |file: &str| std::fs::read(format!("/proc/{}/{file}", asked.child.id())).unwrap();
    let own = String::from_utf8_lossy(&of_tool("cmdline")).into_owned();
    assert!(own.contains("recover"), "{own}");
    for password in &service.passwords {
        assert!(!own.contains(password.as_str()));
    }
    let environment = String::from_utf8_lossy(&of_tool("environ")).into_owned();
    assert!(
        environment.contains("UNANIMOUS_TEST_ORDERS_PW"),
        "what the user gave is there"
    );
    assert!(!environment.contains("UNANIMOUS_TEST_LEDGER_PW"));
    let ledger = &service.passwords[1];
    let given = std::env::vars().any(|(_, value)| value.contains(ledger.as_str()));
    assert!(given || !environment.contains(ledger.as_str()));
    asked.answer("y\n").exits(0);
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_a_password_command_is_told_no_password_of_another_resource() {
    let service = Service::new("children");
    let folder = service.config().parent().unwrap().to_owned();
    all_by_file(&service);
    let seen = folder.join("seen");
    std::fs::write(
        folder.join("command.sh"),
        format!(
            "cat /proc/$$/environ /proc/$$/cmdline /proc/$PPID/environ /proc/$PPID/cmdline >> \
             '{}'\ncat '{}'\n",
            seen.display(),
            folder.join("ledger.pw").display()
        ),
    )
    .unwrap();
    let command = format!(
        "password_command = [\"sh\", \"{}\"]",
        folder.join("command.sh").display()
    );
    let text = service.config_text();
    service.write_config(&text.replace("password_file = \"ledger.pw\"", &command));
    let mut tool = service.tool(&["check", "--format", "json"]);
    // Only what a program needs, so that whatever is there came from the tool.
    let path = std::env::var_os("PATH").unwrap();
    let ran = tool.env_clear().env("PATH", path).output().unwrap();
    let checked: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    for resource in checked["resources"].as_array().unwrap() {
        assert!(resource["server"].is_string(), "{checked}");
    }
    let seen = String::from_utf8_lossy(&std::fs::read(seen).unwrap()).into_owned();
    assert!(
        seen.contains("command.sh") && seen.contains("check"),
        "{seen}"
    );
    for password in &service.passwords {
        assert!(!seen.contains(password.as_str()), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_no_output_holds_a_password_in_any_format_or_level_not_even_a_wrong_one() {
    let service = Service::new("outputs");
    service.start(Plan::Idle).kill();
    std::fs::write(service.config().with_file_name("ledger.pw"), "wr0ng s3cret").unwrap();
    for verb in [
        &["check"][..],
        &["list"],
        &["recover", "--yes"],
        &["recover", "--dry-run"],
    ] {
        for format in ["table", "json"] {
            let mut tool = service.tool(verb);
            let tool = tool.args(["--format", format]).env("RUST_LOG", "trace");
            let ran = crate::support::Ran::new(tool.env("RUST_BACKTRACE", "1").output().unwrap());
            let ran = ran.exits(2);
            service.shows_no_password(&ran);
            let all = format!("{}{}", ran.stdout, ran.stderr);
            assert!(!all.contains("s3cret"), "{all}");
            assert!(all.contains("ledger"), "{all}");
        }
    }
}
