//! A log in a table that applications share, on real servers: what the tool shows and does beside
//! them.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::application::Plan;
use crate::support::{Ran, Service};
use crate::terminal::Asked;

/// A service whose log is in one of its resources, in databases of its own.
pub(crate) struct Shared {
    pub(crate) service: Service,
    database: String,
    admins: [String; 2],
}

/// The address of another database of the same server.
pub(crate) fn in_database(url: &str, database: &str) -> String {
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{database}")
}

pub(crate) async fn admin_sql(admins: &[String; 2], orders: &str, ledger: &str) {
    let (url, sql) = (admins[0].clone(), orders.to_owned());
    let orders = tokio::task::spawn_blocking(move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        client.batch_execute(&sql).unwrap();
    });
    orders.await.unwrap();
    let opts = mysql_async::Opts::from_url(&admins[1]).unwrap();
    let opts = mysql_async::OptsBuilder::from_opts(opts).prefer_socket(false);
    let mut ledger_admin = mysql_async::Conn::new(opts).await.unwrap();
    ledger_admin.query_drop(ledger).await.unwrap();
}

impl Shared {
    pub(crate) async fn new(test: &str, home: &str, options: &str) -> Self {
        let set = xtask::servers::shared();
        Self::on(test, home, options, &set.pg15, &set.mysql).await
    }

    /// With the other half of the shared servers.
    pub(crate) async fn new_on_the_others(test: &str, home: &str, options: &str) -> Self {
        let set = xtask::servers::shared();
        Self::on(test, home, options, &set.pg_newest, &set.mariadb).await
    }

    async fn on(
        test: &str,
        home: &str,
        options: &str,
        orders: &xtask::servers::Address,
        ledger: &xtask::servers::Address,
    ) -> Self {
        let database = format!("cli_{test}_{}", std::process::id());
        let admins = [orders.admin_url.clone(), ledger.admin_url.clone()];
        admin_sql(
            &admins,
            &format!("CREATE DATABASE {database} OWNER app"),
            &format!("CREATE DATABASE {database}; GRANT ALL ON {database}.* TO 'app'@'%'"),
        )
        .await;
        let service = Service::at(
            test,
            &in_database(&orders.url, &database),
            &in_database(&ledger.url, &database),
        );
        let log = format!("resource = \"{home}\"\n{options}");
        let text = service.config_text().replace("folder = \"log\"", &log);
        service.write_config(&text);
        let shared = Self {
            service,
            database,
            admins,
        };
        shared.service.create_tables().await;
        shared
    }

    pub(crate) async fn drop_databases(self) {
        let database = &self.database;
        admin_sql(
            &self.admins,
            &format!("DROP DATABASE {database} WITH (FORCE)"),
            &format!("DROP DATABASE {database}"),
        )
        .await;
    }

    pub(crate) fn list(&self) -> Value {
        self.service.run(&["list", "--format", "json"]).json()
    }
}

/// The listed members by the epoch in a gtrid.
pub(crate) fn member(listing: &Value, gtrid: &str) -> Value {
    let epoch: u64 = gtrid.split('-').nth(1).unwrap().parse().unwrap();
    let members = listing["members"].as_array().unwrap();
    let found = members.iter().find(|member| member["epoch"] == epoch);
    found.cloned().unwrap_or(Value::Null)
}

fn states(ran: &Ran, gtrid: &str) -> Vec<(String, bool)> {
    let branches = ran.branches(gtrid).into_iter();
    let state = branches.map(|(_, branch)| {
        let state = branch["state"].as_str().unwrap().to_owned();
        (state, branch["in_doubt"].as_bool().unwrap())
    });
    state.collect()
}

/// Once a member that was killed is called silent: some time after its last sign of life.
async fn list_in_doubt(service: &Service) -> Ran {
    for _ in 0..600 {
        let ran = service.run(&["list", "--format", "json"]);
        if ran.code == Some(1) {
            return ran;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the killed one is never called silent");
}

const TWO_PHASE: &str = "last_resource = false\nsuspect_after = \"20s\"";
const QUICK: &str = "last_resource = false\nsuspect_after = \"1s\"";

/// One was killed and another lives: each branch has its member, and a person may close the dead
/// one's epoch at once. What the living one prepares is nobody's business.
async fn a_dead_member_is_told_from_a_living_one(shared: Shared) {
    let service = &shared.service;
    let dead = service.start(Plan::DecisionDurable).kill();
    let living = service.start(Plan::Idle);
    let listed = list_in_doubt(service).await;
    let json = listed.json();
    assert_eq!(json["shared"], true);
    assert!(json["application"].is_null());
    let (dead_one, living_one) = (member(&json, &dead), member(&json, &living.gtrid));
    assert_eq!(dead_one["state"], "silent", "{json}");
    assert_eq!(dead_one["branches"], 2, "{json}");
    assert!(dead_one["silent_seconds"].as_u64().unwrap() >= 5, "{json}");
    assert_eq!(living_one["state"], "alive", "{json}");
    assert!(living_one["silent_seconds"].is_null(), "{json}");
    let label = living_one["label"].as_str().unwrap();
    assert!(label.ends_with(&format!(":{}", living.pid())), "{json}");
    let silent = ("silent_member".to_owned(), true);
    assert_eq!(states(&listed, &dead), [silent.clone(), silent], "{json}");
    for (_, branch) in listed.branches(&dead) {
        assert_eq!(branch["member"], dead_one["label"], "{branch}");
    }

    let epoch = dead_one["epoch"].to_string();
    let arguments = ["recover", "--yes", "--format", "json", "--close", &epoch];
    let begun = Instant::now();
    let done = service.run(&arguments).exits(0);
    assert!(begun.elapsed() < Duration::from_secs(60));
    let said = format!("close epoch {epoch} of ");
    assert!(done.stderr.contains(&said), "{done:?}");
    assert_eq!(
        done.json()["closed_epochs"].to_string(),
        format!("[{epoch}]")
    );
    assert_eq!(service.rows().await, (1, 1), "decided, so committed");
    let after = shared.list();
    assert!(member(&after, &dead).is_null(), "{after}");
    assert_eq!(member(&after, &living.gtrid)["state"], "alive", "{after}");
    assert_eq!(after["members"].as_array().unwrap().len(), 1, "{after}");
    let again = service
        .run(&["recover", "--yes", "--close", &epoch])
        .exits(2);
    assert!(
        again.stderr.contains("no member with this epoch"),
        "{again:?}"
    );
    drop(living);
    shared.drop_databases().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_told_from_a_living_one_in_postgresql() {
    let shared = Shared::new("shpg", "orders", TWO_PHASE).await;
    a_dead_member_is_told_from_a_living_one(shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_told_from_a_living_one_in_mysql() {
    let shared = Shared::new("shmy", "ledger", TWO_PHASE).await;
    a_dead_member_is_told_from_a_living_one(shared).await;
}

/// A living member has a resource that the tool's file does not name, and has decided for it; and a
/// person who is asked whether to close its epoch says no.
#[tokio::test(flavor = "multi_thread")]
async fn i5_what_a_living_member_carries_out_is_not_in_doubt_whatever_this_file_names() {
    let options = "last_resource = false\nsuspect_after = \"20s\"";
    let shared = Shared::new("shthird", "orders", options).await;
    let service = &shared.service;
    let application = service.start(Plan::DecisionDurable);
    let whole = service.config_text();
    let (without, _) = whole.split_once("[resources.ledger]").unwrap();
    service.write_config(without);
    let listed = service.run(&["list"]).exits(0);
    assert!(!listed.stderr.contains("not registered"), "{listed:?}");
    let pass = service
        .run(&["recover", "--yes", "--format", "json"])
        .exits(0);
    assert_eq!(pass.json()["clean"], true, "{pass:?}");
    let shown = service.run(&["show", &application.gtrid]).exits(0);
    assert!(shown.stdout.contains("its owner lives"), "{shown:?}");
    service.write_config(&whole);
    let epoch = application.gtrid.split('-').nth(1).unwrap().to_owned();
    let asked = Asked::run(service, &["recover", "--close", &epoch]);
    let no = asked.answer("n\n").exits(1);
    assert!(no.stderr.contains("nothing was done"), "{no:?}");
    drop(application);
    let close = ["recover", "--yes", "--close", &epoch];
    service.run(&close).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    shared.drop_databases().await;
}

/// I5: the living member has prepared, and is about to decide; a pass beside it leaves it alone.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_pass_beside_a_living_member_leaves_its_branches() {
    let options = "last_resource = false\nsuspect_after = \"5s\"\nlabel = \"shop\"";
    let shared = Shared::new_on_the_others("shlive", "orders", options).await;
    let service = &shared.service;
    let mut application = service.start(Plan::BeforeDecide);
    let gtrid = application.gtrid.clone();
    let listed = service.run(&["list", "--format", "json"]).exits(0);
    let healthy = ("other_member".to_owned(), false);
    assert_eq!(states(&listed, &gtrid), [healthy.clone(), healthy]);
    let table = service.run(&["list"]).exits(0);
    let lines = table.lines(&gtrid);
    assert!(
        lines[0].contains("other member's") && lines[0].contains("shop"),
        "{table:?}"
    );
    assert!(
        table.stderr.contains("members: 1 alive, 0 silent"),
        "{table:?}"
    );
    let done = service.run(&["recover", "--yes"]).exits(0);
    let counts: Vec<_> = done
        .stdout
        .lines()
        .skip(1)
        .map(str::split_whitespace)
        .collect();
    for mut words in counts {
        assert_eq!(
            words.by_ref().skip(1).take(2).collect::<Vec<_>>(),
            ["0", "0"],
            "{done:?}"
        );
    }
    application.go_on();
    assert_eq!(application.word().as_deref(), Some("committed"));
    assert_eq!(service.rows().await, (1, 1));
    drop(application);
    shared.drop_databases().await;
}

/// Nobody is left: the tool, as a member for a while, waits for the end of the dead one's time.
async fn what_dead_members_left_is_ended_by_a_pass(shared: Shared) {
    let service = &shared.service;
    let decided = service.start(Plan::DecisionDurable).kill();
    assert_eq!(service.rows().await, (0, 0));
    let done = service
        .run(&["recover", "--yes", "--format", "json"])
        .exits(0);
    assert_eq!(done.json()["clean"], true, "{done:?}");
    assert_eq!(
        done.json()["closed_epochs"].as_array().unwrap().len(),
        1,
        "{done:?}"
    );
    assert_eq!(service.rows().await, (1, 1), "{decided}");
    let clean = service.run(&["list", "--format", "json"]).exits(0);
    assert_eq!(
        clean.json()["members"].as_array().unwrap().len(),
        0,
        "{clean:?}"
    );
    shared.drop_databases().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dead_members_left_is_ended_by_a_pass_in_postgresql() {
    let shared = Shared::new("shdead", "orders", QUICK).await;
    what_dead_members_left_is_ended_by_a_pass(shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dead_members_left_is_ended_by_a_pass_in_mariadb() {
    let shared = Shared::new_on_the_others("shdead2", "ledger", QUICK).await;
    what_dead_members_left_is_ended_by_a_pass(shared).await;
}

/// By a check, some time after the last sign of life.
async fn told_that_it_is_silent(service: &Service) {
    for _ in 0..100 {
        let checked = service.run(&["check", "--format", "json"]).json();
        let findings = checked["log"]["findings"].as_array().unwrap();
        if findings.iter().any(|found| found["subject"] == "members") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no check says that a member is silent");
}

async fn the_tables_are_made_once(shared: Shared) {
    let service = &shared.service;
    for verb in ["list", "recover"] {
        let ran = service.run(&[verb]).exits(2);
        assert!(ran.stderr.contains("unanimous_log"), "{ran:?}");
    }
    let checked = service.run(&["check", "--format", "json"]).exits(2).json();
    assert_eq!(
        checked["log"]["findings"][0]["subject"], "tables",
        "{checked}"
    );
    assert_eq!(
        checked["log"]["findings"][0]["severity"], "error",
        "{checked}"
    );
    assert!(checked["log"]["folder"].is_null(), "{checked}");
    let word = service.launch(Plan::Idle).word().unwrap();
    assert!(word.contains("unanimous_log"), "it makes none: {word}");
    let printed = service.run(&["log", "init", "--print"]).exits(0);
    assert!(
        printed.stdout.contains("CREATE TABLE IF NOT EXISTS"),
        "{printed:?}"
    );
    let checked = service.run(&["check", "--format", "json"]).exits(2).json();
    assert_eq!(
        checked["log"]["exists"], false,
        "printing made nothing: {checked}"
    );

    let made = service
        .run(&["log", "init", "--format", "json"])
        .exits(0)
        .json();
    assert_eq!(made["made"], true, "{made}");
    let again = service.run(&["log", "init"]).exits(0);
    assert!(
        again.stderr.contains("nothing to do: the tables are there"),
        "{again:?}"
    );
    let manager = made["manager"].as_str().unwrap();
    assert!(again.stderr.contains(manager), "{again:?}");
    let gtrid = service.start(Plan::Idle).kill();
    assert!(gtrid.starts_with(manager), "{gtrid}");
    let checked = service.run(&["check", "--format", "json"]).json();
    assert_eq!(checked["log"]["exists"], true, "{checked}");
    assert_eq!(checked["log"]["openings"], 1, "{checked}");
    told_that_it_is_silent(service).await;
    let findings = checked["log"]["findings"].as_array().unwrap();
    assert!(
        findings.iter().all(|found| found["severity"] == "note"),
        "{checked}"
    );
    shared.drop_databases().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_are_made_once_in_postgresql() {
    let options = "create = false\nsuspect_after = \"1s\"";
    the_tables_are_made_once(Shared::new_on_the_others("shinit", "orders", options).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_are_made_once_in_mysql() {
    let options = "create = false\nsuspect_after = \"1s\"";
    the_tables_are_made_once(Shared::new("shinit2", "ledger", options).await).await;
}

/// A database of its own: it is no resource, and its server's settings count as the log's.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_a_database_of_its_own_is_used_and_checked() {
    let shared = Shared::new("shown", "orders", "").await;
    let service = &shared.service;
    let text = service.config_text();
    let (_, orders) = text.split_once("[resources.orders]\nurl = ").unwrap();
    let (url, _) = orders.split_once('\n').unwrap();
    let own = format!(
        "{QUICK}\n[log.postgres]\nurl = {url}\npassword_env = \"{}\"",
        crate::support::PASSWORDS[0]
    );
    service.write_config(&text.replace("resource = \"orders\"", &own));
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let listed = list_in_doubt(service).await;
    assert_eq!(listed.branches(&gtrid).len(), 2, "{listed:?}");
    let checked = service.run(&["check", "--format", "json"]).json();
    assert_eq!(checked["log"]["exists"], true, "{checked}");
    assert_eq!(checked["log"]["pending"], 1, "{checked}");
    assert_eq!(
        checked["resources"].as_array().unwrap().len(),
        2,
        "{checked}"
    );
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    shared.drop_databases().await;
}
