//! Two and more endpoints on loopback.
