//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use crate::Error;
use crate::contender::Alternative;
use crate::lab::Ledger;

pub(crate) const USAGE: &str = "\
cargo xtask bench [OPTION…]

  (nothing)          transfers on every server with 1, 8, 32 and 128 workers; writes the table and
                     the plots into docs/benchmarks
  --quick            the same in less than five minutes, with a wider spread; counts and writes
                     nothing unless told to (--count, --out, --json)
  --short            one server, 1 and 8 workers, in seconds
  --coordinator      the coordinator and the logs alone, beside bare loops
  --growth           what grows: branches, decisions, transactions, members, waiting transactions
  --seconds N        how long to measure in total; servers and connections come on top of it
  --servers A,B      of mysql, mysql-binlog, mariadb
  --workers N,M      instead of 1,8,32,128
  --only A,B         of the alternatives; bare-2pc is always there
  --rounds N         how often each is measured in turn
  --json FILE        the figures for a program
  --out FOLDER       the table and the plots";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Transfers,
    Coordinator,
    Growth,
}

pub(crate) struct Args {
    pub(crate) mode: Mode,
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) workers: Vec<usize>,
    pub(crate) alternatives: Vec<Alternative>,
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    /// Whether statements, round trips and flushes are counted, too.
    pub(crate) count: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) out: Option<PathBuf>,
}

impl Args {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut args = Self {
            mode: Mode::Transfers,
            ledgers: Ledger::ALL.into(),
            workers: vec![1, 8, 32, 128],
            alternatives: Alternative::ALL.into(),
            rounds: 15,
            time: Duration::from_secs(2400),
            count: true,
            json: None,
            out: Some("docs/benchmarks".into()),
        };
        // What is said later counts, so what sets several things comes first.
        let words: Vec<String> = words.collect();
        for word in &words {
            match word.as_str() {
                "--quick" => args.be_quick(),
                "--short" => args.be_short(),
                _ => {}
            }
        }
        args.read(words.into_iter())?;
        args.alternatives.sort();
        if args.workers.contains(&0) || args.workers.is_empty() || args.rounds == 0 {
            return Err("--workers and --rounds have to be at least 1".into());
        }
        Ok(args)
    }

    fn read(&mut self, mut words: impl Iterator<Item = String>) -> Result<(), Error> {
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--coordinator" => self.mode = Mode::Coordinator,
                "--growth" => self.mode = Mode::Growth,
                "--seconds" => self.time = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--servers" => self.ledgers = list(&value()?, Ledger::named)?,
                "--workers" => self.workers = list(&value()?, |word| word.parse().ok())?,
                "--only" => {
                    self.alternatives = list(&value()?, Alternative::named)?;
                    if !self.alternatives.contains(&Alternative::Bare) {
                        self.alternatives.push(Alternative::Bare);
                    }
                }
                "--rounds" => self.rounds = value()?.parse()?,
                "--json" => self.json = Some(value()?.into()),
                "--out" => self.out = Some(value()?.into()),
                "--count" => self.count = true,
                // The last is what cargo says to every benchmark.
                "--quick" | "--short" | "--bench" => {}
                _ => return Err(format!("unknown argument {word}\n\n{USAGE}").into()),
            }
        }
        Ok(())
    }

    fn be_quick(&mut self) {
        self.time = Duration::from_secs(120);
        self.rounds = 5;
        self.count = false;
        self.out = None;
    }

    fn be_short(&mut self) {
        self.be_quick();
        self.time = Duration::from_secs(10);
        self.ledgers = vec![Ledger::Mysql];
        self.workers = vec![1, 8];
        self.rounds = 3;
        self.alternatives.retain(|one| {
            !matches!(
                one,
                Alternative::Sqlalchemy
                    | Alternative::BarePiped
                    | Alternative::BareGuarded
                    | Alternative::BareLogged
            )
        });
    }
}

fn list<T>(words: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Error> {
    let one = |word: &str| read(word).ok_or_else(|| format!("there is no {word}\n\n{USAGE}"));
    Ok(words.split(',').map(one).collect::<Result<_, _>>()?)
}
