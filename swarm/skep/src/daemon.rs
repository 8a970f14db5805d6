//! `skep daemon`: the node, and the API on a unix socket.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use clap::Args;
use skep_api::Listen;
use skep_node::{Node, NodeConfig};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `skep daemon`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Daemon {
    /// What must last: identity, Raft log, images, containers
    #[arg(long, default_value = "/var/lib/skep")]
    root: PathBuf,
    /// What must not: sockets, lock, keeper
    #[arg(long, default_value = "/run/skep")]
    run: PathBuf,
    /// Host name shown by `node ls`; this host's by default
    #[arg(long)]
    hostname: Option<String>,
    /// Where the mesh listens unless `swarm init` or `join` say otherwise (UDP)
    #[arg(long, default_value = "0.0.0.0:2377")]
    listen_addr: SocketAddr,
    /// Serve the API over TCP as well, to clients with a certificate of --tlscacert alone (Docker's port is 2376)
    #[arg(long, value_name = "IP:PORT", requires = "tlscacert", requires = "tlscert", requires = "tlskey")]
    tls_addr: Option<SocketAddr>,
    /// Certificates of the authority that clients' certificates must be signed by, a PEM file
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Certificate that the daemon shows to clients, a PEM file
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Its key, a PEM file
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Serve the API over plain TCP (Docker's port is 2375): whoever reaches it is root on this host
    #[arg(long, value_name = "IP:PORT")]
    insecure_addr: Option<SocketAddr>,
    /// Parent of the containers' cgroups
    #[arg(long, default_value = "skep")]
    cgroup_parent: String,
    /// Have the keeper start this daemon again when it dies without saying goodbye (where no service manager does)
    #[arg(long)]
    respawn: bool,
    /// Seconds to add to this host's clock where certificates are concerned, for a host whose clock cannot be set
    #[arg(
        long,
        default_value_t = 0,
        allow_negative_numbers = true,
        env = "SKEP_CLOCK_OFFSET",
        value_name = "SECONDS"
    )]
    clock_offset: i64,
    /// error, warn, info, debug or trace; or directives as `skep_mesh=debug`
    #[arg(long, default_value = "info,openraft=off", env = "SKEP_LOG")]
    log_level: String,
}

/// Why the daemon could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// Namespaces, mounts and cgroups need root.
    #[error("skep daemon must run as root: it makes namespaces, mounts and cgroups (you are user {0})")]
    NotRoot(u32),
    /// The log directives.
    #[error("invalid log level {level:?}: {source}")]
    LogLevel {
        /// As given.
        level: String,
        /// Why not.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A folder, a file, a socket.
    #[error("cannot {what} {}: {source}", path.display())]
    Path {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A TCP address.
    #[error("cannot listen on {address} (TCP): {source}")]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Certificates and keys for TLS.
    #[error(transparent)]
    Tls(#[from] skep_api::TlsFilesError),
    /// The node.
    #[error(transparent)]
    Node(#[from] skep_node::NodeError),
    /// The runtime or a signal handler.
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
}

/// Runs the daemon until a stop signal; containers go on running.
pub(crate) fn run(flags: &Daemon) -> Result<(), DaemonError> {
    let user = nix::unistd::geteuid();
    if !user.is_root() {
        return Err(DaemonError::NotRoot(user.as_raw()));
    }
    let filter = tracing_subscriber::EnvFilter::try_new(&flags.log_level)
        .map_err(|source| DaemonError::LogLevel { level: flags.log_level.clone(), source })?;
    let coloured = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(coloured).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("skep")
        .build()
        .map_err(DaemonError::Runtime)?;
    let result = runtime.block_on(serve(flags));
    // A blocking call that hangs (a dead disk) must not keep a stopped daemon alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

async fn serve(flags: &Daemon) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Runtime)?;
    // Before the node starts: a daemon that cannot be reached as asked for changes nothing.
    let mut listeners = tcp_listeners(flags).await?;
    let node = Node::start(config(flags)).await?;
    let path = flags.run.join("skep.sock");
    let listener = listen(&path)?;
    tracing::info!(socket = %path.display(), version = env!("CARGO_PKG_VERSION"), "serving the API");
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    listeners.push(Listen::Unix(listener));
    let served = skep_api::serve(node.clone(), listeners, stop).await;
    node.shutdown().await;
    // Only now, so that a client never finds the socket gone while requests are still being answered.
    let _ = fs::remove_file(&path);
    served.map_err(|source| DaemonError::Path { what: "serve on", path, source })
}

async fn tcp_listeners(flags: &Daemon) -> Result<Vec<Listen>, DaemonError> {
    let bind = async |address: SocketAddr| {
        TcpListener::bind(address).await.map_err(|source| DaemonError::Tcp { address, source })
    };
    let mut listeners = Vec::new();
    // The command line lets the address through only together with the three files.
    if let (Some(address), Some(authority), Some(certificate), Some(key)) =
        (flags.tls_addr, &flags.tlscacert, &flags.tlscert, &flags.tlskey)
    {
        let tls = skep_api::tls_config(authority, certificate, key)?;
        listeners.push(Listen::Tls(bind(address).await?, tls));
        tracing::info!(%address, "serving the API to clients with a certificate");
    }
    if let Some(address) = flags.insecure_addr {
        listeners.push(Listen::Tcp(bind(address).await?));
        tracing::warn!(%address, "serving the API over plain TCP: whoever reaches it is root on this host");
    }
    Ok(listeners)
}

fn config(flags: &Daemon) -> NodeConfig {
    let hostname = flags.hostname.clone().unwrap_or_else(|| {
        nix::unistd::gethostname()
            .map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned())
    });
    let respawn = if flags.respawn { std::env::args_os().collect() } else { Vec::<OsString>::new() };
    NodeConfig {
        root: flags.root.clone(),
        run: flags.run.clone(),
        hostname,
        cgroup_parent: flags.cgroup_parent.trim_matches('/').to_owned(),
        listen: flags.listen_addr,
        respawn,
        clock_offset: flags.clock_offset,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Binds the API's socket. [`Node::start`] holds the lock of `--run`, so a socket found here is a dead daemon's.
fn listen(path: &std::path::Path) -> Result<UnixListener, DaemonError> {
    let failed = |what| move |source| DaemonError::Path { what, path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove")(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed("set the mode of"))?;
    Ok(listener)
}
