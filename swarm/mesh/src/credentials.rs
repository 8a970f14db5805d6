//! What the current certificate makes: the QUIC configurations of both sides.

use std::sync::Arc;

use quinn::{ClientConfig, ServerConfig};

use crate::class::{Class, Purpose};
use crate::clock::SwarmClock;
use crate::error::MeshError;
use crate::identity::Identity;
use crate::tls::TlsConfigs;
use crate::transport::Transports;

/// What the current certificate makes.
pub(crate) struct Credentials {
    pub(crate) identity: Identity,
    clients: [ClientConfig; Class::COUNT],
    pub(crate) mesh_servers: [Arc<ServerConfig>; Class::COUNT],
    join_server: Arc<ServerConfig>,
    renew_server: Arc<ServerConfig>,
}

impl Credentials {
    pub(crate) fn new(
        identity: Identity,
        clock: &SwarmClock,
        transports: &Transports,
    ) -> Result<Self, MeshError> {
        let tls = TlsConfigs::new(&identity, clock)?;
        Ok(Self {
            clients: Class::ALL.map(|class| transports.client(class, &tls)),
            mesh_servers: Class::ALL.map(|class| Arc::new(transports.server(Purpose::Mesh(class), &tls))),
            join_server: Arc::new(transports.server(Purpose::Join, &tls)),
            renew_server: Arc::new(transports.server(Purpose::Renew, &tls)),
            identity,
        })
    }

    pub(crate) fn client(&self, class: Class) -> ClientConfig {
        self.clients[class.index()].clone()
    }

    pub(crate) fn server(&self, purpose: Purpose) -> Arc<ServerConfig> {
        match purpose {
            Purpose::Mesh(class) => self.mesh_servers[class.index()].clone(),
            Purpose::Join => self.join_server.clone(),
            Purpose::Renew => self.renew_server.clone(),
        }
    }
}
