//! `skep image`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use skep_state::Timestamp;

use super::client::{CliError, Client, escape, filters};
use super::table::{Column, Table};
use super::time::{ago, human_size};
use super::{ListFlags, for_each, print, print_inspected, text};

/// Bytes read from the archive at a time.
const CHUNK: usize = 256 * 1024;

/// Manage images.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List images
    #[command(visible_alias = "list")]
    Ls(List),
    /// Load images from a tar archive (docker save or OCI layout)
    Load(Load),
    /// Show everything about images
    Inspect(Inspect),
    /// Give an image a further name
    Tag(Tag),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

/// Flags of `ls`.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    list: ListFlags,
    /// Show whole IDs
    #[arg(long)]
    no_trunc: bool,
}

/// Flags of `load`.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// The archive; standard input when absent
    #[arg(short, long)]
    input: Option<PathBuf>,
    /// Show nothing but the names of the images
    #[arg(short, long)]
    quiet: bool,
}

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// `json` or a template
    #[arg(short, long)]
    format: Option<String>,
    /// Images
    #[arg(required = true)]
    images: Vec<String>,
}

/// Arguments of `tag`.
#[derive(Debug, Args)]
pub(crate) struct Tag {
    /// An image
    source: String,
    /// Its further name, NAME[:TAG]
    target: String,
}

/// Flags of `rm`.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Remove an image that has several names
    #[arg(short, long)]
    force: bool,
    /// Images
    #[arg(required = true)]
    images: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
];

/// Runs `skep image …`.
pub(crate) async fn run(command: Command, client: &Client) -> Result<(), CliError> {
    match command {
        Command::Ls(flags) => list(flags, client).await,
        Command::Load(flags) => load(flags, client).await,
        Command::Inspect(flags) => {
            let mut images = Vec::new();
            for image in &flags.images {
                images.push(client.get(&format!("/images/{}/json", escape(image))).await?);
            }
            print_inspected(&images, flags.format.as_deref())
        }
        Command::Tag(flags) => {
            // A colon after the last slash separates the tag; one before it belongs to a registry's port.
            let (repository, tag) = match flags.target.rsplit_once(':') {
                Some((repository, tag)) if !tag.contains('/') => (repository, tag),
                _ => (flags.target.as_str(), "latest"),
            };
            let path = format!(
                "/images/{}/tag?repo={}&tag={}",
                escape(&flags.source),
                escape(repository),
                escape(tag)
            );
            client.post(&path, &json!({})).await.map(drop)
        }
        Command::Rm(flags) => {
            for_each(&flags.images, async |image: String| {
                let removed =
                    client.delete(&format!("/images/{}?force={}", escape(&image), flags.force)).await?;
                for entry in removed.as_array().into_iter().flatten() {
                    for kind in ["Untagged", "Deleted"] {
                        if let Some(name) = entry[kind].as_str() {
                            print(&format!("{kind}: {name}\n"))?;
                        }
                    }
                }
                Ok(())
            })
            .await
        }
    }
}

/// Lists images.
pub(crate) async fn list(flags: List, client: &Client) -> Result<(), CliError> {
    let images: Vec<Value> = client.get(&format!("/images/json?{}", filters(&flags.list.filter))).await?;
    let now = now();
    let mut table = Table::new(COLUMNS);
    let mut ids = String::new();
    for image in &images {
        let id = text(image, "/Id");
        let short: String = id.trim_start_matches("sha256:").chars().take(12).collect();
        let id = if flags.no_trunc { id } else { short };
        ids.push_str(&format!("{id}\n"));
        let created =
            Timestamp::from_nanos(image["Created"].as_i64().unwrap_or(0).saturating_mul(1_000_000_000));
        let mut names: Vec<String> = serde_json::from_value(image["RepoTags"].clone()).unwrap_or_default();
        if names.is_empty() {
            names.push("<none>:<none>".to_owned());
        }
        for name in names {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, "<none>"));
            table.row(vec![
                repository.to_owned(),
                tag.to_owned(),
                id.clone(),
                ago(created, now),
                human_size(image["Size"].as_i64().unwrap_or(0)),
            ]);
        }
    }
    if flags.list.quiet {
        return print(&ids);
    }
    print(&table.render(flags.list.format.as_deref(), false)?)
}

/// Sends an archive to the daemon and shows what it made of it.
pub(crate) async fn load(flags: Load, client: &Client) -> Result<(), CliError> {
    let (reader, length): (Box<dyn Read + Send>, u64) = match &flags.input {
        Some(path) => {
            let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (length, file) = opened
                .map_err(|source| CliError::Io { what: format!("cannot open {}", path.display()), source })?;
            (Box::new(file), length)
        }
        None if std::io::stdin().is_terminal() => {
            return Err(CliError::Usage(
                "requested load from stdin, but stdin is empty: give --input FILE".to_owned(),
            ));
        }
        None => (Box::new(std::io::stdin()), 0),
    };
    let progress = if flags.quiet || !std::io::stderr().is_terminal() {
        ProgressBar::hidden()
    } else if length > 0 {
        let style = ProgressStyle::with_template("Loading {bytes}/{total_bytes} [{bar:30}] {bytes_per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(length).with_style(style)
    } else {
        ProgressBar::new_spinner()
    };
    let body = archive_body(reader, progress.clone());
    let mut answer = client.send(Method::POST, "/images/load?quiet=1", "application/x-tar", body).await?;
    let mut lines = VecDeque::new();
    while let Some(frame) = answer.frame().await {
        let frame = frame
            .map_err(|source| CliError::Lost { host: "the daemon".to_owned(), source: Box::new(source) })?;
        lines.extend(frame.into_data().unwrap_or_default());
    }
    progress.finish_and_clear();
    let bytes: Vec<u8> = lines.into();
    for message in serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>() {
        let message =
            message.map_err(|source| CliError::Answer { path: "/images/load".to_owned(), source })?;
        if let Some(error) = message["error"].as_str() {
            return Err(CliError::Daemon {
                status: http::StatusCode::INTERNAL_SERVER_ERROR,
                message: error.to_owned(),
            });
        }
        print(&text(&message, "/stream"))?;
    }
    Ok(())
}

/// The archive as a request body: read on a thread of its own, a few chunks ahead of the daemon.
fn archive_body(mut reader: Box<dyn Read + Send>, progress: ProgressBar) -> super::client::Body {
    /// Chunks read ahead: enough to keep the socket busy.
    const AHEAD: usize = 4;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(AHEAD);
    std::thread::spawn(move || {
        loop {
            let mut chunk = vec![0; CHUNK];
            let piece = match reader.read(&mut chunk) {
                Ok(0) => return,
                Ok(length) => {
                    chunk.truncate(length);
                    progress.inc(length as u64);
                    Ok(Frame::data(Bytes::from(chunk)))
                }
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    StreamBody::new(Receiver(receiver)).boxed()
}

/// A channel as a stream.
struct Receiver(tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>);

impl futures_util::Stream for Receiver {
    type Item = Result<Frame<Bytes>, std::io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

fn now() -> Timestamp {
    let now = ::time::OffsetDateTime::now_utc().unix_timestamp_nanos();
    Timestamp::from_nanos(i64::try_from(now).unwrap_or(i64::MAX))
}
