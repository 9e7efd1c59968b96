//! The narrator: starts the members, stops one, pauses another, and looks at both databases.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

use crate::member_process::MemberProcess;
use crate::witness::Witness;
use crate::{ACCOUNTS, Result, tag};

pub(crate) async fn tell(home: &str) -> Result<()> {
    let names = ["ana", "bruno", "carla", "dora"];
    let mut witness = Witness::connect().await?;
    witness.make_tables(&names).await?;
    println!("Three members share a decision log in {home}, and have no disk of their own.");
    let mut members = Vec::new();
    for name in &names[..3] {
        members.push(MemberProcess::start(name, home)?);
    }
    for member in &mut members {
        member.hear(&[tag::JOINED]).await?;
        member.tell("move")?;
    }
    sleep(Duration::from_secs(2)).await;
    let [ana, bruno, carla] = <[_; 3]>::try_from(members).map_err(|_| "three members")?;

    let gtrid = kill_one(&mut witness, bruno).await?;
    let carla = pause_one(&mut witness, carla).await?;

    println!("\nA new instance joins, as after a deploy. It needs nothing but the address.");
    let mut dora = MemberProcess::start("dora", home)?;
    dora.hear(&[tag::JOINED]).await?;
    dora.tell("move")?;
    sleep(Duration::from_secs(1)).await;

    println!("\nAll are stopped, cleanly.");
    for member in [ana, carla, dora] {
        member.end().await?;
    }
    let manager = gtrid.split('-').next().unwrap_or_default();
    let left = witness.prepared(manager).await?;
    if !left.is_empty() {
        return Err(format!("something is still prepared in {left:?}").into());
    }
    println!("nothing is prepared any more");
    witness.check_sums(names.len() * ACCOUNTS.len()).await
}

/// Answers the gtrid of one of its transactions.
async fn kill_one(witness: &mut Witness, mut bruno: MemberProcess) -> Result<String> {
    println!("\nBruno is stopped in the midst of two commits, and killed with kill -9.");
    bruno.rest().await?;
    let decided = bruno.hold("hold decided").await?;
    let undecided = bruno.hold("hold undecided").await?;
    for (gtrid, what) in [(&decided, "decided"), (&undecided, "not decided")] {
        let places = witness.prepared(gtrid).await?;
        println!(
            "{gtrid} is {what}, and prepared in {}",
            places.join(" and ")
        );
    }
    let status = bruno.kill()?;
    println!("bruno is dead ({status}); nobody will ever start him again");
    let took = witness.wait_for_end(&[&decided, &undecided]).await?;
    println!(
        "nothing of his is in doubt any more, {:.1} s later:",
        took.as_secs_f64()
    );
    witness.expect(&decided, true).await?;
    witness.expect(&undecided, false).await?;
    Ok(decided)
}

async fn pause_one(witness: &mut Witness, mut carla: MemberProcess) -> Result<MemberProcess> {
    println!("\nCarla is paused (SIGSTOP) before a decision, until the others take her for dead.");
    carla.rest().await?;
    let gtrid = carla.hold("hold undecided").await?;
    carla.signal(Signal::STOP)?;
    let took = witness.wait_for_end(&[&gtrid]).await;
    carla.signal(Signal::CONT)?;
    println!(
        "her branch was rolled back {:.1} s later; she wakes up, and decides:",
        took?.as_secs_f64()
    );
    carla.tell("go on")?;
    let (answer, _) = carla.hear(&[tag::ROLLED_BACK, tag::COMMITTED]).await?;
    if answer != tag::ROLLED_BACK {
        return Err("a closed epoch has taken a decision".into());
    }
    witness.expect(&gtrid, false).await?;
    println!("she goes on by herself:");
    carla.tell("move")?;
    sleep(Duration::from_secs(1)).await;
    carla.tell("epoch")?;
    carla.hear(&[tag::JOINED]).await?;
    Ok(carla)
}
