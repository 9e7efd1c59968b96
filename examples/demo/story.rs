//! The story: four chapters, each of which ends with what both databases say.

use std::process::ExitCode;

use crate::narrator::Narrator;
use crate::task::{ROLLED_BACK, Wait, tag};
use crate::{Result, stage};

/// Tells all of it, and says whether every check has held.
pub(crate) fn tell() -> Result<ExitCode> {
    let mut narrator = Narrator::begin()?;
    let told = narrator.tell();
    // Also of a story that broke off: nothing stays prepared because of it.
    stage::clear(&mut narrator.witness)?;
    told?;
    Ok(narrator.page.end())
}

impl Narrator {
    fn tell(&mut self) -> Result<()> {
        self.introduce()?;
        self.both_change()?;
        self.one_refuses_a_statement()?;
        self.one_refuses_to_prepare()?;
        self.killed_after_the_decision()?;
        self.killed_before_the_decision()
    }

    fn introduce(&mut self) -> Result<()> {
        let (postgres, mysql) = (self.postgres.to_string(), self.mysql.to_string());
        let page = &self.page;
        page.title(&format!("One commit across {postgres} and {mysql}"));
        page.say(&format!(
            "Ana has two accounts. Checking is a row in {postgres}, savings is a row in {mysql}. \
             An application moves money between them through Unanimous. It is a process of its own \
             (app), so that it can be killed and started again. Whatever is claimed is checked by \
             plain connections of the plain drivers, which know nothing of Unanimous.",
        ));
        page.claim("Ana begins with 500 in each account.");
        self.check_balances()
    }

    fn both_change(&mut self) -> Result<()> {
        self.page
            .chapter("1. Money moves, and both databases change");
        self.page.say("30 go from checking to savings.");
        let (gtrid, status) = self.transfer("rent", 30)?;
        self.check_end(status, 0);
        let before = self.balances;
        self.balances = before.moved(30);
        self.page
            .claim("Both have changed, and nothing is left prepared.");
        self.show_change(before)?;
        self.check_balances()?;
        self.check_prepared(None)?;
        self.page
            .claim("The log remembers it, also after a restart.");
        self.restart(&gtrid, "Committed")
    }

    fn one_refuses_a_statement(&mut self) -> Result<()> {
        self.page
            .chapter("2. One side refuses, and neither changes");
        let mysql = self.mysql.name;
        self.page.say(&format!(
            "First, {mysql} refuses a statement: 9000 are to come back from savings, which does \
             not hold as much. PostgreSQL has no objection and does its part.",
        ));
        let before = self.balances;
        let (_, status) = self.transfer("too much", -9000)?;
        self.check_end(status, ROLLED_BACK);
        self.page.claim("PostgreSQL's part is undone, too.");
        self.show_change(before)?;
        self.check_balances()?;
        self.check_transfers("too much", 0)?;
        self.check_prepared(None)
    }

    fn one_refuses_to_prepare(&mut self) -> Result<()> {
        let mysql = self.mysql.name;
        self.page.claim(&format!(
            "Second, PostgreSQL refuses at the last moment. The same transfer is submitted again \
             by mistake; its name has to be unique, but PostgreSQL is told to look only when the \
             transaction prepares. Meanwhile {mysql} prepares. The application is halted there.",
        ));
        let before = self.balances;
        let mut app = self.start_transfer("rent", 30, Wait::BeforeRollback)?;
        let gtrid = app.hear(&self.page, tag::GTRID)?;
        app.hear(&self.page, tag::WAITING)?;
        self.page.claim(&format!(
            "{mysql} has voted to commit and holds its branch; PostgreSQL does not."
        ));
        self.check_listed_checking(None)?;
        self.check_listed_savings(Some(&gtrid))?;
        self.page
            .claim("The application goes on: the vote was not unanimous.");
        app.go_on()?;
        let status = app.end(&self.page)?;
        self.check_end(status, ROLLED_BACK);
        self.page
            .claim("Neither has changed, and nothing is left prepared.");
        self.show_change(before)?;
        self.check_balances()?;
        self.check_transfers("rent", 1)?;
        self.check_prepared(None)
    }

    fn killed_after_the_decision(&mut self) -> Result<()> {
        self.page
            .chapter("3. Killed between the decision and the second phase");
        self.page.say(
            "70 go from checking to savings. Both databases prepare, the decision to commit is \
             written to the application's log, and there the process is killed.",
        );
        let before = self.balances;
        let gtrid = self.kill("holiday", 70, Wait::AfterDecision)?;
        self.page.claim("Readers see the old balances.");
        self.check_balances()?;
        self.check_locked();
        self.page.claim(
            "The application is started again. It finds the decision in its log, and commits.",
        );
        self.restart(&gtrid, "Committed")?;
        self.balances = before.moved(70);
        self.page
            .claim("Both have changed, nothing is left prepared, nothing is locked.");
        self.show_change(before)?;
        self.check_balances()?;
        self.check_prepared(None)?;
        self.check_not_locked();
        Ok(())
    }

    fn killed_before_the_decision(&mut self) -> Result<()> {
        self.page.chapter("4. Killed before the decision");
        self.page.say(
            "110 go from checking to savings. Both databases prepare, and the process is killed \
             before the decision is written.",
        );
        let before = self.balances;
        let gtrid = self.kill("car", 110, Wait::BeforeDecision)?;
        self.page.claim("Readers see the old balances.");
        self.check_balances()?;
        self.check_locked();
        self.page.claim(
            "The application is started again. There is no decision in its log, and nobody can \
             make it any more: it rolls back. The log keeps no record of a rollback, so what it \
             says of the transaction is that it does not know it.",
        );
        self.restart(&gtrid, "Unknown")?;
        self.page
            .claim("Neither has changed, nothing is left prepared, nothing is locked.");
        self.show_change(before)?;
        self.check_balances()?;
        self.check_transfers("car", 0)?;
        self.check_prepared(None)?;
        self.check_not_locked();
        Ok(())
    }
}
