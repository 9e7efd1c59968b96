//! `cargo xtask servers`: one shared server of each kind, for as long as they are wanted.

use std::{
    io::{self, Read},
    process::{Command, ExitCode, ExitStatus},
    thread,
    time::Instant,
};

use xtask::servers::{Address, Containers, Error, Kind, Options, Server};

use crate::usage_error;

/// The shared servers, with the variables that tell tests where they are.
pub(crate) struct StartedSet {
    /// What was started here, not what the environment gave.
    servers: Vec<Server>,
    containers: Option<Containers>,
    variables: Vec<(&'static str, String)>,
}

impl StartedSet {
    /// Brings up every server of these kinds for which the environment has no address, all at the
    /// same time: from containers, or else from programs.
    pub(crate) fn start(kinds: &[Kind]) -> Result<Self, Vec<Error>> {
        let begin = Instant::now();
        let mut set = Self {
            servers: Vec::new(),
            containers: None,
            variables: Vec::new(),
        };
        let mut missing = Vec::new();
        for &kind in kinds {
            match Address::from_env(kind) {
                Some(address) => {
                    eprintln!("servers: {kind}: taken from {}", kind.variable());
                    set.add(kind, address);
                }
                None => missing.push(kind),
            }
        }
        if !missing.is_empty() {
            set.containers = Containers::for_shared_set(&missing).map_err(|error| vec![error])?;
        }
        match &set.containers {
            Some(containers) => {
                eprintln!(
                    "servers: containers of the project {}",
                    containers.project()
                );
                let addresses = containers.addresses().to_vec();
                for (kind, address) in addresses {
                    set.add(kind, address);
                }
            }
            None => set.start_programs(&missing)?,
        }
        let seconds = begin.elapsed().as_secs_f64();
        eprintln!("servers: ready after {seconds:.1} s");
        Ok(set)
    }

    fn start_programs(&mut self, kinds: &[Kind]) -> Result<(), Vec<Error>> {
        let mut errors = Vec::new();
        for (kind, result) in start_all(kinds) {
            match result {
                Ok(server) => {
                    self.add(kind, Address::on(kind, server.port()));
                    self.servers.push(server);
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    fn add(&mut self, kind: Kind, address: Address) {
        self.variables.push((kind.variable(), address.url));
        self.variables
            .push((kind.admin_variable(), address.admin_url));
    }

    /// Hands the set to a command.
    pub(crate) fn hand_to(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// The address of a server of the set.
    pub(crate) fn url(&self, kind: Kind) -> Option<&str> {
        let is_its = |(name, _): &&(&'static str, String)| *name == kind.variable();
        self.variables
            .iter()
            .find(is_its)
            .map(|(_, url)| url.as_str())
    }

    /// Stops what was started here.
    pub(crate) fn stop(self) {
        // One after the other would take as long as all of them together.
        thread::scope(|scope| {
            for server in self.servers {
                scope.spawn(move || server.stop());
            }
            drop(self.containers);
        });
    }
}

fn start_all(kinds: &[Kind]) -> Vec<(Kind, Result<Server, Error>)> {
    let start = |kind: Kind| {
        Server::start(kind, &Options::new()).inspect(|server| {
            let release = server.programs().release();
            eprintln!("servers: {kind}: {release}, port {}", server.port());
        })
    };
    thread::scope(|scope| {
        // All threads begin before the first is waited for.
        let threads: Vec<_> = kinds
            .iter()
            .map(|&kind| (kind, scope.spawn(move || start(kind))))
            .collect();
        threads
            .into_iter()
            .map(|(kind, thread)| (kind, join(thread)))
            .collect()
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The command `servers`.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let command = match args {
        [] => None,
        [dashes, program, rest @ ..] if dashes == "--" => Some((program, rest)),
        _ => return usage_error("`servers` takes nothing, or `-- COMMAND…`"),
    };
    let set = match StartedSet::start(&Kind::ALL) {
        Ok(set) => set,
        Err(errors) => return report(&errors),
    };
    let code = match command {
        None => {
            wait_for_the_end(&set);
            ExitCode::SUCCESS
        }
        Some((program, rest)) => run_with(&set, program, rest),
    };
    set.stop();
    code
}

/// Says why servers are not there.
pub(crate) fn report(errors: &[Error]) -> ExitCode {
    for error in errors {
        eprintln!("servers: {error}");
    }
    ExitCode::FAILURE
}

fn wait_for_the_end(set: &StartedSet) {
    println!("# Paste these lines into the shell that runs tests or an application:");
    for (name, value) in &set.variables {
        println!("export {name}='{value}'");
    }
    println!("# For example: psql \"$UNANIMOUS_PG_URL\"");
    eprintln!("servers: they run until Ctrl-C or the end of the input");
    // What is typed means nothing; an unreadable input is as good as its end.
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
}

fn run_with(set: &StartedSet, program: &str, args: &[String]) -> ExitCode {
    let mut command = Command::new(program);
    command.args(args);
    set.hand_to(&mut command);
    match command.status() {
        Ok(status) => code_of(status),
        Err(error) => {
            eprintln!("servers: could not run {program}: {error}");
            ExitCode::from(127)
        }
    }
}

/// The exit code of a command; a signal counts as a failure.
pub(crate) fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
