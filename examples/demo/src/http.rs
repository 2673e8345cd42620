//! Reading a page of the service.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Returns the body of a page of the service.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<String> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: the body ends with the connection.
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("http://{address}{path}: no answer in {} s", PATIENCE.as_secs()))?
        .with_context(|| format!("http://{address}{path}"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => bail!(
            "http://{address}{path}: {}",
            answer.lines().next().unwrap_or("no answer")
        ),
    }
}
