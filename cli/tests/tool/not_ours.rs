//! What is prepared and not this log's: shown, and never touched.

use crate::application::Plan;
use crate::by_hand::{gid, other_of, unlisted_of, xid};
use crate::support::Service;

async fn foreign_are_shown_and_left(service: Service) {
    service.create_tables().await;
    let gtrid = service.start(Plan::BeforeDecide).kill();
    let tag = std::process::id();
    // As pgjdbc names them; any text; and one of ours but for a letter.
    let gids = [
        format!("{tag}_Zm9yZWlnbg==_AQ=="),
        format!("backup {tag}, by hand"),
        format!("Unanimous:{gtrid}:orders"),
        format!("{tag} it's \"quoted\" \\ ; DROP TABLE orders; --"),
        format!("{tag}\r\n\u{1b}[2J\u{7} приказ 注文 🦀"),
    ];
    for (gid, id) in gids.iter().zip(10..) {
        service.prepare_orders(gid, id).await;
    }
    // Any bytes; and ours but for the format id (which neither server takes for a part of the key).
    let bytes = format!("00ff27{tag:08x}");
    let xids = [
        format!("'by hand {tag}','b',1"),
        format!("X'{bytes}',X'',7"),
        xid(&other_of(&gtrid), "ledger").replace(",1431191886", ",1431191887"),
    ];
    for (xid, id) in xids.iter().zip(10..) {
        service.prepare_ledger(xid, id).await;
    }

    let listed = service.run(&["list", "--format", "json"]).exits(1);
    for gid in &gids {
        let (resource, branch) = listed.branch(gid);
        assert_eq!(
            (&*resource, &branch["state"]),
            ("orders", &"foreign".into())
        );
        assert_eq!(branch["in_doubt"], false);
        assert!(branch["gtrid"].is_null() && branch["decided"].is_null());
    }
    assert_eq!(
        listed.branch(&format!("by hand {tag}'")).1["state"],
        "foreign"
    );
    assert_eq!(listed.branch("1431191887").1["state"], "foreign");
    assert_eq!(listed.branch(&bytes).1["state"], "foreign");
    let table = service.run(&["list"]).exits(1).stdout;
    let is_plain = |c: char| c == '\n' || !c.is_control();
    assert!(
        table.contains("приказ") && table.chars().all(is_plain),
        "{table:?}"
    );
    service.run(&["recover", "--yes"]).exits(0);
    // Nothing is in doubt, whatever else is prepared there.
    let clean = service.run(&["list"]).exits(0);
    assert!(clean.stderr.contains("0 in doubt"), "{clean:?}");
    // They are all still there, or this fails.
    for gid in &gids {
        service.unprepare_orders(gid).await;
    }
    for xid in &xids {
        service.unprepare_ledger(xid).await;
    }
    assert_eq!(service.rows().await, (0, 0));
    service.drop_tables().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_foreign_branches_are_shown_and_left_on_postgresql_15_and_mysql() {
    foreign_are_shown_and_left(Service::new("foreign")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_foreign_branches_are_shown_and_left_on_the_newest_postgresql_and_mariadb() {
    foreign_are_shown_and_left(Service::new_on_the_others("foreign2")).await;
}

/// A log that was restored from a backup does not list what was opened since.
#[tokio::test(flavor = "multi_thread")]
async fn i4_branches_of_an_unlisted_opening_are_in_doubt_and_left_to_a_person() {
    let service = Service::new("unlisted");
    service.create_tables().await;
    let gtrid = unlisted_of(&service.start(Plan::BeforeDecide).kill());
    let (gid, xid) = (gid(&gtrid, "orders"), xid(&gtrid, "ledger"));
    service.prepare_orders(&gid, 10).await;
    service.prepare_ledger(&xid, 10).await;

    let listed = service.run(&["list", "--format", "json"]).exits(1);
    for (_, branch) in listed.branches(&gtrid) {
        assert_eq!(branch["state"], "unlisted");
        assert_eq!(branch["in_doubt"], true);
        assert!(branch["decided"].is_null());
    }
    let pass = service.run(&["recover", "--yes"]).exits(1);
    assert_eq!(
        pass.stderr.matches("a person has to look").count(),
        2,
        "{pass:?}"
    );
    assert_eq!(
        service
            .run(&["list", "--format", "json"])
            .branches(&gtrid)
            .len(),
        2
    );
    service.unprepare_orders(&gid).await;
    service.unprepare_ledger(&xid).await;
    service.run(&["list"]).exits(0);
    service.drop_tables().await;
}
