//! As little HTTP as asking the service takes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Result;

/// The status, and the body's last line. An error: the request may have been carried out.
pub(crate) async fn ask(address: &str, method: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let status = response.split(' ').nth(1).ok_or("no answer")?.parse()?;
    Ok((
        status,
        response.lines().last().unwrap_or_default().to_owned(),
    ))
}

/// For the health check of a container, which needs no other program for it then.
pub(crate) async fn health(address: &str) -> Result<()> {
    match ask(address, "GET", "/ready").await? {
        (200, _) => Ok(()),
        (status, said) => Err(format!("{status}: {said}").into()),
    }
}
