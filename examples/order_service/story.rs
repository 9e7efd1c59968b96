//! Two instances, of which one is killed in the midst of its work. Its client repeats what was not
//! answered at the other one, and at the end every order is in both databases once.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Result;
use crate::client::ask;

/// Long: whoever waits so long gives up, and nothing is learnt from it.
const PATIENCE: Duration = Duration::from_secs(120);
const LISTENING: &str = "listening on http://";
const CLOSED: &str = "closed the epoch of a member";

/// An instance in a process of its own. Dropping it kills it.
struct Instance {
    name: &'static str,
    address: String,
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Instance {
    fn start(name: &'static str) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["serve", "127.0.0.1:0"])
            .env("INSTANCE", name)
            // Less patient than the default, 10 s: the story is to be short.
            .env("SUSPECT_AFTER", "2")
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("an instance has no output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(|line| line.ok()) {
                println!("  {name} | {line}");
                // The story may be over.
                let _ = sender.send(line);
            }
        });
        let address = String::new();
        let mut instance = Self {
            name,
            address,
            child,
            lines,
        };
        instance.address = instance.hear(LISTENING)?;
        Ok(instance)
    }

    /// The rest of the first line from now on that has this in it.
    fn hear(&self, words: &str) -> Result<String> {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.map_err(|_| format!("{} never says {words:?}", self.name))?;
            if let Some((_, rest)) = line.split_once(words) {
                return Ok(rest.to_owned());
            }
        }
    }

    async fn order(&self, id: i64) -> Result<(u16, String)> {
        ask(&self.address, "POST", &format!("/orders/{id}")).await
    }

    fn end(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).ok_or("no process id")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{} ended with {status}", self.name).into())
        }
    }
}

pub(crate) async fn tell() -> Result<()> {
    println!("Two instances share a decision log in PostgreSQL.");
    let blue = Instance::start("blue")?;
    let green = Instance::start("green")?;
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let first = i64::try_from(time.as_micros())?;

    println!("An order to each, and the first one once more to the other:");
    for (instance, id, expected) in [
        (&blue, first, 201),
        (&green, first + 1, 201),
        (&green, first, 409),
    ] {
        let (status, said) = instance.order(id).await?;
        println!("{}: {status} {said}", instance.name);
        if status != expected {
            return Err(format!("expected {expected}").into());
        }
    }

    println!("Blue gets a hundred orders, and is killed with kill -9 in the midst of them.");
    let ids: Vec<i64> = (first + 2..first + 102).collect();
    let unanswered = order_and_kill(blue, &ids).await?;
    println!(
        "{} orders were answered, {} were not; those are repeated at green",
        ids.len() - unanswered.len(),
        unanswered.len()
    );
    let begin = Instant::now();
    for id in &unanswered {
        repeat(&green, *id).await?;
    }
    for id in first..first + 102 {
        wait_for_both(&green, id).await?;
    }
    let took = begin.elapsed().as_secs_f64();
    println!("each of them is in both databases, once, {took:.1} s later");
    // Signs of life are looked at in rounds of green's own; it may have been heard already.
    green.hear(CLOSED)?;
    println!(
        "Green has taken blue for dead, and ends what it had left. It is told to stop (SIGTERM)."
    );
    green.end()
}

/// Answers what the killed instance has not answered.
async fn order_and_kill(mut blue: Instance, ids: &[i64]) -> Result<Vec<i64>> {
    let mut orders = JoinSet::new();
    for id in ids.iter().copied() {
        let address = blue.address.clone();
        orders.spawn(async move {
            let answer = ask(&address, "POST", &format!("/orders/{id}")).await;
            (id, answer.ok())
        });
    }
    let mut unanswered = Vec::new();
    let mut answered = 0;
    while let Some(ended) = orders.join_next().await {
        match ended? {
            (_, Some((201, _))) => answered += 1,
            // Nothing was ordered, or nobody knows yet: repeated, either way.
            (id, _) => unanswered.push(id),
        }
        if answered == 10 {
            blue.child.kill()?;
        }
    }
    Ok(unanswered)
}

/// What may have been ordered or not is ordered again, under its number: the table's key sees to it
/// that it is there once. While a branch of the dead instance is prepared, its row is locked.
async fn repeat(green: &Instance, id: i64) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let (status, _) = green.order(id).await?;
        if status == 201 || is_in_both(green, id).await? {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err(format!("order {id} does not go through").into())
}

async fn wait_for_both(green: &Instance, id: i64) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if is_in_both(green, id).await? {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err(format!("order {id} is not in both databases").into())
}

async fn is_in_both(green: &Instance, id: i64) -> Result<bool> {
    let (_, rows) = ask(&green.address, "GET", &format!("/orders/{id}")).await?;
    Ok(rows == "1 1")
}
