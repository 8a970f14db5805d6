//! Every bound that this crate puts on what others send, with its reason.

/// Entries of one archive given to [`crate::Store::load`]. An image has at most some hundred blobs; the
/// staging table costs about 200 bytes an entry.
pub const ARCHIVE_ENTRIES_MAX: usize = 20_000;
/// Bytes of one archive after outer decompression. More than any published image; stops a decompression bomb
/// that the disk would take.
pub const ARCHIVE_BYTES_MAX: u64 = 256 << 30;
/// Bytes of a manifest, an index, `manifest.json` or `index.json`. image-spec asks registries for 4 MiB.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Bytes of an image configuration, held in memory for each image.
pub const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Levels of index inside index (`index.json` is the first). Real ones have two.
pub const INDEX_DEPTH_MAX: usize = 4;
/// Index entries visited in one archive, over all levels (index graph amplification, GO-2026-6597).
pub const INDEX_ENTRIES_MAX: usize = 1_000;
/// Images in one archive.
pub const ARCHIVE_IMAGES_MAX: usize = 500;
/// Layers of one image; Docker's limit, and what overlayfs takes.
pub const LAYERS_MAX: usize = 127;
/// Symbolic links followed between names inside a `docker save` archive (old Docker wrote one level).
pub const ARCHIVE_LINKS_MAX: usize = 8;

/// Entries of one layer. The largest published images have some 400,000.
pub const LAYER_ENTRIES_MAX: u64 = 4_000_000;
/// Bytes of one layer when uncompressed.
pub const LAYER_BYTES_MAX: u64 = 128 << 30;
/// Bytes of one path in an archive, as the kernel's `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;
/// Bytes of one name in a path, as the kernel's `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 255;
/// Names in one path. Bounds the depth of any tree that a layer can make.
pub const PATH_DEPTH_MAX: usize = 512;
/// Bytes of one extension header (PAX or GNU long name), held in memory.
pub const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Extended attributes of one entry.
pub const XATTRS_MAX: usize = 64;
/// Bytes of one extended attribute, as the kernel's `XATTR_SIZE_MAX`.
pub const XATTR_BYTES_MAX: usize = 64 << 10;

/// Layers unpacked or verified at the same time, if the machine has that many processors: above this the disk
/// is the limit, and each decompressor costs memory.
pub const LAYER_THREADS_MAX: usize = 4;
/// Buffer of every copy.
pub(crate) const COPY_BUFFER_BYTES: usize = 256 << 10;
/// Files of one [`crate::Store::build_single_layer`].
pub const BUILD_FILES_MAX: usize = 10_000;
