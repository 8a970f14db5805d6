//! tarstream
