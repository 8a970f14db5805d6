//! Container images on one host: content by digest, images from archives, layers unpacked once.
//!
//! No network and no async: a caller with either brings bytes in through [`Store::load`] or
//! [`Lease::ingest`] and gets directories for overlayfs out of [`Store::rootfs`].
//!
//! ```text
//! archive ──load──▶ staged files ──verify──▶ blobs/sha256/<hex> ──┐
//! other host ──Lease::ingest──▶ verify ──────▶ blobs ──import──────┤
//! files ──build_single_layer──▶ blobs ───────────────────────────┤
//!                                                                ▼
//!                       layers/<diff id>/fs ◀──unpack once── images.json (images, references)
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`store`] | the store itself: open, resolve, list, tag, usage |
//! | `lease` | what keeps blobs and layers from being removed while somebody works with them |
//! | `load`, `archive` | archives of `docker save` and OCI layouts |
//! | `rootfs`, `unpack` | layers to overlayfs directories, the path rule, whiteouts |
//! | `tarstream` | a strict tar reader over `tar::Header` |
//! | `manifest` | manifests, indexes, configurations; which one is for this host |
//! | `remove` | Docker's rules for `image rm`, and the collection of what nothing uses |
//! | `build` | one-layer images made from files |
//! | [`digest`], [`reference`] | names of content, names of images |

mod archive;
mod blobs;
mod build;
mod decompress;
pub mod digest;
mod error;
mod image;
mod lease;
pub mod limits;
mod load;
mod manifest;
mod record;
pub mod reference;
mod remove;
mod rootfs;
pub mod store;
mod tarstream;
mod unpack;

#[cfg(test)]
mod mount_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod testing;

pub use build::{FileEntry, Source};
pub use digest::Digest;
pub use error::{Error, Kind, LayerError, Result};
pub use image::{BlobDescriptor, Image, ImageId, ImageSummary, Layer};
pub use lease::{BlobWriter, Lease};
pub use load::{LoadProgress, Loaded};
pub use reference::Reference;
pub use remove::{ImageUse, Removed};
pub use store::{Store, Usage};
