//! Congestion "control" of the data class: a window that is always open.
//!
//! Overlay packets belong to flows that run their own congestion control; a second one outside would only add its own
//! queue and halve the rate at every loss. A window above 2^32 also switches quinn's pacer off (quinn-proto,
//! `connection/pacing.rs`), which would otherwise spread bursts by a round-trip time that means nothing here.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory};

const WINDOW: u64 = 1 << 40;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OpenWindow;

impl Controller for OpenWindow {
    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, _persistent: bool, _lost_bytes: u64) {}

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        WINDOW
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn initial_window(&self) -> u64 {
        WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl ControllerFactory for OpenWindow {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}
