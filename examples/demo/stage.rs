//! Sets the stage: fresh tables, whatever an earlier performance has left behind.

use std::thread::sleep;
use std::time::Duration;

use crate::Result;
use crate::witness::{Balances, PreparedTransaction, Witness};

/// What Ana has when the story begins.
pub(crate) const BEGIN: Balances = Balances {
    checking: 500,
    savings: 500,
};

/// Makes the tables anew.
pub(crate) fn set(witness: &mut Witness) -> Result<()> {
    claim(witness)?;
    clear(witness)?;
    witness.run_postgres(&format!(
        "CREATE TABLE demo_checking (
             owner text PRIMARY KEY,
             balance bigint NOT NULL CHECK (balance >= 0));
         CREATE TABLE demo_transfers (
             reference text UNIQUE DEFERRABLE INITIALLY DEFERRED,
             amount bigint NOT NULL);
         INSERT INTO demo_checking VALUES ('ana', {})",
        BEGIN.checking
    ))?;
    witness.run_mysql(
        "CREATE TABLE demo_savings (
             owner VARCHAR(32) PRIMARY KEY,
             balance BIGINT NOT NULL,
             CONSTRAINT demo_no_overdraft CHECK (balance >= 0)) ENGINE = InnoDB",
    )?;
    let savings = BEGIN.savings;
    witness.run_mysql(&format!(
        "INSERT INTO demo_savings VALUES ('ana', {savings})"
    ))
}

/// Two demos on the same servers would disturb each other. The sessions of a demo that was killed
/// may live for a moment, until their last statement has ended.
fn claim(witness: &mut Witness) -> Result<()> {
    for _ in 0..50 {
        if witness.claim_servers()? {
            return Ok(());
        }
        sleep(Duration::from_millis(100));
    }
    Err("another demo is running on these servers: wait for its end".into())
}

/// Removes the tables. If the narrator itself was killed in the middle of its story, branches of
/// that story are still prepared, and their locks would keep the tables from being dropped. The log
/// that knew their outcome was in a temporary folder, and the money is not real.
pub(crate) fn clear(witness: &mut Witness) -> Result<()> {
    let ours = |left: &PreparedTransaction| left.gid.starts_with("unanimous:");
    for left in witness.prepared_checking()?.into_iter().filter(ours) {
        witness.run_postgres(&format!(
            "ROLLBACK PREPARED '{}'",
            left.gid.replace('\'', "''")
        ))?;
    }
    for left in witness.prepared_savings()? {
        let (gtrid, bqual) = (left.gtrid.replace('\'', "''"), left.bqual);
        let format_id = left.format_id;
        witness.run_mysql(&format!("XA ROLLBACK '{gtrid}', '{bqual}', {format_id}"))?;
    }
    witness.run_postgres("DROP TABLE IF EXISTS demo_checking, demo_transfers")?;
    witness.run_mysql("DROP TABLE IF EXISTS demo_savings")
}
