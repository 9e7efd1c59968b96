//! Who tells the story: what it has the application do, and what it checks with the witness.
//!
//! Every answer is compared with what the story expects, never with what the application says.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use tempfile::TempDir;

use crate::app_process::AppProcess;
use crate::page::Page;
use crate::task::{CHECKING, SAVINGS, Task, Transfer, Wait, Work, tag};
use crate::witness::{
    Balances, LOCKED_CHECKING, LOCKED_SAVINGS, PreparedXa, Server, TOUCHED, Witness, ask,
};
use crate::{Result, stage};

const OPERATING_SYSTEM: &str = "operating system";
const SIGKILL: i32 = 9;

pub(crate) struct Narrator {
    pub(crate) page: Page,
    pub(crate) witness: Witness,
    /// The application's decision log is in it.
    folder: TempDir,
    /// What Ana should have now.
    pub(crate) balances: Balances,
    pub(crate) postgres: Server,
    pub(crate) mysql: Server,
}

impl Narrator {
    /// Connects and sets the stage.
    pub(crate) fn begin() -> Result<Self> {
        let mut witness = Witness::connect()?;
        stage::set(&mut witness)?;
        let (postgres, mysql) = witness.servers()?;
        Ok(Self {
            page: Page::new(),
            witness,
            folder: TempDir::with_prefix("unanimous-demo-")?,
            balances: stage::BEGIN,
            postgres,
            mysql,
        })
    }
}

/// What the application is made to do.
impl Narrator {
    fn start(&self, work: Work) -> Result<AppProcess> {
        AppProcess::start(&Task {
            log: self.folder.path().join("log"),
            work,
        })
    }

    pub(crate) fn start_transfer(
        &self,
        reference: &str,
        amount: i64,
        wait: Wait,
    ) -> Result<AppProcess> {
        let reference = reference.to_owned();
        self.start(Work::Transfer(Transfer {
            reference,
            amount,
            wait,
        }))
    }

    /// A transfer from its begin to its end.
    pub(crate) fn transfer(&self, reference: &str, amount: i64) -> Result<(String, ExitStatus)> {
        let mut app = self.start_transfer(reference, amount, Wait::Nowhere)?;
        let gtrid = app.hear(&self.page, tag::GTRID)?;
        Ok((gtrid, app.end(&self.page)?))
    }

    /// A transfer that ends by SIGKILL where it waits. What is left in both databases is shown.
    pub(crate) fn kill(&mut self, reference: &str, amount: i64, wait: Wait) -> Result<String> {
        let mut app = self.start_transfer(reference, amount, wait)?;
        let gtrid = app.hear(&self.page, tag::GTRID)?;
        app.hear(&self.page, tag::WAITING)?;
        self.page.claim(&format!(
            "The process {} is killed with SIGKILL.",
            app.pid()
        ));
        let signal = app.kill()?.signal();
        let signal = signal.map_or("none".to_owned(), |number| number.to_string());
        let asked = "which signal has ended it?";
        self.page.check(OPERATING_SYSTEM, asked, SIGKILL, signal);
        self.page
            .claim("Nobody is left to end the two branches: they are in doubt.");
        self.show_prepared()?;
        self.check_prepared(Some(&gtrid))?;
        Ok(gtrid)
    }

    /// A new process on the same log. The start is what recovers.
    pub(crate) fn restart(&mut self, gtrid: &str, expected: &str) -> Result<()> {
        let mut app = self.start(Work::Recover(gtrid.to_owned()))?;
        let outcome = app.hear(&self.page, tag::OUTCOME)?;
        let status = app.end(&self.page)?;
        self.page
            .check("log", &format!("outcome({gtrid})"), expected, outcome);
        self.check_end(status, 0);
        Ok(())
    }
}

/// What is asked of the databases.
impl Narrator {
    /// Balances before and now, side by side.
    pub(crate) fn show_change(&mut self, before: Balances) -> Result<()> {
        let now = self.witness.balances()?;
        let row = |name: &str, balances: Balances| {
            let Balances { checking, savings } = balances;
            let numbers = [checking, savings, balances.sum()].map(|number| number.to_string());
            let cells = [name.to_owned()].into_iter().chain(numbers);
            cells.collect::<Vec<_>>()
        };
        let head = ["", "checking", "savings", "sum"]
            .map(str::to_owned)
            .to_vec();
        self.page
            .table(&[head, row("before", before), row("now", now)]);
        self.page.gap();
        Ok(())
    }

    pub(crate) fn check_balances(&mut self) -> Result<()> {
        let (expected, got) = (self.balances, self.witness.balances()?);
        let (checking, savings) = (ask::CHECKING, ask::SAVINGS);
        let page = &mut self.page;
        page.check(
            self.postgres.name,
            checking,
            expected.checking,
            got.checking,
        );
        page.check(self.mysql.name, savings, expected.savings, got.savings);
        let sum = stage::BEGIN.sum();
        page.check("both", "the sum of the two answers", sum, got.sum());
        Ok(())
    }

    pub(crate) fn check_transfers(&mut self, reference: &str, expected: i64) -> Result<()> {
        let got = self.witness.count_transfers(reference)?;
        let asked = format!("SELECT count(*) FROM demo_transfers WHERE reference = '{reference}'");
        self.page.check(self.postgres.name, &asked, expected, got);
        Ok(())
    }

    fn show_prepared(&mut self) -> Result<()> {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let mut rows = vec![row(["pg_prepared_xacts.gid", "owner", "prepared"])];
        for found in self.witness.prepared_checking()? {
            // Without fractions of a second and time zone.
            let prepared = found.prepared.split('.').next().unwrap_or_default();
            rows.push(row([&found.gid, &found.owner, prepared]));
        }
        self.page.table(&rows);
        let mut rows = vec![row(["XA RECOVER: gtrid", "bqual", "formatID"])];
        for found in self.witness.prepared_savings()? {
            rows.push(row([
                &found.gtrid,
                &found.bqual,
                &found.format_id.to_string(),
            ]));
        }
        self.page.table(&rows);
        self.page.gap();
        Ok(())
    }

    /// Both databases hold the branches of this transaction and no others, or none at all.
    pub(crate) fn check_prepared(&mut self, gtrid: Option<&str>) -> Result<()> {
        self.check_listed_checking(gtrid)?;
        self.check_listed_savings(gtrid)
    }

    pub(crate) fn check_listed_checking(&mut self, gtrid: Option<&str>) -> Result<()> {
        let expected = gtrid.map(|gtrid| format!("unanimous:{gtrid}:{CHECKING}"));
        let found = self.witness.prepared_checking()?;
        let got = list(found.into_iter().map(|found| found.gid));
        let asked = ask::PREPARED_CHECKING;
        self.page
            .check(self.postgres.name, asked, list(expected.into_iter()), got);
        Ok(())
    }

    pub(crate) fn check_listed_savings(&mut self, gtrid: Option<&str>) -> Result<()> {
        let expected = gtrid.map(|gtrid| format!("{gtrid} {SAVINGS}"));
        let found = self.witness.prepared_savings()?;
        let text = |found: PreparedXa| format!("{} {}", found.gtrid, found.bqual);
        let got = list(found.into_iter().map(text));
        let asked = format!("{} (rows with the bqual {SAVINGS})", ask::PREPARED_SAVINGS);
        self.page
            .check(self.mysql.name, &asked, list(expected.into_iter()), got);
        Ok(())
    }

    /// Another session waits a second for each row, and does not get it.
    pub(crate) fn check_locked(&mut self) {
        let mysql = self.mysql.name;
        self.page.claim(&format!(
            "The branches hold their locks: another session waits a second for each row and gives \
             up (55P03 is PostgreSQL's lock_not_available, 1205 is {mysql}'s lock wait timeout).",
        ));
        self.check_touch(LOCKED_CHECKING, LOCKED_SAVINGS);
    }

    pub(crate) fn check_not_locked(&mut self) {
        self.check_touch(TOUCHED, TOUCHED);
    }

    fn check_touch(&mut self, checking: &str, savings: &str) {
        let got = self.witness.touch_checking();
        self.page
            .check(self.postgres.name, ask::TOUCH_CHECKING, checking, got);
        let got = self.witness.touch_savings();
        self.page
            .check(self.mysql.name, ask::TOUCH_SAVINGS, savings, got);
    }

    pub(crate) fn check_end(&mut self, status: ExitStatus, expected: u8) {
        let asked = "with which code has the application ended?";
        let got = status
            .code()
            .map_or_else(|| status.to_string(), |code| code.to_string());
        self.page.check(OPERATING_SYSTEM, asked, expected, got);
    }
}

fn list(rows: impl Iterator<Item = String>) -> String {
    let rows: Vec<String> = rows.collect();
    if rows.is_empty() {
        "no row".to_owned()
    } else {
        rows.join(", ")
    }
}
