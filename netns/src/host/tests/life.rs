//! Setting up, adopting, replacing, taking down.
