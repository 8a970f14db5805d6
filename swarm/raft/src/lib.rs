//! skep-raft
