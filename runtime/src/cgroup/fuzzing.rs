//! What specs, the kernel and systemd say about groups.

pub use super::detect::fuzz as hierarchies;
pub use super::devices::fuzz as devices;
pub use super::resources::fuzz as resources;
pub use super::systemd::fuzz as bus;
