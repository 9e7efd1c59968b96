//! The measurement: short slices of every alternative, in turn and in an order that changes, so
//! that whatever else the machine does hits all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use crate::Error;
use crate::args::Args;
use crate::contender::{Alternative, Contender};
use crate::lab::{ACCOUNTS, Lab, own_cpu};

/// What comes after the last answer (a connection's way back into its pool, completions) is at its
/// end, or nearly, when the next slice begins; its processor time counts where it belongs.
const SETTLE: Duration = Duration::from_millis(40);

/// What one alternative did in one slice.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    /// How long each transfer took.
    pub(crate) micros: Vec<u32>,
    pub(crate) seconds: f64,
    pub(crate) client_cpu: Duration,
    pub(crate) postgres_cpu: Duration,
    pub(crate) mysql_cpu: Duration,
}

/// One alternative in all rounds.
pub(crate) struct Measured {
    pub(crate) which: Alternative,
    pub(crate) slices: Vec<Slice>,
}

/// Measures these alternatives on one pair of servers with so many workers.
pub(crate) async fn measure(
    args: &Args,
    lab: &mut Lab,
    alternatives: &[Alternative],
    workers: usize,
    slice: Duration,
    transfers: &mut u64,
) -> Result<Vec<Measured>, Error> {
    let mut contenders = Vec::new();
    for which in alternatives {
        let opened = Contender::open(*which, &lab.postgres_url, &lab.mysql_url, workers).await;
        let contender = opened.map_err(|error| format!("{}: {error}", which.name()))?;
        let slices = Vec::new();
        let measured = Measured {
            which: *which,
            slices,
        };
        contenders.push((measured, Arc::new(contender)));
    }
    // The first round opens the connections and fills the caches.
    for round in 0..=args.rounds {
        fastrand::shuffle(&mut contenders);
        for (measured, contender) in &mut contenders {
            let one = run(lab, contender, workers, slice).await;
            let one = one.map_err(|error| format!("{}: {error}", measured.which.name()))?;
            *transfers += one.micros.len() as u64;
            let checked = lab.check_money(*transfers).await;
            checked.map_err(|error| format!("{}: {error}", measured.which.name()))?;
            if round > 0 {
                measured.slices.push(one);
            }
        }
    }
    contenders.sort_by_key(|(measured, _)| measured.which);
    let mut all = Vec::new();
    for (measured, contender) in contenders {
        let contender = Arc::into_inner(contender).ok_or("a worker still runs")?;
        contender.close().await?;
        all.push(measured);
    }
    Ok(all)
}

async fn run(
    lab: &Lab,
    contender: &Arc<Contender>,
    workers: usize,
    time: Duration,
) -> Result<Slice, Error> {
    let servers = lab.cpu()?;
    let client = client_cpu(contender)?;
    let (micros, seconds) = match &**contender {
        Contender::Sqlalchemy(child) => {
            let done = child.run(time).await?;
            (done.micros, done.seconds)
        }
        Contender::ByHand(_) | Contender::Ours(_) => run_here(contender, workers, time).await?,
    };
    tokio::time::sleep(SETTLE).await;
    let client = client_cpu(contender)?.saturating_sub(client);
    let after = lab.cpu()?;
    Ok(Slice {
        micros,
        seconds,
        client_cpu: client,
        postgres_cpu: after.postgres.saturating_sub(servers.postgres),
        mysql_cpu: after.mysql.saturating_sub(servers.mysql),
    })
}

fn client_cpu(contender: &Contender) -> Result<Duration, Error> {
    match contender {
        Contender::ByHand(_) | Contender::Ours(_) => Ok(own_cpu()),
        Contender::Sqlalchemy(child) => child.cpu(),
    }
}

async fn run_here(
    contender: &Arc<Contender>,
    workers: usize,
    time: Duration,
) -> Result<(Vec<u32>, f64), Error> {
    let begun = Instant::now();
    let tasks = (0..workers).map(|worker| {
        let contender = Arc::clone(contender);
        tokio::spawn(async move {
            let mut micros = Vec::new();
            while begun.elapsed() < time {
                let started = Instant::now();
                // Every worker has accounts of its own.
                let account = worker + workers * fastrand::usize(..ACCOUNTS / workers);
                contender.transfer(account).await?;
                micros.push(u32::try_from(started.elapsed().as_micros())?);
            }
            Ok::<_, Error>(micros)
        })
    });
    let mut all = Vec::new();
    for micros in try_join_all(tasks).await? {
        all.extend(micros?);
    }
    Ok((all, begun.elapsed().as_secs_f64()))
}

impl Contender {
    /// One transfer of one unit; the account's row is nobody else's at this time.
    pub(crate) async fn transfer(&self, account: usize) -> Result<(), Error> {
        match self {
            Self::ByHand(by_hand) => by_hand.transfer(account).await,
            Self::Ours(ours) => ours.transfer(account).await,
            Self::Sqlalchemy(child) => child.count(1).await.map(|_| ()),
        }
    }
}
