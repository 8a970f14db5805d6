//! Finds images: in this node's store, built into the binary, or on another node.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::image::{ConfigBuilder, ImageConfiguration, ImageConfigurationBuilder, RootFsBuilder};
use skep_image::{Digest, FileEntry, Image, Reference, Source, Store};
use skep_mesh::{Class, Mesh};
use tokio::sync::Mutex;

use crate::rpc::{self, ImageAnswer, ImageQuery};

/// The image that every node has: the binary itself, as a small web server.
pub const BUILT_IN: &str = "whoami";

/// How long a peer may take to say whether it has an image.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a blob moved at a time.
const CHUNK: usize = 256 * 1024;

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// Nobody has it.
    #[error("No such image: {0}")]
    Missing(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] skep_image::Error),
    /// A peer that had it could not hand it over.
    #[error("cannot fetch {reference} from node {peer}: {reason}")]
    Fetch {
        /// The image.
        reference: String,
        /// The node.
        peer: String,
        /// What went wrong.
        reason: String,
    },
    /// The built-in image could not be made.
    #[error("cannot make the built-in image: {0}")]
    BuiltIn(String),
}

/// Finds images.
pub(crate) struct Images {
    store: Store,
    mesh: Mesh,
    built_in: Mutex<()>,
}

impl Images {
    /// Over a store and a mesh.
    pub(crate) fn new(store: Store, mesh: Mesh) -> Arc<Self> {
        Arc::new(Self { store, mesh, built_in: Mutex::new(()) })
    }

    /// The image and its unpacked layers, topmost first; fetched from another node if need be.
    pub(crate) async fn obtain(&self, reference: &str) -> Result<(Image, Vec<PathBuf>), ImageError> {
        let image = match self.local(reference).await? {
            Some(image) => image,
            None => self.fetch(reference).await?,
        };
        let store = self.store.clone();
        blocking(move || {
            let layers = store.rootfs(&image)?;
            Ok((image, layers))
        })
        .await
    }

    /// The ID of an image that this node has.
    pub(crate) async fn id(&self, reference: &str) -> Option<String> {
        self.local(reference).await.ok().flatten().map(|image| image.id.to_string())
    }

    /// Whether this node or one that it hears has the image.
    pub(crate) async fn available(&self, reference: &str) -> bool {
        matches!(self.local(reference).await, Ok(Some(_))) || self.find(reference).await.is_some()
    }

    /// What another node is told that asks for an image.
    pub(crate) async fn answer(&self, query: &ImageQuery) -> Option<ImageAnswer> {
        let image = self.local(&query.reference).await.ok()??;
        Some(ImageAnswer {
            manifest: image.manifest_digest.to_string(),
            blobs: image.blobs().iter().map(|blob| (blob.digest.to_string(), blob.size)).collect(),
        })
    }

    /// Sends a blob to another node.
    pub(crate) async fn send_blob(
        &self,
        digest: &str,
        mut stream: skep_mesh::SendStream,
    ) -> Result<(), String> {
        let digest: Digest = digest.parse().map_err(|error| format!("{error}"))?;
        let store = self.store.clone();
        let file =
            blocking(move || Ok(store.open_blob(&digest)?)).await.map_err(|error| error.to_string())?;
        let mut file = tokio::fs::File::from_std(file);
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = tokio::io::AsyncReadExt::read(&mut file, &mut chunk)
                .await
                .map_err(|error| error.to_string())?;
            if length == 0 {
                break;
            }
            stream.write_all(&chunk[..length]).await.map_err(|error| error.to_string())?;
        }
        stream.finish().map_err(|error| error.to_string())
    }

    /// The image if it is here or built in.
    async fn local(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        if is_built_in(reference) {
            // Cheap when it is there, and it may have been removed: so every time, but one at a time.
            let _one = self.built_in.lock().await;
            make_built_in(self.store.clone()).await?;
        }
        let (store, name) = (self.store.clone(), reference.to_owned());
        blocking(move || resolve(&store, &name)).await
    }

    /// A peer that has the image. All are asked at once; the first to say yes wins.
    async fn find(&self, reference: &str) -> Option<(String, ImageAnswer)> {
        let query = rpc::encode(&ImageQuery { reference: reference.to_owned() });
        let questions = self.mesh.peers().into_iter().map(|peer| {
            let (mesh, query) = (self.mesh.clone(), query.clone());
            Box::pin(async move {
                let answer = mesh
                    .request(&peer.node_id, rpc::IMAGE, query, QUERY_TIMEOUT)
                    .await
                    .map_err(|error| error.to_string())?;
                let answer = rpc::decode::<Option<ImageAnswer>>(&answer)?.ok_or("not there")?;
                Ok::<_, String>((peer.node_id, answer))
            })
        });
        let questions: Vec<_> = questions.collect();
        if questions.is_empty() {
            return None;
        }
        futures_util::future::select_ok(questions).await.ok().map(|(found, _)| found)
    }

    async fn fetch(&self, reference: &str) -> Result<Image, ImageError> {
        let Some((peer, answer)) = self.find(reference).await else {
            return Err(ImageError::Missing(reference.to_owned()));
        };
        tracing::info!(%reference, %peer, "fetching an image from another node");
        let failed = |reason: String| ImageError::Fetch {
            reference: reference.to_owned(),
            peer: peer.clone(),
            reason,
        };
        let manifest: Digest = answer.manifest.parse().map_err(|error| failed(format!("{error}")))?;
        let mut lease = self.store.lease();
        for (digest, size) in &answer.blobs {
            let parsed: Digest = digest.parse().map_err(|error| failed(format!("{error}")))?;
            if !lease.hold(&parsed) {
                self.fetch_blob(&peer, parsed, *size, &mut lease).await.map_err(failed)?;
            }
        }
        let name: Option<Reference> = reference.parse().ok();
        blocking(move || Ok(lease.import(name.as_ref(), &manifest)?)).await
    }

    async fn fetch_blob(
        &self,
        peer: &str,
        digest: Digest,
        size: u64,
        lease: &mut skep_image::Lease,
    ) -> Result<(), String> {
        let header = bytes::Bytes::from(digest.to_string());
        let (_send, mut receive) = self
            .mesh
            .open_stream(peer, Class::Bulk, rpc::BLOB, header)
            .await
            .map_err(|error| error.to_string())?;
        let mut writer = lease.ingest(&digest, size).map_err(|error| error.to_string())?;
        while let Some(chunk) = receive.read_chunk(CHUNK, true).await.map_err(|error| error.to_string())? {
            writer = tokio::task::spawn_blocking(move || writer.write_all(&chunk.bytes).map(|()| writer))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
        }
        tokio::task::spawn_blocking(move || writer.commit())
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }
}

fn resolve(store: &Store, name: &str) -> Result<Option<Image>, ImageError> {
    match store.resolve(name) {
        Ok(image) => Ok(Some(image)),
        Err(skep_image::Error::NoSuchImage(..)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_built_in(reference: &str) -> bool {
    let familiar = reference.parse::<Reference>().map(|reference| reference.familiar());
    familiar.is_ok_and(|familiar| familiar == format!("{BUILT_IN}:latest"))
}

/// Makes the built-in image of this very binary.
async fn make_built_in(store: Store) -> Result<(), ImageError> {
    let config = built_in_config().map_err(|error| ImageError::BuiltIn(error.to_string()))?;
    blocking(move || {
        let program = PathBuf::from("/proc/self/exe");
        let metadata = std::fs::metadata(&program).map_err(|error| ImageError::BuiltIn(error.to_string()))?;
        // Another build of skep has another size or time: it gets an image of its own.
        let changed =
            metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let stamp = format!(
            "{}-{}-{}",
            env!("CARGO_PKG_VERSION"),
            metadata.len(),
            changed.unwrap_or_default().as_nanos()
        );
        let reference: Reference =
            BUILT_IN.parse().map_err(|error| ImageError::BuiltIn(format!("{error}")))?;
        let files = [FileEntry { path: "skep".into(), mode: 0o755, source: Source::Path(program) }];
        store.build_single_layer(&reference, &stamp, &files, config)?;
        Ok(())
    })
    .await
}

fn built_in_config() -> Result<ImageConfiguration, oci_spec::OciSpecError> {
    let config = ConfigBuilder::default()
        .entrypoint(vec!["/skep".to_owned(), "whoami".to_owned()])
        .exposed_ports(vec!["80/tcp".to_owned()])
        .build()?;
    ImageConfigurationBuilder::default()
        .architecture(oci_spec::image::Arch::default())
        .os("linux")
        .config(config)
        .rootfs(RootFsBuilder::default().typ("layers").diff_ids(Vec::<String>::new()).build()?)
        .history(Vec::new())
        .build()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(ImageError::BuiltIn(error.to_string())))
}
