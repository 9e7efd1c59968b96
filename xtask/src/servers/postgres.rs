//! PostgreSQL: how its data is made, how it is started, and when it is ready.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::{
    ADMIN_PASSWORD, APP_DATABASE, APP_PASSWORD, APP_USER, Error, Programs,
    folder::Folder,
    guard::Guard,
    launch::{INPUT, command, run},
};

/// The administrator that `initdb` makes.
pub(super) const ADMIN_USER: &str = "postgres";

/// Makes the data folder with the administrator, the user `app` and its database.
pub(super) fn initialise(
    programs: &Programs,
    folder: &Folder,
    guard: &mut Guard,
) -> Result<(), Error> {
    let password = folder.write("password", ADMIN_PASSWORD)?;
    let mut initdb = command(&programs.folder().join("initdb"), folder);
    initdb
        .args([
            "--username",
            ADMIN_USER,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
        ])
        // The one locale that every machine has.
        .args(["--locale=C"])
        // Spares only the flush of the new files; the server itself flushes as always.
        .arg("--no-sync")
        .arg("--pwfile")
        .arg(&password)
        .arg("-D")
        .arg(folder.data());
    run(&mut initdb, "initdb", folder, guard)?;
    fs::remove_file(&password).map_err(Error::io("remove", &password))?;

    // Single-user mode ends a statement at the end of its line.
    let statements = format!(
        "CREATE ROLE {APP_USER} LOGIN PASSWORD '{APP_PASSWORD}'\n\
         CREATE DATABASE {APP_DATABASE} OWNER {APP_USER}\n"
    );
    let statements = folder.write("setup.sql", &statements)?;
    let mut single = command(programs.server(), folder);
    single.arg("--single").arg("-D").arg(folder.data());
    single
        .args(["-c", "exit_on_error=on", "postgres"])
        .env(INPUT, &statements);
    run(&mut single, "postgres --single", folder, guard)?;
    fs::remove_file(&statements).map_err(Error::io("remove", &statements))
}

/// Makes the data folder of a standby of the server on `port`.
pub(super) fn copy_from(
    port: u16,
    programs: &Programs,
    folder: &Folder,
    guard: &mut Guard,
) -> Result<(), Error> {
    let mut backup = command(&programs.folder().join("pg_basebackup"), folder);
    backup
        .args([
            "--host=127.0.0.1",
            "--checkpoint=fast",
            "--wal-method=stream",
        ])
        .args(["--write-recovery-conf", "--no-password", "--no-sync"])
        .args([
            "--username",
            ADMIN_USER,
            "--port",
            &port.to_string(),
            "--pgdata",
        ])
        .arg(folder.data())
        .env("PGPASSWORD", ADMIN_PASSWORD);
    run(&mut backup, "pg_basebackup", folder, guard)
}

/// The server itself.
pub(super) fn server(programs: &Programs, folder: &Folder, port: u16, args: &[String]) -> Command {
    let sockets = folder.sockets().display().to_string();
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        format!("unix_socket_directories={sockets}"),
        "max_connections=200".to_owned(),
        "max_prepared_transactions=200".to_owned(),
        "wal_level=replica".to_owned(),
        "shared_buffers=32MB".to_owned(),
        // By default for ever: a test that drops a table of a prepared branch is to fail, not hang.
        "lock_timeout=180s".to_owned(),
        // The compiler for queries is not among the downloaded programs.
        "jit=off".to_owned(),
    ];
    let mut server = command(programs.server(), folder);
    server.arg("-D").arg(folder.data());
    for setting in settings {
        server.args(["-c", &setting]);
    }
    server.args(args);
    server
}

/// Whether the server with this process number lets clients in.
///
/// PostgreSQL writes its state into line 8 of its pid file for exactly this purpose.
pub(super) fn is_ready(data: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_this_server = lines.first().is_some_and(|line| *line == pid.to_string());
    is_this_server
        && lines
            .get(7)
            .is_some_and(|line| matches!(*line, "ready" | "standby"))
}

/// Removes what a killed server leaves behind; its processes have all ended.
///
/// The pid file's number may by now belong to another process, for which the server would wait. Its
/// segment of shared memory belongs to none and would stay for ever: the kernel has room for 4096,
/// after which no PostgreSQL starts (seen).
pub(super) fn forget_process(data: &Path) {
    let file = data.join("postmaster.pid");
    // There is none after a clean stop.
    let Ok(text) = fs::read_to_string(&file) else {
        return;
    };
    if let Some(segment) = shared_memory(&text) {
        // If that fails, the next server on the same data removes it.
        let _ = Command::new("ipcrm")
            .args(["--shmem-id", segment])
            .stderr(Stdio::null())
            .status();
    }
    let _ = fs::remove_file(file);
}

/// The segment's number: the second on line 7 of the pid file.
fn shared_memory(pid_file: &str) -> Option<&str> {
    pid_file.lines().nth(6)?.split_whitespace().nth(1)
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;
    use crate::servers::process::ProcessId;

    #[test]
    fn readiness_is_read_for_the_right_process_only() {
        let data = env::temp_dir().join(format!("xtask-pidfile-{}", ProcessId::current()));
        fs::create_dir_all(&data).unwrap();
        let text = "77\n/data\n1700000000\n5432\n/s\n127.0.0.1\n  1 2\nready   \n";
        fs::write(data.join("postmaster.pid"), text).unwrap();
        assert!(is_ready(&data, 77));
        assert!(!is_ready(&data, 78));
        fs::write(
            data.join("postmaster.pid"),
            text.replace("ready", "starting"),
        )
        .unwrap();
        assert!(!is_ready(&data, 77));
        fs::remove_dir_all(&data).unwrap();
        assert!(!is_ready(&data, 77));
    }
}
