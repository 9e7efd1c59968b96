//! Tests of reading the machine's sources.

use super::*;

fn machine(sources: Vec<Source>) -> Machine {
    Machine {
        settings: String::new(),
        sources,
        codename: "trixie".to_owned(),
        keyring: Some("/keys".to_owned()),
    }
}

fn source(uri: &str, suite: &str) -> Source {
    Source {
        uri: uri.to_owned(),
        suites: vec![suite.to_owned()],
        components: vec!["main".to_owned()],
        signed_by: None,
    }
}

#[test]
fn a_line_is_read_with_and_without_options() {
    let plain = parse_line("deb http://mirror.test/debian bookworm main contrib # note").unwrap();
    assert_eq!(plain.uri, "http://mirror.test/debian");
    assert_eq!(plain.suites, ["bookworm"]);
    assert_eq!(plain.components, ["main", "contrib"]);
    let signed = "deb [ arch=amd64 signed-by=/k.gpg ] https://mirror.test/debian sid main";
    assert_eq!(
        parse_line(signed).unwrap().signed_by.as_deref(),
        Some("/k.gpg")
    );
}

#[test]
fn comments_and_source_packages_are_no_sources() {
    for line in [
        "",
        "# deb http://a b main",
        "deb-src http://a b main",
        "deb",
        "deb http://a",
    ] {
        assert_eq!(parse_line(line), None, "{line}");
    }
}

#[test]
fn stanzas_are_read_with_lists_comments_and_an_embedded_key() {
    let text = "# first\nTypes: deb deb-src\nURIs: http://one.test/debian http://two.test/debian\n\
                # within\nSuites: trixie\n trixie-updates\nComponents: main\nSigned-By:\n BEGIN\n \
                .\n END\n\nTypes: deb-src\nURIs: http://three.test\nSuites: x\n\n\
                Enabled: no\nTypes: deb\nURIs: http://four.test\nSuites: y\n";
    let found = parse_stanzas(text);
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].uri, "http://two.test/debian");
    assert_eq!(found[0].suites, ["trixie", "trixie-updates"]);
    assert_eq!(found[0].signed_by.as_deref(), Some("\n BEGIN\n .\n END"));
}

#[test]
fn the_machines_mirror_serves_releases_it_does_not_list() {
    let machine = machine(vec![
        source("http://other.test/tool", "tool"),
        source("http://mirror.test/debian", "trixie"),
        source("http://mirror.test/debian-security", "trixie-security"),
    ]);
    let sid = machine.sources_for("sid").unwrap();
    assert!(
        sid.contains("URIs: http://mirror.test/debian\nSuites: sid\n"),
        "{sid}"
    );
    assert!(!sid.contains("security"), "{sid}");
    let bookworm = machine.sources_for("bookworm").unwrap();
    assert!(
        bookworm.contains("debian-security\nSuites: bookworm-security\n"),
        "{bookworm}"
    );
    assert_eq!(bookworm.matches("Signed-By: /keys\n").count(), 2);
}

#[test]
fn without_any_source_of_debian_the_default_mirror_is_taken() {
    let machine = machine(vec![source("http://archive.test/ubuntu", "noble")]);
    let sid = machine.sources_for("sid").unwrap();
    assert!(sid.contains(DEFAULT_MIRROR), "{sid}");
}

#[test]
fn without_a_keyring_nothing_is_downloaded() {
    let machine = Machine {
        keyring: None,
        ..machine(Vec::new())
    };
    let refusal = machine.sources_for("sid").unwrap_err().to_string();
    assert!(refusal.contains("debian-archive-keyring"), "{refusal}");
}

#[test]
fn only_settings_that_reach_mirrors_are_kept() {
    let dump = "APT::Update::Post-Invoke:: \"rm -f x\";\n\
                Acquire::http::Proxy \"http://proxy.test:3128\";\n\
                Acquire::AllowInsecureRepositories \"1\";\n\
                Acquire::Check-Valid-Until \"false\";\n";
    let kept = settings_kept(dump);
    assert!(
        kept.contains("Proxy") && kept.contains("Check-Valid-Until"),
        "{kept}"
    );
    assert!(
        !kept.contains("rm -f") && !kept.contains("Insecure"),
        "{kept}"
    );
}

#[test]
fn the_release_is_read_with_and_without_quotes() {
    let text = "NAME=\"Debian\"\nVERSION_CODENAME=bookworm\n";
    assert_eq!(value_of(text, "VERSION_CODENAME"), Some("bookworm"));
    assert_eq!(value_of(text, "NAME"), Some("Debian"));
    assert_eq!(value_of(text, "VERSION"), None);
}
