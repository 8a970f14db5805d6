//! A small HTTP/1.1 client: one request a connection, over TCP or a unix socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// How long a connection or an answer may take: long enough for a few retransmissions.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How long the API may take for an answer: a swarm without a leader takes its time to say so.
const API_TIMEOUT: Duration = Duration::from_secs(60);

/// What the `whoami` image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// As `web.2`.
    pub task: String,
    /// The task's ID.
    pub task_id: String,
    /// As `node-3`.
    pub node: String,
    /// The client that the task saw.
    pub client: SocketAddr,
}

impl Answer {
    fn parse(text: &str) -> io::Result<Self> {
        let wrong = || io::Error::other(format!("not an answer of whoami: {text:?}"));
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(wrong)?;
            Ok::<_, io::Error>(line.trim().to_owned())
        };
        Ok(Self {
            task: field("Task:")?,
            task_id: field("Task ID:")?,
            node: field("Node:")?,
            client: field("Client:")?.parse().map_err(|_| wrong())?,
        })
    }
}

/// Calls a `whoami` service.
pub(crate) fn call(target: SocketAddr) -> io::Result<Answer> {
    Answer::parse(&get(target)?)
}

/// The body of `GET /`.
pub(crate) fn get(target: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let response = Response::parse(&bytes)?;
    if response.status == 200 { Ok(response.text()) } else { Err(io::Error::other(response.text())) }
}

/// A response of the API.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    /// As 200.
    pub status: u16,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::other(format!("{what}: {:?}", String::from_utf8_lossy(bytes)));
        let split =
            bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(|| wrong("no head"))?;
        let head = String::from_utf8_lossy(&bytes[..split]).to_ascii_lowercase();
        let status =
            head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| wrong("no status"))?;
        let rest = &bytes[split + 4..];
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let body = if head.contains("transfer-encoding: chunked") {
            join_chunks(rest).ok_or_else(|| wrong("a broken chunk"))?
        } else if let Some(length) = length {
            let length: usize = length.trim().parse().map_err(|_| wrong("a broken length"))?;
            rest.get(..length).ok_or_else(|| wrong("a short body"))?.to_vec()
        } else {
            rest.to_vec()
        };
        Ok(Self { status, body })
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The message of an error.
    #[track_caller]
    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// A connection to the API that is kept for further requests.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects to a socket.
    pub(crate) fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(API_TIMEOUT))?;
        stream.set_write_timeout(Some(API_TIMEOUT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Another time limit for each answer.
    pub(crate) fn with_timeout(self, timeout: Duration) -> io::Result<Self> {
        self.stream.get_ref().set_read_timeout(Some(timeout))?;
        Ok(self)
    }

    /// A request and its answer. After an error the connection is of no use any more.
    pub(crate) fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: skep\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut bytes)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if head.contains("transfer-encoding: chunked") {
            // Chunks up to the empty one; trailers are not sent.
            while !bytes.ends_with(b"\r\n0\r\n\r\n") {
                if self.stream.read_until(b'\n', &mut bytes)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        } else {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: u64 = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
            self.stream.by_ref().take(length).read_to_end(&mut bytes)?;
        }
        Response::parse(&bytes)
    }
}

fn join_chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        rest = rest.get(line + 2..)?;
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

/// A request to the API over its socket.
pub(crate) fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: skep\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(socket, &[head.as_bytes(), body].concat(), false).and_then(|bytes| Response::parse(&bytes))
}

/// Sends bytes to the API's socket as they are, says that no more will come, and gives back what comes.
pub(crate) fn raw(socket: &Path, bytes: &[u8]) -> io::Result<Vec<u8>> {
    exchange(socket, bytes, true)
}

fn exchange(socket: &Path, bytes: &[u8], finish: bool) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(API_TIMEOUT))?;
    stream.set_write_timeout(Some(API_TIMEOUT))?;
    // A server that has seen enough closes: what it has said is still there to read.
    if stream.write_all(bytes).is_ok() && finish {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Err(error) if received.is_empty() => Err(error),
        _ => Ok(received),
    }
}
