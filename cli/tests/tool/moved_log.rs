//! A log that is moved, on real servers: nothing pending is lost, at no time are there two, and a
//! move that is killed anywhere goes on.

use std::cell::Cell;
use std::path::PathBuf;

use mysql_async::prelude::Queryable;
use unanimous::mysql::Mysql;
use unanimous::operator::{Access, ConfigFile, Move};
use unanimous::ports::{HandRow, LogImage, Standing, TableErrorKind, TableMove, TableMoves};
use unanimous::postgres::Postgres;
use unanimous::{Gtrid, ManagerId};

use crate::application::Plan;
use crate::shared_log::Shared;
use crate::support::{Ran, Service};

const TABLE: &str = "last_resource = false\nsuspect_after = \"1s\"";

impl Shared {
    /// A config file beside the service's, with another `[log]`; this process may use it, too.
    pub(crate) fn config_with(&self, name: &str, log: &str) -> PathBuf {
        let service = &self.service;
        let path = service.config().with_file_name(name);
        let password = path.with_file_name("orders.pw");
        std::fs::write(password, &service.passwords[0]).unwrap();
        let text = service.config_text();
        let (_, resources) = text.split_once("[resources.orders]").unwrap();
        let by_env = format!("password_env = \"{}\"", crate::support::PASSWORDS[0]);
        let resources = resources.replace(&by_env, "password_file = \"orders.pw\"");
        let text = format!("[log]\n{log}\n[resources.orders]{resources}");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn moved(&self, from: &str, to: &str) -> Ran {
        let to = self.service.config().with_file_name(to);
        self.run_with(
            from,
            &["log", "move", "--to", to.to_str().unwrap(), "--yes"],
        )
    }

    fn run_with(&self, config: &str, arguments: &[&str]) -> Ran {
        use_config(&self.service, config);
        self.service.run(arguments)
    }

    async fn delete_rows(&self) {
        let sql = format!("DELETE FROM {}", self.service.table);
        self.service.orders(&sql).await;
        let mut ledger = self.service.ledger().await;
        ledger.query_drop(sql).await.unwrap();
    }
}

/// The tool and the applications use this file from now on.
fn use_config(service: &Service, name: &str) {
    let path = service.config().with_file_name(name);
    std::fs::copy(path, service.config()).unwrap();
}

#[track_caller]
fn is_decided(ran: &Ran, gtrid: &str) {
    let branches = ran.branches(gtrid);
    assert_eq!(branches.len(), 2, "{ran:?}");
    for (_, branch) in branches {
        assert_eq!(branch["state"], "decided", "{branch}");
    }
}

const LIST: [&str; 3] = ["list", "--format", "json"];

async fn there_and_back(shared: Shared, home: &str) {
    shared.config_with("old.toml", "folder = \"log\"");
    shared.config_with("table.toml", &format!("resource = \"{home}\"\n{TABLE}"));
    shared.config_with("new.toml", "folder = \"log2\"");
    let first = into_the_table(&shared).await;
    shared.delete_rows().await;
    out_of_the_table(&shared, &first).await;

    // Not into what was left behind, and not twice.
    let again = shared.moved("table.toml", "new.toml").exits(0);
    assert!(
        again.stderr.contains("there is nothing left to do"),
        "{again:?}"
    );
    let back = shared.moved("new.toml", "table.toml").exits(2);
    assert!(
        back.stderr.contains("a log was here and was moved to"),
        "{back:?}"
    );
    let other = shared.moved("old.toml", "new.toml").exits(2);
    assert!(other.stderr.contains("this log was moved to"), "{other:?}");
    shared.drop_databases().await;
}

/// The transaction that was pending meanwhile.
async fn into_the_table(shared: &Shared) -> String {
    let service = &shared.service;
    use_config(service, "old.toml");
    let first = service.start(Plan::DecisionDurable);
    let refused = shared.moved("old.toml", "table.toml").exits(2);
    assert!(
        refused.stderr.contains("in use by the process with pid"),
        "{refused:?}"
    );
    let first = first.kill();
    let moved = shared.moved("old.toml", "table.toml").exits(0);
    assert!(
        moved.stderr.contains("1 openings, 1 pending decisions"),
        "{moved:?}"
    );
    for verb in [&["list"][..], &["recover", "--yes"]] {
        let gone = shared.run_with("old.toml", verb).exits(2);
        assert!(gone.stderr.contains("this log was moved to"), "{gone:?}");
    }
    let late = service.launch(Plan::Idle).word().unwrap();
    assert!(
        late.contains("this log was moved to"),
        "no second log begins: {late}"
    );
    is_decided(&shared.run_with("table.toml", &LIST).exits(1), &first);
    shared
        .run_with("table.toml", &["recover", "--yes"])
        .exits(0);
    assert_eq!(service.rows().await, (1, 1));
    first
}

/// With another one.
async fn out_of_the_table(shared: &Shared, first: &str) {
    let service = &shared.service;
    use_config(service, "table.toml");
    let second = service.start(Plan::DecisionDurable);
    let refused = shared.moved("table.toml", "new.toml").exits(2);
    let said = format!(":{} (epoch ", second.pid());
    let is_told = refused.stderr.contains("the log is in use by") && refused.stderr.contains(&said);
    assert!(is_told, "{refused:?}");
    let second = second.kill();
    assert_eq!(
        second.split('-').next(),
        first.split('-').next(),
        "the manager stays"
    );
    let moved = shared.moved("table.toml", "new.toml").exits(0);
    assert!(
        moved
            .stderr
            .contains("gives no sign of life, is closed first"),
        "{moved:?}"
    );
    let gone = shared.run_with("table.toml", &["list"]).exits(2);
    assert!(
        gone.stderr.contains("this log was moved to folder "),
        "{gone:?}"
    );
    let late = service.launch(Plan::Idle).word().unwrap();
    assert!(late.contains("this log was moved to folder "), "{late}");
    is_decided(&shared.run_with("new.toml", &LIST).exits(1), &second);
    shared.run_with("new.toml", &["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_to_postgresql_and_back_with_what_is_pending() {
    there_and_back(Shared::new("mvpg", "orders", TABLE).await, "orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_to_mysql_and_back_with_what_is_pending() {
    there_and_back(Shared::new("mvmy", "ledger", TABLE).await, "ledger").await;
}

/// Begins the move and drops it at its step `at`, as a kill would. Did it get there?
async fn killed_at(from: &ConfigFile, to: &ConfigFile, at: u32) -> bool {
    let plan = Move::plan(from, to).await.unwrap();
    let step = Cell::new(0);
    let reached = async |_| {
        step.set(step.get() + 1);
        if step.get() > at {
            std::future::pending::<()>().await;
        }
    };
    let run = plan.run_watched(reached);
    let watch = async {
        while step.get() <= at {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        moved = run => {
            moved.unwrap();
            false
        }
        () = watch => true,
    }
}

async fn opens(file: &ConfigFile) -> Result<(), String> {
    let access = Access::open(file)
        .await
        .map_err(|error| error.to_string())?;
    let listing = access.list().await.unwrap();
    access.close().await.unwrap();
    listing.log_error.map_or(Ok(()), Err)
}

/// One pending decision goes from home to home, and each move is killed at one step more than the
/// one before.
async fn a_move_goes_on_wherever_it_was_killed(shared: Shared, home: &str, drop_tables: &[&str]) {
    let service = &shared.service;
    let table = shared.config_with("table.toml", &format!("resource = \"{home}\"\n{TABLE}"));
    shared.config_with("log0.toml", "folder = \"log0\"");
    use_config(service, "log0.toml");
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let table = ConfigFile::read(table).unwrap();
    let mut at = 0;
    let mut went_on = true;
    while went_on {
        went_on = false;
        let names = [at, at + 1].map(|number| format!("log{number}.toml"));
        let log = format!("folder = \"log{}\"", at + 1);
        shared.config_with(&names[1], &log);
        let folders = names
            .clone()
            .map(|name| ConfigFile::read(service.config().with_file_name(name)).unwrap());
        for (from, to, from_name, to_name) in [
            (&folders[0], &table, &*names[0], "table.toml"),
            (&table, &folders[1], "table.toml", &*names[1]),
        ] {
            let was_killed = killed_at(from, to, at).await;
            went_on |= was_killed;
            match (opens(from).await, opens(to).await) {
                (Ok(()), Err(_)) => assert!(was_killed, "{at}: it was moved"),
                (Err(said), Ok(())) => assert!(said.contains("was moved to"), "{at}: {said}"),
                (Err(old), Err(new)) => {
                    assert!(was_killed, "{at}: {old} {new}");
                    assert!(old.contains("unanimous log move again"), "{at}: {old}");
                }
                (Ok(()), Ok(())) => panic!("two logs, after step {at}"),
            }
            shared.moved(from_name, to_name).exits(0);
            is_decided(&shared.run_with(to_name, &LIST).exits(1), &gtrid);
            shared.run_with(from_name, &["list"]).exits(2);
        }
        for sql in drop_tables {
            match home {
                "orders" => service.orders(sql).await,
                _ => service.ledger().await.query_drop(*sql).await.unwrap(),
            }
        }
        at += 1;
    }
    assert!(at > 6, "so many steps there are: {at}");
    let last = format!("log{at}.toml");
    shared.run_with(&last, &["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    shared.drop_databases().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_move_with_postgresql_goes_on_wherever_it_was_killed() {
    let shared = Shared::new_on_the_others("mvkill", "orders", TABLE).await;
    let drop_tables = ["DROP SCHEMA unanimous CASCADE"];
    a_move_goes_on_wherever_it_was_killed(shared, "orders", &drop_tables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_move_with_mariadb_goes_on_wherever_it_was_killed() {
    let shared = Shared::new_on_the_others("mvkill2", "ledger", TABLE).await;
    let tables = ["log", "opening", "epoch", "decision", "heuristic", "member"];
    let drop_tables = tables.map(|table| format!("DROP TABLE unanimous_{table}"));
    let drop_tables = drop_tables.each_ref().map(String::as_str);
    a_move_goes_on_wherever_it_was_killed(shared, "ledger", &drop_tables).await;
}

/// A member that was paused, and whose epoch was closed for the move, must not come back there.
async fn nobody_joins_a_log_that_was_moved(shared: Shared, home: &str) {
    let path = shared.config_with("t.toml", &format!("resource = \"{home}\"\n{TABLE}"));
    let parts = ConfigFile::read(path).unwrap().parts().unwrap();
    let table = match home {
        "orders" => parts.resource::<Postgres>(home).unwrap().table_move(),
        _ => parts.resource::<Mysql>(home).unwrap().table_move(),
    };
    assert_eq!(table.standing().await.unwrap(), Standing::Empty);
    let manager: ManagerId = "0123456789abcdef".parse().unwrap();
    table.begin_arrival(manager, "there").await.unwrap();
    let arriving = Standing::Arriving(manager, "there".into());
    assert_eq!(table.standing().await.unwrap(), arriving);
    table.join(7, "early").await.unwrap_err();
    assert!(
        table
            .arrive("elsewhere", &LogImage::default())
            .await
            .is_err()
    );
    assert!(table.end_arrival("elsewhere").await.is_err());
    assert!(table.begin_arrival(manager, "elsewhere").await.is_err());
    table.end_arrival("there").await.unwrap();
    assert_eq!(
        table.standing().await.unwrap(),
        Standing::Empty,
        "nobody has joined it"
    );
    let member = table.join(7, "member").await.unwrap();
    assert_eq!(table.standing().await.unwrap(), Standing::Here(manager));
    assert!(
        table.begin_arrival(manager, "there").await.is_err(),
        "a log is here"
    );
    let open = table.seal("there").await.unwrap_err().to_string();
    assert!(open.contains("an epoch is open"), "{open}");
    assert_eq!(table.standing().await.unwrap(), Standing::Here(manager));
    table.close(member.opening.epoch).await.unwrap();
    for _ in 0..2 {
        table.seal("there").await.unwrap();
        let sealed = Standing::Sealed(manager, "there".into());
        assert_eq!(table.standing().await.unwrap(), sealed);
        table.join(8, "paused").await.unwrap_err();
    }
    assert!(table.seal("elsewhere").await.is_err());
    nothing_is_recorded_there(&*table, member.opening.gtrid(1)).await;
    shared.drop_databases().await;
}

/// By a member that was paused: lost here, a heuristic end is told as a commit there.
async fn nothing_is_recorded_there(table: &dyn TableMove, gtrid: Gtrid) {
    let late = HandRow {
        id: 1,
        gtrid,
        resource: "orders".parse().unwrap(),
        state: 'I',
        words: "commit|1|somebody|a reason".into(),
    };
    let refused = table.record_by_hand(&late).await.unwrap_err().to_string();
    assert!(refused.contains("this log was moved to there"), "{refused}");
    let refused = table.record_heuristic(gtrid, &late.resource, 'r').await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), TableErrorKind::Unfit, "{refused}");
    let refused = refused.to_string();
    assert!(refused.contains("this log was moved to there"), "{refused}");
    let (image, _) = table.image().await.unwrap();
    assert_eq!(
        (
            image.openings.len(),
            image.by_hand.len(),
            image.heuristics.len()
        ),
        (1, 0, 0),
        "{image:?}"
    );
    let refused = table.check().await.unwrap_err().to_string();
    assert!(refused.contains("this log was moved to there"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_nobody_joins_a_log_that_was_moved_in_postgresql() {
    nobody_joins_a_log_that_was_moved(Shared::new("mvjoin", "orders", TABLE).await, "orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_nobody_joins_a_log_that_was_moved_in_mysql() {
    nobody_joins_a_log_that_was_moved(Shared::new("mvjoin2", "ledger", TABLE).await, "ledger")
        .await;
}

/// From table to table, and while it arrives a fail-over loses the seal: what the old home's server
/// would do to the mark is done to it by hand.
#[tokio::test(flavor = "multi_thread")]
async fn i1_a_move_ends_only_as_long_as_the_seal_holds() {
    let shared = Shared::new("mvseal", "orders", TABLE).await;
    let service = &shared.service;
    let table = |home: &str| format!("resource = \"{home}\"\n{TABLE}");
    let [old, new] = ["orders", "ledger"].map(|home| {
        let path = shared.config_with(&format!("{home}.toml"), &table(home));
        ConfigFile::read(path).unwrap()
    });
    use_config(service, "orders.toml");
    let gtrid = service.start(Plan::DecisionDurable).kill();
    let plan = Move::plan(&old, &new).await.unwrap();
    let unseal = async |step: &'static str| {
        if step == "arrived" {
            service
                .orders("UPDATE unanimous.unanimous_log SET moved = NULL")
                .await;
        }
    };
    let error = plan.run_watched(unseal).await.unwrap_err().to_string();
    assert!(error.contains("the seal is gone"), "{error}");
    opens(&old).await.unwrap();
    opens(&new).await.unwrap_err();
    shared.moved("orders.toml", "ledger.toml").exits(2);
    let tables = ["log", "opening", "epoch", "decision", "heuristic", "member"];
    for table in tables {
        let sql = format!("DROP TABLE unanimous_{table}");
        service.ledger().await.query_drop(sql).await.unwrap();
    }
    shared.moved("orders.toml", "ledger.toml").exits(0);
    is_decided(&shared.run_with("ledger.toml", &LIST).exits(1), &gtrid);
    shared
        .run_with("ledger.toml", &["recover", "--yes"])
        .exits(0);
    assert_eq!(service.rows().await, (1, 1));
    shared.drop_databases().await;
}

/// The old home's server fails over when it is sealed: the seal went along, and what else did not
/// nobody knows. The move ends, and what is not decided there is left to a person.
#[tokio::test(flavor = "multi_thread")]
async fn i3_a_move_whose_old_server_fails_over_when_it_is_sealed_ends_in_doubt() {
    let shared = Shared::new("mvfail", "orders", TABLE).await;
    let service = &shared.service;
    let table = format!("resource = \"orders\"\n{TABLE}");
    let [old, new] = [("old", &*table), ("new", "folder = \"log2\"")].map(|(name, log)| {
        let path = shared.config_with(&format!("{name}.toml"), log);
        ConfigFile::read(path).unwrap()
    });
    use_config(service, "old.toml");
    let decided = service.start(Plan::DecisionDurable).kill();
    let plan = Move::plan(&old, &new).await.unwrap();
    let fail_over = async |step: &'static str| {
        if step == "sealed" {
            let sql = "UPDATE unanimous.unanimous_opening SET identity = 'pg:1/1'";
            service.orders(sql).await;
        }
    };
    let moved = plan.run_watched(fail_over).await.unwrap();
    assert_eq!(moved.counts.pending, 1, "{moved:?}");
    assert_eq!(moved.doubtful_epochs, [1]);
    use_config(service, "new.toml");
    is_decided(&service.run(&LIST).exits(1), &decided);
    service.run(&["recover", "--yes"]).exits(0);
    assert_eq!(service.rows().await, (1, 1));
    let (epoch, _) = decided.rsplit_once('-').unwrap();
    let undecided = format!("{epoch}-77");
    let shown = service.run(&["log", "show", &undecided, "--format", "json"]);
    assert!(shown.stdout.contains("may_be_lost"), "{shown:?}");
    shared.drop_databases().await;
}
