//! How long things take; printed, and bounded generously so that a slow machine does not fail.
