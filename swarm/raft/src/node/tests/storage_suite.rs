//! storage_suite
