//! skep-mesh
