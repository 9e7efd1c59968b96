//! Transfers between PostgreSQL and MySQL or MariaDB, in every way there is, measured in turn in
//! one run: see `docs/benchmarks/README.md`, and `cargo xtask bench`.
//!
//! Every alternative has the same runtime, the same drivers, pools of the same size and the same
//! statements; all but SQLAlchemy, which has its own. After each slice the money is counted.

#[path = "../parts/appends.rs"]
mod appends;
mod args;
mod by_hand;
mod contender;
mod coordinator;
#[path = "../parts/counters.rs"]
mod counters;
mod counting;
mod figures;
mod growth;
mod guarded;
mod lab;
mod plot;
mod report;
mod rounds;
mod sqlalchemy;
mod trivial;

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use xtask::servers::Server;

use args::{Args, Mode};
use contender::Alternative;
use figures::Row;
use lab::{Lab, Ledger};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Less tells nothing.
const SLICE_MIN: Duration = Duration::from_millis(100);

fn main() -> Result<(), Error> {
    // cargo runs a benchmark in the folder of its package; what people say is meant from above.
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))?;
    let args = Args::parse(std::env::args().skip(1))?;
    if cfg!(debug_assertions) {
        println!("Built without optimisation: look at the ratios, if at anything.\n");
    }
    match args.mode {
        Mode::Transfers => transfers(&args),
        Mode::Coordinator => page(&args, "coordinator", &coordinator::measure(&args)?),
        Mode::Growth => page(&args, "growth", &growth::measure(&args)?),
    }
}

/// A page of its own among the others.
fn page(args: &Args, name: &str, text: &str) -> Result<(), Error> {
    let Some(folder) = &args.out else {
        return Ok(());
    };
    std::fs::create_dir_all(folder)?;
    let title = name[..1].to_uppercase() + &name[1..];
    let text = format!(
        "# {title}\n\nMade by `{}`; what is measured and how is told in [README.md](README.md).\n\n\
         {text}",
        command()
    );
    Ok(std::fs::write(folder.join(format!("{name}.md")), text)?)
}

/// The line that was typed, without the places of this machine.
fn command() -> String {
    let mut command = "cargo xtask bench".to_owned();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bench" => {}
            "--json" | "--out" => drop(words.next()),
            _ => {
                command.push(' ');
                command.push_str(&word);
            }
        }
    }
    command
}

fn transfers(args: &Args) -> Result<(), Error> {
    let begun = Instant::now();
    let runtime = Runtime::new()?;
    let alternatives = runtime.block_on(available(args));
    let postgres = lab::start_postgres()?;
    let mut rows = Vec::new();
    for ledger in &args.ledgers {
        let measured = measure(args, &alternatives, *ledger, &postgres);
        rows.extend(runtime.block_on(measured)?);
        // What was measured so far is there, whatever comes.
        write(args, &rows)?;
    }
    println!("{:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn write(args: &Args, rows: &[Row]) -> Result<(), Error> {
    if let Some(json) = &args.json {
        report::write_json(json, rows)?;
    }
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("transfers.md"), report::page(rows, &command()))?;
        report::write_json(&folder.join("transfers.json"), rows)?;
        plot::draw(folder, rows)?;
    }
    Ok(())
}

/// All that were asked for; SQLAlchemy only where it can be had.
async fn available(args: &Args) -> Vec<Alternative> {
    let mut alternatives = args.alternatives.clone();
    if alternatives.contains(&Alternative::Sqlalchemy)
        && let Err(error) = sqlalchemy::interpreter().await
    {
        println!("Without SQLAlchemy, which cannot be had here: {error}\n");
        alternatives.retain(|one| *one != Alternative::Sqlalchemy);
    }
    alternatives
}

async fn measure(
    args: &Args,
    alternatives: &[Alternative],
    ledger: Ledger,
    postgres: &Server,
) -> Result<Vec<Row>, Error> {
    let mut lab = Lab::open(ledger, postgres).await?;
    let mut transfers = 0;
    let mut counted = Vec::new();
    if args.count {
        lab.counters.track_statements(true).await?;
        for which in alternatives {
            counted.push((
                *which,
                counting::count(&mut lab, *which, &mut transfers).await?,
            ));
        }
        lab.counters.track_statements(false).await?;
    }
    let slices = args.ledgers.len() * args.workers.len() * alternatives.len() * (args.rounds + 1);
    let slice = args.time / u32::try_from(slices)?;
    let slice = slice.max(SLICE_MIN);
    let mut all = Vec::new();
    for workers in &args.workers {
        let measured = rounds::measure(
            args,
            &mut lab,
            alternatives,
            *workers,
            slice,
            &mut transfers,
        )
        .await?;
        let rows = figures::rows(ledger, *workers, &measured, &counted);
        println!(
            "{}, {workers} at a time, {} rounds of {:.2} s each:\n\n{}",
            lab.ledger.name(),
            args.rounds,
            slice.as_secs_f64(),
            report::speed(&rows.iter().collect::<Vec<_>>())
        );
        all.extend(rows);
    }
    if args.count {
        let first = all.iter().take(alternatives.len());
        println!("{}", report::counts(&first.collect::<Vec<_>>()));
    }
    Ok(all)
}
