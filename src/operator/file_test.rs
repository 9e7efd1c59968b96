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

#[test]
fn a_password_without_a_user_or_without_a_source_is_refused() {
    let text = refused(&orders(
        "url = \"mysql://h/d\"\npassword_command = [\"echo\", \"x\"]",
    ));
    assert!(
        text.contains("resource orders: the address names no user"),
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
    assert_eq!(file.log_folder(), folder.path().join("log"));
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
