//! The limits of the service's HTTP server.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::support::service::{Bench, end_of, terminate, wait_for};

/// Returns how long the server took to close the connection, or `None` if it stays open for 20 s. Discards the response.
fn closed_after(mut socket: TcpStream) -> Option<Duration> {
    let begun = Instant::now();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut page = Vec::new();
    match socket.read_to_end(&mut page) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
        _ => Some(begun.elapsed()),
    }
}

#[test]
fn slow_oversized_or_numerous_clients_do_not_block_others() {
    let bench = Bench::start();
    bench.broker.create_topic("limits", 1);
    let service = bench.service("limits");
    let mut child = service.command().spawn().unwrap();
    wait_for("the server", || service.get("/live").is_some());
    let connect = || TcpStream::connect(service.address()).unwrap();

    // A head that is too long or has too many fields is refused.
    for head in [
        format!(
            "GET /live HTTP/1.1\r\nhost: x\r\ncookie: {}\r\n\r\n",
            "a".repeat(64 << 10)
        ),
        format!("GET /live HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(500)),
    ] {
        let mut socket = connect();
        let _ = socket.write_all(head.as_bytes());
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    // Connections that send nothing, half a head, or no second request are closed.
    let silent = connect();
    let mut half = connect();
    half.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\nx-slow: ").unwrap();
    let mut idle = connect();
    idle.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    for socket in [silent, half, idle] {
        assert!(closed_after(socket).is_some(), "an idle connection was kept open");
    }

    // Connections beyond the limit are closed at once. After a while new ones are accepted again.
    let many: Vec<TcpStream> = (0..400).map(|_| connect()).collect();
    let files = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count();
    assert!(files < 128 + 100, "{files} open files for 400 connections");
    wait_for("an answer after 400 connections", || {
        service
            .get("/live")
            .is_some_and(|page| page.starts_with("HTTP/1.1 200"))
    });
    drop(many);
    terminate(&child);
    assert!(end_of(&mut child).success());
}
