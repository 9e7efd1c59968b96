//! An independent client, connected once for a whole test: rows, prepared branches, sessions.

use mysql_async::prelude::Queryable;
use unanimous::Gtrid;
use unanimous::postgres::tokio_postgres;

use crate::support::Account;

/// Looks at one account.
pub(super) struct Judge {
    account: Account,
    client: Client,
}

enum Client {
    Postgres(tokio_postgres::Client),
    Mysql(mysql_async::Conn),
}

impl Judge {
    pub(super) async fn new(account: Account) -> Self {
        let client = if account.is_postgres {
            let connecting = tokio_postgres::connect(&account.url, tokio_postgres::NoTls);
            let (client, connection) = connecting.await.unwrap();
            // Its end is told by the client.
            tokio::spawn(async move { drop(connection.await) });
            Client::Postgres(client)
        } else {
            Client::Mysql(account.mysql().await)
        };
        Self { account, client }
    }

    pub(super) async fn balance(&mut self) -> i64 {
        let table = &self.account.table;
        self.number(format!("SELECT balance FROM {table} WHERE id = 1"))
            .await
    }

    /// Of all accounts.
    pub(super) async fn total(&mut self) -> i64 {
        let table = &self.account.table;
        let sum = if self.account.is_postgres {
            "SUM(balance)::bigint"
        } else {
            "CAST(SUM(balance) AS SIGNED)"
        };
        self.number(format!("SELECT {sum} FROM {table}")).await
    }

    /// Nobody holds the account's lock.
    pub(super) async fn is_free(&mut self) -> bool {
        let table = &self.account.table;
        let sql = format!("SELECT balance FROM {table} WHERE id = 1 FOR UPDATE NOWAIT");
        match &mut self.client {
            Client::Postgres(client) => client.query_one(&sql, &[]).await.is_ok(),
            Client::Mysql(conn) => conn.query_drop(sql).await.is_ok(),
        }
    }

    async fn number(&mut self, sql: String) -> i64 {
        match &mut self.client {
            Client::Postgres(client) => client.query_one(&sql, &[]).await.unwrap().get(0),
            Client::Mysql(conn) => conn.query_first(sql).await.unwrap().unwrap(),
        }
    }

    /// How many branches of this transaction are prepared.
    pub(super) async fn prepared(&mut self, gtrid: Gtrid) -> usize {
        let listed: Vec<String> = match &mut self.client {
            Client::Postgres(client) => {
                let rows = client.query("SELECT gid FROM pg_prepared_xacts", &[]).await;
                rows.unwrap().iter().map(|row| row.get(0)).collect()
            }
            Client::Mysql(conn) => {
                let rows: Vec<(i64, i64, i64, Vec<u8>)> = conn.query("XA RECOVER").await.unwrap();
                let text = |row: &(_, _, _, Vec<u8>)| String::from_utf8_lossy(&row.3).into_owned();
                rows.iter().map(text).collect()
            }
        };
        let gtrid = gtrid.to_string();
        listed.iter().filter(|xid| xid.contains(&gtrid)).count()
    }

    pub(super) async fn end(self) {
        self.account.drop_table().await;
        if let Client::Mysql(conn) = self.client {
            conn.disconnect().await.unwrap();
        }
    }
}
