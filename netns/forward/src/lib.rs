//! skep-forward
