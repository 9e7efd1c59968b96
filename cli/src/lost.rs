//! `forget --lost`: a branch that will never come back is given up.

use unanimous::operator::{Access, ConfigFile, GiveUp, GivenUp};

use crate::args::Format;
use crate::output::{plain, to_json};
use crate::recover::agreed;
use crate::resolve::{Forget, who};
use crate::run::{CLEAN, Failure, IN_DOUBT, close, hold, open, patiently, talk};

pub(crate) async fn run(
    file: &ConfigFile,
    options: &Forget,
    resource: &str,
    format: Format,
) -> Result<u8, Failure> {
    let mut wanted = GiveUp::new(&options.gtrid, resource, who(), &options.reason);
    wanted.nobody_has_it = options.nobody_has_it;
    let access = open(file).await?;
    // To ask for a proof takes the log.
    let planning = async {
        hold(&access).await?;
        access.plan_give_up(&wanted).await
    };
    let plan = match patiently(planning).await {
        Ok(plan) => plan,
        Err(error) => return close(access, Err(error.into())).await,
    };
    if options.dry_run || !plan.refusals.is_empty() {
        let shown = show(&plan, format);
        close(access, shown).await?;
        return refused(&plan).map_or(Ok(IN_DOUBT), Err);
    }
    tell(&plan);
    let question = "give this branch up?";
    let mut access = access;
    if !options.yes {
        // It is not held while a person thinks.
        close(access, Ok(())).await?;
        if !agreed(false, question)? {
            return Ok(IN_DOUBT);
        }
        access = Access::open(file).await?;
        if let Err(error) = patiently(hold(&access)).await {
            return close(access, Err(error.into())).await;
        }
    }
    let done = match patiently(access.give_up(&wanted)).await {
        Ok(done) => show(&done, format).map(|()| done),
        Err(error) => Err(error.into()),
    };
    let done = close(access, done).await?;
    refused(&done).map_or(Ok(CLEAN), Err)
}

/// What has changed since it was shown, too.
fn refused(given_up: &GivenUp) -> Option<Failure> {
    for refusal in &given_up.refusals {
        talk(&format!("refused: {}", plain(refusal)));
    }
    (!given_up.refusals.is_empty()).then_some(Failure::Reported)
}

fn tell(plan: &GivenUp) {
    let (gtrid, resource) = (plain(&plan.gtrid), plain(&plan.resource));
    if let (Some(why), Some(server)) = (&plan.why, &plan.server) {
        let (why, server) = (plain(why), plain(server));
        talk(&format!(
            "give up: {resource}: the branch of {gtrid} that was prepared on {server}"
        ));
        talk(&format!("its end cannot be proven: {why}"));
        talk(
            "from then on its decision waits for it no more, and the transaction is reported as a \
             hazard: it may have been committed there, or not",
        );
    }
    for note in &plan.notes {
        talk(&format!("note: {}", plain(note)));
    }
}

fn show(given_up: &GivenUp, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        to_json(serde_json::to_value(given_up))?;
    }
    if !given_up.acted {
        tell(given_up);
        return Ok(());
    }
    let resource = plain(&given_up.resource);
    talk(&format!(
        "done: the branch at {resource} is on record as a hazard that was dealt with; once the \
         others have ended, recovery completes the decision"
    ));
    Ok(())
}
