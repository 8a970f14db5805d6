//! Black-box test.
