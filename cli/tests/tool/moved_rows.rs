//! What a log may hold when it is to be moved or exported: its home is sealed only for one that
//! takes all of it, for nothing unseals it.

use unanimous::ManagerId;
use unanimous::operator::{ConfigFile, LogExport, LogImport, Move, OperatorError, Verified};
use unanimous::ports::{HandRow, RowState, Standing, TableMove, TableMoves};
use unanimous::postgres::Postgres;
use unanimous::{Gtrid, Opening};

use crate::shared_log::Shared;

const TABLE: &str = "resource = \"orders\"\nlast_resource = false\nsuspect_after = \"1s\"";

struct Home {
    shared: Shared,
    file: ConfigFile,
    table: std::sync::Arc<dyn TableMove>,
    manager: ManagerId,
    opening: Opening,
}

/// A log in PostgreSQL whose only member has left it.
async fn home(test: &str) -> Home {
    let shared = Shared::new(test, "orders", "last_resource = false").await;
    let path = shared.config_with("table.toml", TABLE);
    let file = ConfigFile::read(path).unwrap();
    let parts = file.parts().unwrap();
    let table = parts.resource::<Postgres>("orders").unwrap().table_move();
    let manager: ManagerId = "0123456789abcdef".parse().unwrap();
    table.init(manager).await.unwrap();
    let opening = table.join(7, "member").await.unwrap().opening;
    table.close(opening.epoch).await.unwrap();
    Home {
        shared,
        file,
        table,
        manager,
        opening,
    }
}

impl Home {
    fn folder(&self, name: &str) -> ConfigFile {
        let log = format!("folder = \"{name}\"");
        let path = self.shared.config_with(&format!("{name}.toml"), &log);
        ConfigFile::read(path).unwrap()
    }

    /// Its epoch is another opening's by now.
    fn of_a_lost_opening(&self) -> Gtrid {
        let nonce = self.opening.nonce + 1;
        Opening {
            nonce,
            ..self.opening
        }
        .gtrid(1)
    }

    async fn is_here(&self) {
        let here = Standing::Here(self.manager);
        assert_eq!(self.table.standing().await.unwrap(), here);
    }

    /// As somebody writes it who knows a record that this program does not.
    async fn record_strangely(&self) {
        let row = HandRow {
            id: 1,
            gtrid: self.opening.gtrid(3),
            resource: "orders".parse().unwrap(),
            state: 'I',
            words: "act of another kind\n".into(),
        };
        self.table.record_by_hand(&row).await.unwrap();
    }

    async fn forget_it(&self) {
        let sql = "DELETE FROM unanimous.unanimous_by_hand";
        self.shared.service.orders(sql).await;
    }
}

/// After an asynchronous fail-over the program itself puts such a row there.
#[tokio::test(flavor = "multi_thread")]
async fn i6_a_rollback_of_an_opening_that_was_lost_is_in_nobodys_way() {
    let home = home("mvlost").await;
    let lost = home.of_a_lost_opening();
    let put = home.table.put_rollback(lost).await.unwrap();
    assert_eq!(put, RowState::RolledBack);
    let verified = Verified::run(&home.file).await.unwrap();
    assert!(verified.sound, "{verified:?}");

    let mut bytes = Vec::new();
    let export = LogExport::plan(&home.file, false, false).await.unwrap();
    export.run(&mut bytes).await.unwrap();
    let import = LogImport::plan(&home.folder("copy"), &bytes, true).await;
    import.unwrap().run().await.unwrap();

    let (old, new) = (&home.file, home.folder("log2"));
    let moved = Move::plan(old, &new).await.unwrap().run().await.unwrap();
    assert_eq!((moved.counts.openings, moved.counts.pending), (1, 0));
    home.shared.drop_databases().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i6_no_home_is_sealed_for_one_that_cannot_take_its_rows() {
    let home = home("mvrows").await;
    let (old, new) = (&home.file, home.folder("log2"));
    home.record_strangely().await;
    let gtrid = home.opening.gtrid(3).to_string();
    for error in [
        Move::plan(old, &new).await.map(drop).unwrap_err(),
        LogExport::plan(old, true, false)
            .await
            .map(drop)
            .unwrap_err(),
        LogExport::plan(old, false, false)
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        let said = error.to_string();
        assert!(
            said.contains(&gtrid) && said.contains("unanimous log verify"),
            "{said}"
        );
    }
    let salvage = LogExport::plan(old, true, true)
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        salvage.to_string().contains("for a damaged folder"),
        "{salvage}"
    );
    let verified = Verified::run(old).await.unwrap();
    let found: Vec<_> = { verified.findings.iter() }
        .map(|found| (found.part.as_deref(), &*found.finding.subject))
        .collect();
    assert_eq!(found, [(Some("unanimous_by_hand"), "strange row")]);
    home.is_here().await;

    // It comes when all is planned.
    home.forget_it().await;
    let plan = Move::plan(old, &new).await.unwrap();
    plan.run_watched(async |step| {
        if step == "planned" {
            home.record_strangely().await;
        }
    })
    .await
    .unwrap_err();
    home.is_here().await;
    home.forget_it().await;
    let plan = LogExport::plan(old, true, false).await.unwrap();
    home.record_strangely().await;
    plan.run(&mut Vec::new()).await.unwrap_err();
    home.is_here().await;
    home.forget_it().await;
    Move::plan(old, &new).await.unwrap().run().await.unwrap();
    home.shared.drop_databases().await;
}

/// Paused while it was looked for, a member goes on while a person reads what will be done.
#[tokio::test(flavor = "multi_thread")]
async fn i6_nobody_who_lives_again_before_the_move_loses_the_log() {
    let home = home("mvwoke").await;
    let (old, new) = (&home.file, ["log2", "log3"].map(|name| home.folder(name)));
    let paused = home.table.join(8, "paused").await.unwrap().opening.epoch;
    let (first, second, sealed) = tokio::join!(
        Move::plan(old, &new[0]),
        Move::plan(old, &new[1]),
        LogExport::plan(old, true, false),
    );
    let (first, second, sealed) = (first.unwrap(), second.unwrap(), sealed.unwrap());
    assert_eq!(first.planned().closed_epochs, [paused.0]);
    assert_eq!(sealed.planned().closed_epochs, [paused.0]);
    let refuses = async |run: Result<(), OperatorError>, member: &str| {
        let said = run.unwrap_err().to_string();
        let in_use = format!("the log is in use by {member} (epoch ");
        assert!(said.contains(&in_use), "{said}");
        let read = home.table.read(paused, None).await.unwrap();
        let open = read.openings.iter().filter(|row| !row.is_closed);
        assert!(open.clone().any(|row| row.opening.epoch == paused));
        home.is_here().await;
    };
    let joined = home.table.join(9, "joined").await.unwrap();
    refuses(first.run().await.map(drop), "joined").await;
    home.table.close(joined.opening.epoch).await.unwrap();
    home.table.beat(paused).await.unwrap();
    refuses(second.run().await.map(drop), "paused").await;
    refuses(sealed.run(&mut Vec::new()).await.map(drop), "paused").await;
    home.shared.drop_databases().await;
}
