//! `POST /images/load`: a tar that streams into the store, with progress streaming back.
//!
//! The first word decides the status: an archive that fails before any progress was told gets an error of its own;
//! after that, as with dockerd, the error is the last line of a 200. Both end the command line with exit code 1.

use std::io::{self, Read};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use skep_image::{LoadProgress, Store};
use tokio::sync::mpsc;

use super::{Ctx, json_stream};
use crate::error::{ApiError, Result};
use crate::params::Params;

/// Chunks of the body between the connection and the store; hyper's chunks are 8 to 400 KiB.
const CHUNKS_AHEAD: usize = 8;
/// Lines of progress that may wait for a slow client; the store waits when they are full.
const LINES_AHEAD: usize = 64;
/// Bytes between two lines of progress.
const PROGRESS_STEP: u64 = 4 * 1024 * 1024;

/// Loads the images of an archive.
pub(super) async fn load(State(engine): Ctx, params: Params, request: Request) -> Result<Response> {
    let quiet = params.flag("quiet");
    let (chunks, body) = mpsc::channel::<io::Result<Bytes>>(CHUNKS_AHEAD);
    let (lines, mut told) = mpsc::channel::<Line>(LINES_AHEAD);
    let store = engine.images().clone();
    tokio::spawn(pump(request.into_body(), chunks));
    tokio::task::spawn_blocking(move || run(&store, ChannelReader::new(body), quiet, &lines));

    let first = told.recv().await;
    let first = match first {
        Some(Line::Failed(error)) => return Err(error),
        Some(Line::Told(line)) => line,
        None => return Err(ApiError::internal("loading the images was cut short")),
    };
    let rest = futures_util::stream::unfold(told, |mut told| async move {
        let line = match told.recv().await? {
            Line::Told(line) => line,
            Line::Failed(error) => {
                json!({ "errorDetail": { "message": error.message }, "error": error.message })
            }
        };
        Some((line, told))
    });
    let lines = futures_util::stream::once(async move { first }).chain(rest);
    let lines = lines.map(|line: Value| Ok::<_, io::Error>(Bytes::from(format!("{line}\r\n"))));
    Ok(json_stream(Body::from_stream(lines)))
}

/// What the store has to tell.
enum Line {
    Told(Value),
    Failed(ApiError),
}

fn run(store: &Store, reader: ChannelReader, quiet: bool, lines: &mpsc::Sender<Line>) {
    // A client that does not listen any more gets its images all the same.
    let tell = |line: Line| drop(lines.blocking_send(line));
    let mut next = PROGRESS_STEP;
    let mut progress = |step: LoadProgress| {
        if quiet {
            return;
        }
        match step {
            LoadProgress::Received { bytes } if bytes >= next => {
                next = bytes + PROGRESS_STEP;
                tell(Line::Told(json!({
                    "status": "Receiving", "progressDetail": { "current": bytes }, "id": "archive"
                })));
            }
            LoadProgress::Received { .. } => {}
            LoadProgress::Layer { diff_id, size } => {
                let digest = diff_id.to_string();
                let id: String = digest.rsplit(':').next().unwrap_or(&digest).chars().take(12).collect();
                tell(Line::Told(json!({
                    "status": "Loading layer", "progressDetail": { "current": size, "total": size }, "id": id
                })));
            }
        }
    };
    match store.load(reader, &mut progress) {
        Ok(loaded) => {
            for image in loaded {
                if image.names.is_empty() {
                    tell(Line::Told(json!({ "stream": format!("Loaded image ID: {}\n", image.id) })));
                }
                for name in image.names {
                    tell(Line::Told(json!({ "stream": format!("Loaded image: {name}\n") })));
                }
            }
        }
        Err(error) => tell(Line::Failed(error.into())),
    }
}

async fn pump(body: Body, chunks: mpsc::Sender<io::Result<Bytes>>) {
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(io::Error::other);
        // The store has stopped reading: it is done or has failed. What is left is read and dropped, for a client
        // that is still writing does not read the answer.
        if chunks.send(chunk).await.is_err() {
            while let Some(Ok(_)) = stream.next().await {}
            return;
        }
    }
}

/// The body as the store reads it, from a thread that may block.
struct ChannelReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl ChannelReader {
    fn new(chunks: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { chunks, current: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}
