//! The HTTP server's limits, on the service itself.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::support::service::{Bench, end_of, terminate, wait_for};

/// Whether the server closes the connection, and after how long; what it says before is thrown away.
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
fn clients_that_send_nothing_or_too_much_or_come_in_crowds_keep_nobody_out() {
    let bench = Bench::start();
    bench.broker.create_topic("limits", 1);
    let service = bench.service("limits");
    let mut child = service.command().spawn().unwrap();
    wait_for("the server", || service.get("/live").is_some());
    let connect = || TcpStream::connect(service.listen()).unwrap();

    // A head that is too long, or of too many fields, is refused in words.
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

    // Two that send nothing or half a head are closed, and so is one that sends no second request.
    let silent = connect();
    let mut half = connect();
    half.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\nx-slow: ").unwrap();
    let mut idle = connect();
    idle.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    for socket in [silent, half, idle] {
        assert!(
            closed_after(socket).is_some(),
            "a connection that says nothing is kept for ever"
        );
    }

    // A crowd: the places are taken, what comes then is closed at once, and after a while there is room again.
    let crowd: Vec<TcpStream> = (0..400).map(|_| connect()).collect();
    let files = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count();
    assert!(files < 128 + 100, "{files} open files for 400 connections");
    wait_for("an answer after the crowd", || {
        service
            .get("/live")
            .is_some_and(|page| page.starts_with("HTTP/1.1 200"))
    });
    drop(crowd);
    terminate(&child);
    assert!(end_of(&mut child).success());
}
