//! Config files: what is refused and how it is said, and what an application gets.

use std::path::Path;

use super::ConfigFile;

const LOG: &str = "[log]\nfolder = \"log\"\n";

fn read(text: &str) -> Result<ConfigFile, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("u.toml");
    std::fs::write(&path, text).unwrap();
    ConfigFile::read(path).map_err(|error| error.to_string())
}

fn refused(text: &str) -> String {
    let read = read(text).and_then(|file| file.parts().map_err(|error| error.to_string()));
    read.err().unwrap_or_else(|| panic!("not refused: {text}"))
}

fn orders(lines: &str) -> String {
    format!("{LOG}[resources.orders]\n{lines}\n")
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    let text = refused(&orders("url = \"mysql://app@h/d\"\npool_sise = 3"));
    assert!(text.contains("u.toml, line 5"), "{text}");
    assert!(
        text.contains("`pool_sise`") && text.contains("`pool_size`"),
        "{text}"
    );
    for (file, key) in [
        (format!("lgo = 1\n{LOG}"), "`lgo`"),
        ("[log]\nfolder = \"l\"\nfsync = false\n".into(), "`fsync`"),
    ] {
        let text = refused(&file);
        assert!(text.contains(key) && text.contains(", line "), "{text}");
    }
}

#[test]
fn what_is_missing_or_given_twice_is_named() {
    for (file, said) in [
        (String::new(), "missing field `log`"),
        (LOG.into(), "it names no resource: add [resources.NAME]"),
        (orders(""), "resource orders: it has no address: add url"),
        (
            orders("url = \"mysql://a@h/d\"\nurl_env = \"X\""),
            "url and url_env are both given",
        ),
        (
            orders("url = \"mysql://a@h/d\"\npassword_env = \"X\"\npassword_file = \"f\""),
            "more than one of password_env, password_file",
        ),
        (orders("url = 1\n[resources.orders]"), "u.toml, line "),
        (
            format!("{LOG}[resources.1st]\nurl = \"mysql://a@h/d\""),
            "[resources.1st]: ",
        ),
        (
            orders("url = \"mysql://a@h/d\"\nrecovery_password_env = \"X\""),
            "no address for it: add recovery_url",
        ),
        (
            orders("url = \"mysql://a@h/d\"\nrecovery_url = \"mysql://b:p@h/d\""),
            "the recovery_url holds a password: take it out, and name recovery_password_env",
        ),
        (
            orders("url = \"mysql://a@h/d\"\nrecovery_url = \"x\"\nrecovery_url_env = \"X\""),
            "recovery_url and recovery_url_env are both given",
        ),
        (
            orders("url = \"mysql://a@h/d\"\n[resources.orders]\nurl = \"mysql://a@h/d\""),
            "line 5: duplicate key",
        ),
        (
            format!(
                "{LOG}[resources.\"{}\"]\nurl = \"mysql://a@h/d\"",
                "x".repeat(65)
            ),
            "line 3: [resources.xxx",
        ),
    ] {
        let text = refused(&file);
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn i8_an_address_that_does_not_parse_is_refused_without_showing_it() {
    for url in [
        "s3cret",
        "oracle://app@s3cret/d",
        "postgres://app@s3cret:port/d",
        "mysql://app@h/d?s3cret=1",
        "mysql://app@s3cret",
    ] {
        let text = refused(&orders(&format!("url = \"{url}\"")));
        assert!(text.contains("resource orders: "), "{text}");
        assert!(text.contains("u.toml"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn i8_a_password_in_the_wrong_place_is_refused_without_showing_it() {
    for lines in [
        "url = \"mysql://app:s3cret@h/d\"",
        "url = mysql://app:s3cret@h/d",
        "url = \"mysql://app@h/d\"\npool_size = \"s3cret\"",
        "url = \"mysql://app@h/d\"\npassword = \"s3cret\"",
        "url = \"mysql://app@h/d\"\npassword_command = \"s3cret\"",
    ] {
        let text = refused(&orders(lines));
        assert!(!text.contains("s3cret"), "{text}");
    }
    let text = refused(&format!(
        "{LOG}[resources]\norders = \"mysql://app:s3cret@h/d\""
    ));
    assert!(!text.contains("s3cret"), "{text}");
    let text = refused(&orders("url = \"mysql://app:s3cret@h/d\""));
    assert!(text.contains("the url holds a password"), "{text}");
}

/// Every value that is out of range is refused with its line and what may stand there.
#[test]
fn i8_values_out_of_range_are_refused_by_line_without_showing_them() {
    let limit = "a text such as \"5s\"";
    let count = "a whole number from 1 to 100000";
    for (line, expected) in [
        ("pool_size = 0", count),
        ("pool_size = -7777", count),
        ("pool_size = 7777777", count),
        ("pool_size = 7777.5", count),
        ("pool_size = \"7777, expected x\"", count),
        ("recovery_sessions = 0", count),
        ("pool_timeout = 7777", limit),
        ("pool_timeout = \"7777\"", limit),
        ("connect_timeout = \"0s\"", limit),
        ("connect_timeout = \"-7777s\"", limit),
        ("connect_timeout = \"7777days\"", limit),
        ("connect_timeout = true", limit),
        ("vanished_after = \"3s\"", "at least 4s"),
        (
            "isolation = \"7777\"",
            "`read-committed`, `repeatable-read`",
        ),
        ("password_env = 7777", "a string"),
        ("password_file = 7777", "path string"),
        ("password_command = [7777]", "a string"),
        ("session_setup = [\"7777\"]", "a string"),
    ] {
        let text = refused(&orders(&format!("url = \"postgres://a@h/d\"\n{line}")));
        assert!(text.contains("u.toml, line 5: "), "{line}: {text}");
        assert!(text.contains(expected), "{line}: {text}");
        assert!(!text.contains("7777"), "{line}: {text}");
    }
    for (line, expected) in [
        ("lock_timeout = \"0s\"", limit),
        ("deadline = 60", limit),
        ("recovery_interval = \"1ms\"", "at least 10ms"),
        ("recovery_concurrency = 0", count),
        ("retry_attempts_max = 0", "from 1 to 1000"),
        (
            "dedline = \"60s\"",
            "unknown field `dedline`, expected one of `deadline`",
        ),
    ] {
        let text = refused(&format!("{LOG}[limits]\n{line}\n"));
        assert!(text.contains("u.toml, line 4: "), "{line}: {text}");
        assert!(text.contains(expected), "{line}: {text}");
    }
    let text = refused("[log]\nfolder = \"l\"\nsegment_bytes = 1");
    assert!(
        text.contains("line 3") && text.contains("from 65536"),
        "{text}"
    );
}

#[test]
fn i8_what_is_not_toml_is_refused_by_line_without_showing_it() {
    for line in [
        "url = s3cret",
        "url = 's3cret",
        "s3cret",
        "s3cret = ",
        "url = \"\\s3cret\"",
        "password_command = [\"s3cret\"",
        "url = \"x\" s3cret",
        "url = 2026-13-s3cret",
    ] {
        let text = refused(&orders(line));
        assert!(text.contains("u.toml, line "), "{line}: {text}");
        assert!(!text.contains("s3cret"), "{line}: {text}");
    }
}

#[test]
fn the_limits_of_the_file_are_the_managers() {
    let limits = "[limits]\ndeadline = \"1m 30s\"\nlock_timeout = \"250ms\"\n\
                  open_timeout = \"1s\"\nprepare_timeout = \"2s\"\ndecide_timeout = \"3s\"\n\
                  finish_timeout = \"4s\"\nstart_timeout = \"5min\"\ndrain_timeout = \"6s\"\n\
                  recovery_timeout = \"7s\"\nrecovery_interval = \"8s\"\n\
                  recovery_interval_max = \"9h\"\nrecovery_concurrency = 10\n\
                  retry_attempts_max = 11\n";
    let text = orders("url = \"mysql://a@h/d\"") + limits;
    let builder = format!("{:?}", read(&text).unwrap().parts().unwrap().builder());
    let mut all = crate::Config::default();
    let seconds = std::time::Duration::from_secs;
    all.deadline = seconds(90);
    all.lock_timeout = std::time::Duration::from_millis(250);
    all.open_timeout = seconds(1);
    all.prepare_timeout = seconds(2);
    all.decide_timeout = seconds(3);
    all.finish_timeout = seconds(4);
    all.start_timeout = seconds(300);
    all.drain_timeout = seconds(6);
    all.recovery_timeout = seconds(7);
    all.recovery_interval = seconds(8);
    all.recovery_interval_max = seconds(9 * 3600);
    all.recovery_concurrency = 10;
    all.retry_attempts_max = 11;
    assert!(builder.contains(&format!("{all:?}")), "{builder}");
}

#[test]
fn every_key_of_a_resource_reaches_its_builder() {
    let common = "pool_size = 3\npool_timeout = \"1s\"\nconnect_timeout = \"2s\"\n\
                  isolation = \"serializable\"\nsession_setup = \"SET a = 1\"\n\
                  recovery_url = \"SCHEME://rec@h/d\"\nrecovery_password_env = \"X\"\n\
                  password_command = [\"false\"]\nrecovery_sessions = 2\n\
                  url = \"SCHEME://app@h/d\"\n";
    let postgres = "vanished_after = \"1m\"\napplication_name = \"shop\"";
    let of = |scheme: &str, more: &str| orders(&(common.replace("SCHEME", scheme) + more));
    if cfg!(feature = "postgres") {
        read(&of("postgres", postgres)).unwrap().parts().unwrap();
    }
    if cfg!(feature = "mysql") {
        read(&of("mysql", "")).unwrap().parts().unwrap();
        for line in postgres.lines() {
            let text = refused(&of("mysql", line));
            let key = line.split(' ').next().unwrap();
            let said = format!("resource orders: {key} is for PostgreSQL alone: remove it");
            assert!(text.contains(&said), "{text}");
        }
    }
}

#[test]
fn all_resources_that_cannot_be_used_are_named_at_once() {
    let text = refused(&orders(
        "url = \"oracle://a@h/d\"\n[resources.ledger]\nurl_env = \"UNANIMOUS_TEST_NOT_SET\"",
    ));
    assert!(text.contains("resource orders: "), "{text}");
    assert!(
        text.contains("resource ledger: the environment variable"),
        "{text}"
    );
}

#[test]
fn a_password_without_a_user_or_without_a_source_is_refused() {
    let text = refused(&orders(
        "url = \"mysql://h/d\"\npassword_command = [\"echo\", \"x\"]",
    ));
    assert!(
        text.contains("resource orders: the url names no user for the password: write"),
        "{text}"
    );
    let text = refused(&orders("url_env = \"UNANIMOUS_TEST_NOT_SET\""));
    assert!(
        text.contains("resource orders: the environment variable UNANIMOUS_TEST_NOT"),
        "{text}"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = ConfigFile::read("no/such/u.toml").unwrap_err().to_string();
    assert!(
        error.starts_with("config file no/such/u.toml: cannot be read"),
        "{error}"
    );
}

#[test]
fn relative_paths_begin_at_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("u.toml");
    std::fs::write(folder.path().join("p"), "s3cret\n").unwrap();
    let lines = "url = \"mysql://app@h/d\"\npassword_file = \"p\"\npool_size = 3";
    std::fs::write(&path, orders(lines)).unwrap();
    let file = ConfigFile::read(&path).unwrap();
    assert_eq!(file.log_folder(), Some(&*folder.path().join("log")));
    assert!(!format!("{file:?}{:?}", file.parts().unwrap()).contains("s3cret"));
    assert!(!Path::new("p").exists(), "so it was read beside the file");
}

#[cfg(all(feature = "postgres", feature = "mysql"))]
#[test]
fn an_application_gets_its_resources_by_name_and_type() {
    use crate::mysql::Mysql;
    use crate::postgres::Postgres;

    let lines = "url = \"postgres://app@h/d\"\n[resources.ledger]\nurl = \"mysql://app@h/d\"";
    let parts = read(&orders(lines)).unwrap().parts().unwrap();
    parts.resource::<Postgres>("orders").unwrap();
    parts.resource::<Mysql>("ledger").unwrap();
    let error = parts.resource::<Mysql>("orders").unwrap_err().to_string();
    assert!(error.contains("resource orders is not a "), "{error}");
    let error = parts.resource::<Mysql>("stock").unwrap_err().to_string();
    assert!(
        error.contains("no resource stock: it has ledger, orders"),
        "{error}"
    );
}

/// A file with this section `[log]`, and the resources `ledger` and `orders`.
fn logged(log: &str) -> String {
    format!(
        "[log]\n{log}\n[resources.orders]\nurl = \"postgres://app@h/d\"\n\
         [resources.ledger]\nurl = \"mysql://app@h/d\"\n"
    )
}

#[test]
fn a_log_has_exactly_one_home_and_no_keys_of_another() {
    for (log, said) in [
        ("", "the log has no home: add folder, or resource"),
        ("create = true", "the log has no home"),
        (
            "folder = \"l\"\nresource = \"orders\"",
            "more than one home, folder and resource: keep one",
        ),
        (
            "resource = \"orders\"\n[log.mysql]\nurl = \"mysql://a@h/d\"",
            "more than one home, resource and [log.mysql]: keep one",
        ),
        (
            "folder = \"l\"\nsuspect_after = \"5s\"",
            "suspect_after is for a log in a table, and this one is in a folder: remove it",
        ),
        (
            "resource = \"orders\"\nretain_completed = 7",
            "retain_completed is for a log in a folder, and this one is in a table: remove it",
        ),
        ("resource = \"s3cret\"", "write one of ledger, orders"),
        (
            "[log.postgres]\npool_size = 3",
            "[log.postgres]: it has no address: add url, or url_env",
        ),
        (
            "[log.mysql]\nurl = \"mysql://a:s3cret@h/d\"",
            "[log.mysql]: the url holds a password: take it out",
        ),
        (
            "resource = \"orders\"\nlabel = \"\"",
            "label: write 1 to 100 characters",
        ),
    ] {
        let text = refused(&logged(log));
        assert!(text.contains("u.toml, line 1: [log]: "), "{log}: {text}");
        assert!(text.contains(said), "{log}: {text}");
        assert!(!text.contains("s3cret"), "I8: {text}");
    }
    for (line, expected) in [
        ("suspect_after = \"99ms\"", "at least 100ms"),
        ("create = \"7777\"", "a boolean"),
        ("label = 7777", "a string"),
        ("resorce = \"7777\"", "`resorce`"),
    ] {
        let text = refused(&logged(&format!("resource = \"orders\"\n{line}")));
        assert!(text.contains("u.toml, line 3: "), "{line}: {text}");
        assert!(
            text.contains(expected) && !text.contains("7777"),
            "{line}: {text}"
        );
    }
}

#[cfg(all(feature = "postgres", feature = "mysql"))]
#[test]
fn a_log_in_a_table_is_built_with_what_the_file_says_of_it() {
    let all = "create = false\nlast_resource = false\nlossless_failover = true\n\
               suspect_after = \"3s\"\nlabel = \"shop 1\"\n";
    for home in [
        "resource = \"orders\"\n",
        "resource = \"ledger\"\n",
        "postgres = { url = \"postgres://a@h/d\", password_env = \"X\" }\n",
        "mysql = { url = \"mysql://a@h/d\", connect_timeout = \"2s\" }\n",
    ] {
        let file = read(&logged(&format!("{home}{all}"))).unwrap();
        assert_eq!(file.log_folder(), None);
        let parts = format!("{:?}", file.parts().unwrap());
        for said in [
            "create: false",
            "last_resource: false",
            "lossless_failover: true",
            "suspect_after: 3s",
            "label: Some(\"shop 1\")",
        ] {
            assert!(parts.contains(said), "{home}: {parts}");
        }
    }
    let file = read(&logged("resource = \"orders\"")).unwrap();
    let default = format!("{:?}", file.parts().unwrap());
    assert!(
        default.contains("create: true, last_resource: true"),
        "{default}"
    );
}

#[cfg(all(feature = "postgres", feature = "mysql"))]
#[test]
fn a_logs_own_database_that_cannot_be_used_is_named() {
    for (log, said) in [
        (
            "[log.postgres]\nurl = \"mysql://a@h/d\"",
            "[log.postgres]: its address is of MySQL or MariaDB: write [log.mysql]",
        ),
        (
            "[log.mysql]\nurl = \"postgres://a@h/d\"",
            "[log.mysql]: its address is of PostgreSQL: write [log.postgres]",
        ),
        (
            "[log.mysql]\nurl = \"s3cret\"",
            "[log.mysql]: the address cannot be read: write",
        ),
        (
            "[log.mysql]\nurl_env = \"UNANIMOUS_TEST_NOT_SET\"",
            "[log.mysql]: the environment variable UNANIMOUS_TEST_NOT_SET is not set",
        ),
    ] {
        let text = refused(&logged(log));
        assert!(text.contains(said), "{log}: {text}");
        assert!(
            text.contains("config file ") && !text.contains("s3cret"),
            "I8: {text}"
        );
    }
}
