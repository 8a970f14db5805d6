//! The built-in `whoami` image: a web server that says which task on which node answers, and which client it sees.
//!
//! It runs as process 1 of a container, one thread a connection, and needs nothing but the standard library.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// Connections served at once: past it, new ones wait in the kernel's queue.
const CONNECTIONS: usize = 256;

/// A client that says nothing for so long is let go.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest request head that is read.
const HEAD_BYTES: u64 = 16 * 1024;

/// A connection's thread needs little: a few strings.
const STACK_BYTES: usize = 64 * 1024;

/// Serves until a stop signal comes. Process 1 has no default signal actions, so it must wait for them itself.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    let stop = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT]);
    stop.thread_block()?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .or_else(|_| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || accept(&listener))?;
    stop.wait()?;
    Ok(())
}

fn accept(listener: &TcpListener) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, client)) = listener.accept() else { continue };
        while open.load(Ordering::Acquire) >= CONNECTIONS {
            std::thread::sleep(Duration::from_millis(1));
        }
        open.fetch_add(1, Ordering::AcqRel);
        let counter = Arc::clone(&open);
        let spawned = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            // A client that goes away in the middle is its own affair.
            let _ = answer(&stream, client);
            counter.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn answer(stream: &TcpStream, client: SocketAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut head = BufReader::new(stream.take(HEAD_BYTES));
    let mut line = String::new();
    let mut method = String::new();
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if method.is_empty() {
            line.split(' ').next().unwrap_or_default().clone_into(&mut method);
        }
        if line == "\r\n" || line == "\n" {
            break;
        }
    }
    let body = body(client);
    let shown = if method == "HEAD" { "" } else { &body };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{shown}",
        body.len()
    )?;
    stream.flush()
}

fn body(client: SocketAddr) -> String {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| "-".to_owned());
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    format!(
        "Task: {}\nTask ID: {}\nNode: {}\nClient: {client}\n",
        variable("SKEP_TASK_NAME"),
        variable("SKEP_TASK_ID"),
        variable("SKEP_NODE_NAME"),
    )
}
