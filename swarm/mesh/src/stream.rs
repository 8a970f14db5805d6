//! Streams as callers hold them: quinn's, which keep their connection from being closed as idle while they live.

use std::ops::{Deref, DerefMut};

use crate::link::Use;

/// The sending half. Everything that [`quinn::SendStream`] does. Dropped without `finish()`, it finishes too; use
/// `reset()` to say that something went wrong.
pub struct SendStream {
    inner: quinn::SendStream,
    _use: Use,
}

/// The receiving half. Everything that [`quinn::RecvStream`] does. Dropped early, it tells the sender to stop.
pub struct RecvStream {
    inner: quinn::RecvStream,
    _use: Use,
}

impl SendStream {
    pub(crate) fn new(inner: quinn::SendStream, held: Use) -> Self {
        Self { inner, _use: held }
    }
}

impl RecvStream {
    pub(crate) fn new(inner: quinn::RecvStream, held: Use) -> Self {
        Self { inner, _use: held }
    }
}

impl Deref for SendStream {
    type Target = quinn::SendStream;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for SendStream {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

impl Deref for RecvStream {
    type Target = quinn::RecvStream;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for RecvStream {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}
