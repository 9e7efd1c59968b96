//! Options, and what is made of an error, without a server.

use super::*;

#[test]
fn the_socket_that_the_server_names_is_never_preferred() {
    let opts = Opts::from_url("mysql://app@host/db?prefer_socket=true").unwrap();
    let opts: Opts = base_opts(&"ledger".parse().unwrap(), opts).into();
    assert!(!opts.prefer_socket());
}

#[test]
fn a_server_is_not_taken_for_one_without_encryption_for_ever() {
    let mut learnt = Learnt::default();
    let now = Instant::now();
    assert!(!learnt.goes_without(now));
    learnt.offers_none = Some(now);
    assert!(learnt.goes_without(now + WITHOUT_TLS / 2));
    assert!(!learnt.goes_without(now + WITHOUT_TLS));
}

fn server(code: u16) -> Error {
    Error::Server(mysql_async::ServerError {
        code,
        message: "near s3cret".to_owned(),
        state: "42000".to_owned(),
    })
}

#[test]
fn i8_the_servers_words_are_left_out_where_there_is_set_up_sql() {
    let refused = |session_setup: &str, code| {
        let opts = Opts::from_url("mysql://app@host/db").unwrap();
        let route = Route::new(Description {
            name: "ledger".parse().unwrap(),
            prefix: "",
            source: Source::Fixed(Box::new(opts)),
            password: None,
            security: None,
            session_setup: session_setup.to_owned(),
            control: false,
        });
        let route = route.unwrap();
        let ready = route.fixed.clone().unwrap();
        route.refused(&ready, server(code))
    };
    let error = refused("SET x = 's3cret'", 1064);
    assert_eq!(error.problem(), Problem::Unfit);
    let text = error.to_string();
    assert!(
        text.contains("failed with error 1064") && !text.contains("s3cret"),
        "{text}"
    );
    // Without it, or where the login itself was refused, they are the application's own.
    for error in [refused(" ", 1064), refused("SET x = 's3cret'", 1040)] {
        assert_eq!(error.problem(), Problem::Unavailable);
        assert!(error.to_string().contains("near s3cret"), "{error}");
    }
}

#[test]
fn a_name_that_the_certificate_has_is_asked_for() {
    let error = |presented: &[&str]| -> Error {
        let error = CertificateError::NotValidForNameContext {
            expected: "db".try_into().unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        TlsError::Tls(error.into()).into()
    };
    let name = presented_name(&error(&["DirectoryName", "DnsName(\"db.internal\")"]));
    assert_eq!(name.as_deref(), Some("db.internal"));
    assert_eq!(presented_name(&error(&[])), None);
    assert_eq!(presented_name(&server(1045)), None);
    let expired = TlsError::Tls(CertificateError::Expired.into()).into();
    assert_eq!(presented_name(&expired), None);

    let opts = Opts::from_url("mysql://app@host/db?require_ssl=true").unwrap();
    let overridden = |opts: &Opts| {
        let name = opts.ssl_opts()?.tls_hostname_override()?;
        Some(name.to_owned())
    };
    assert_eq!(overridden(&with_name(&opts, name.clone())), name);
    assert_eq!(overridden(&with_name(&opts, None)), None);
    let plain = Opts::from_url("mysql://app@host:7/db").unwrap();
    let same = with_name(&plain, name);
    assert!(same.ssl_opts().is_none() && same.tcp_port() == 7);
}

#[test]
fn a_host_is_read_from_what_a_certificate_presents() {
    for (presented, host) in [
        ("DnsName(\"db.internal\")", Some("db.internal")),
        ("DnsName(\"*.db.internal\")", Some("any.db.internal")),
        ("IpAddress(10.0.0.1)", Some("10.0.0.1")),
        ("UniformResourceIdentifier(\"a://b\")", None),
        ("DirectoryName", None),
    ] {
        assert_eq!(host_of(presented).as_deref(), host, "{presented}");
    }
}
