//! skep-runtime
