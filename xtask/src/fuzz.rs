//! `cargo xtask fuzz`: libFuzzer on the readers of what others have written.
//!
//! The targets are `fuzz/src/targets.rs`. A stable compiler will do: the coverage that libFuzzer
//! follows is an LLVM pass, which rustc can be told to run; only sanitizers need a nightly one, and
//! the project has no unsafe code for them to look at. libFuzzer itself is C++.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use crate::{servers_command::code_of, usage_error};

const USAGE: &str = "`fuzz` takes a target (all of them if none is named), `--seconds N` for each, \
                     and `--input FILE` to run a target on one file";

/// What makes rustc write down which branches were taken and what was compared.
const COVERAGE: &str = "-Cpasses=sancov-module \
                        -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table \
                        -Cllvm-args=-sanitizer-coverage-trace-compares \
                        -Ccodegen-units=1";

const SECONDS: u32 = 60;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    target: Option<String>,
    seconds: u32,
    input: Option<PathBuf>,
}

/// The command `fuzz`.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let folder = root().join("fuzz");
    let done = parse(args)
        .and_then(|asked| Ok((targets(&folder, asked.target.as_deref())?, asked)))
        .map_err(|message| usage_error(&message))
        .and_then(|(targets, asked)| {
            let program = build(&folder).map_err(|message| failed(&message))?;
            let runs = targets
                .iter()
                .map(|target| fuzz(&program, &folder, target, &asked));
            Ok(runs.fold(ExitCode::SUCCESS, |worst, code| match code {
                ExitCode::SUCCESS => worst,
                other => other,
            }))
        });
    done.unwrap_or_else(|code| code)
}

fn failed(message: &str) -> ExitCode {
    eprintln!("fuzz: {message}");
    ExitCode::FAILURE
}

fn parse(args: &[String]) -> Result<Asked, String> {
    let mut asked = Asked {
        target: None,
        seconds: SECONDS,
        input: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| USAGE.to_owned());
        match arg.as_str() {
            "--seconds" => asked.seconds = seconds(value()?)?,
            "--input" => asked.input = Some(value()?.into()),
            name if !name.starts_with('-') && asked.target.is_none() => {
                asked.target = Some(name.to_owned());
            }
            other => return Err(format!("`fuzz` knows no `{other}`; {USAGE}")),
        }
    }
    if asked.input.is_some() && asked.target.is_none() {
        return Err(format!("`--input` needs a target; {USAGE}"));
    }
    Ok(asked)
}

fn seconds(text: &str) -> Result<u32, String> {
    match text.parse() {
        // To libFuzzer, 0 is without end.
        Ok(seconds) if seconds > 0 => Ok(seconds),
        Ok(_) | Err(_) => Err(format!("`--seconds {text}`: say a whole number from 1")),
    }
}

/// The targets are those that have a corpus.
fn targets(folder: &Path, asked: Option<&str>) -> Result<Vec<String>, String> {
    let corpus = folder.join("corpus");
    let entries = fs::read_dir(&corpus)
        .map_err(|error| format!("{} cannot be read: {error}", corpus.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    match asked {
        None => Ok(names),
        Some(asked) if names.iter().any(|name| name == asked) => Ok(vec![asked.to_owned()]),
        Some(asked) => Err(format!(
            "there is no fuzz target `{asked}`: there are {}",
            names.join(", ")
        )),
    }
}

/// Builds the fuzzer, and says where it is.
fn build(folder: &Path) -> Result<PathBuf, String> {
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let has_compiler = Command::new(&compiler)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_compiler {
        return Err(format!(
            "libFuzzer needs a C++ compiler, and `{compiler}` does not run: install g++ or clang \
             (Debian: `apt install g++`), or name yours in CXX"
        ));
    }
    let host = host()?;
    let target_folder = target_folder();
    let built = cargo()
        .args(["build", "--release", "--locked", "--target", &host])
        .arg("--manifest-path")
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_folder)
        // With a target named, the flags are for it alone, and build scripts go without.
        .env("RUSTFLAGS", COVERAGE)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status();
    match built {
        Ok(status) if status.success() => {
            Ok(target_folder.join(host).join("release/unanimous-fuzz"))
        }
        Ok(_) => Err("the fuzzer could not be built".to_owned()),
        Err(error) => Err(format!("cargo could not be run: {error}")),
    }
}

/// Runs one target. What it finds on its way, and what breaks it, stays below the target folder.
fn fuzz(program: &Path, folder: &Path, target: &str, asked: &Asked) -> ExitCode {
    let found = target_folder().join("found").join(target);
    let broken = target_folder().join("broken");
    for made in [&found, &broken] {
        if let Err(error) = fs::create_dir_all(made) {
            return failed(&format!("{} cannot be made: {error}", made.display()));
        }
    }
    println!("\n== fuzz {target}");
    let mut command = Command::new(program);
    command
        .env("UNANIMOUS_FUZZ_TARGET", target)
        .args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/{target}-", broken.display()));
    match &asked.input {
        Some(input) => command.arg(input),
        None => command
            .arg(format!("-max_total_time={}", asked.seconds))
            .args([found, folder.join("corpus").join(target)]),
    };
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!(
                "fuzz {target}: the file named above breaks it; again by\n  \
                 cargo xtask fuzz {target} --input FILE"
            );
            code_of(status)
        }
        Err(error) => failed(&format!("{} does not run: {error}", program.display())),
    }
}

fn host() -> Result<String, String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("-vV").output();
    let said = said.map_err(|error| format!("rustc could not be run: {error}"))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .ok_or_else(|| "`rustc -vV` does not say for which host it compiles".to_owned())
}

fn cargo() -> Command {
    // Under `cargo xtask` this is the cargo that called us.
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

fn target_folder() -> PathBuf {
    let of_cargo = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    of_cargo
        .unwrap_or_else(|| root().join("target"))
        .join("fuzz")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Asked, String> {
        parse(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_asked_for_is_understood() {
        let asked = parsed(&["gid", "--seconds", "5"]).unwrap();
        assert_eq!((asked.target.as_deref(), asked.seconds), (Some("gid"), 5));
        assert_eq!(parsed(&[]).unwrap().seconds, SECONDS);
        assert!(parsed(&["gid", "--input", "x"]).unwrap().input.is_some());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            &["--seconds"][..],
            &["--seconds", "0"],
            &["--seconds", "x"],
            &["gid", "xid"],
            &["--all"],
            &["--input", "x"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_unknown_target_is_answered_with_those_there_are() {
        let folder = root().join("fuzz");
        let error = targets(&folder, Some("gdi")).unwrap_err();
        assert!(error.contains("`gdi`") && error.contains("gid"), "{error}");
        assert_eq!(targets(&folder, Some("gid")).unwrap(), ["gid"]);
        assert!(targets(&folder, None).unwrap().len() > 5);
    }
}
