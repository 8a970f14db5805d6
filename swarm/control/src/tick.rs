//! The tick: all phases in order over one draft.
//!
//! ```text
//! nodes that never came -> ports -> tasks of removed services
//!       -> each service: sweep, scale, restart, update, release -> orphans -> reaper -> addresses -> nodes
//! ```
//!
//! Every phase looks at levels, not at edges: it reads what is and what shall be, and writes the difference. So a
//! tick on its own result gives nothing, and a new leader goes on where the old one stopped. A tick that reached its
//! bound asks to be called again at once.

use std::collections::BTreeMap;

use skep_state::{Change, State, Timestamp};

use crate::draft::Draft;
use crate::{allocator, newcomers, orchestrator, orphan, ports, reaper, scheduler};

/// Objects that one tick changes at most, as Docker's store bounds its transactions (swarmkit
/// `manager/state/store/memory.go`): keeps a Raft entry small enough not to delay heartbeats.
pub const MAX_CHANGES: usize = 200;

/// What a tick needs beside the state.
#[derive(Debug, Clone, Copy)]
pub struct TickInput<'a> {
    /// The leader's clock. Commit the plan with this as the transaction's `at`.
    pub now: Timestamp,
    /// Since when this leader has waited for nodes that were admitted and have not come ([`awaited_since`](crate::awaited_since)), by the same
    /// clock: not since the admission, for nobody can come while nobody leads, and another manager's clock may be wrong.
    pub awaited_since: &'a BTreeMap<String, Timestamp>,
}

/// What a tick decided.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// To be committed as one transaction; nothing to commit when empty.
    pub changes: Vec<Change>,
    /// When to call again though nothing was committed; `now` when the tick reached [`MAX_CHANGES`].
    pub next_wakeup: Option<Timestamp>,
}

/// Where identifiers come from. Any `FnMut() -> u128` is one.
pub trait RandomSource {
    /// 128 random bits.
    fn next_u128(&mut self) -> u128;
}

impl<F: FnMut() -> u128> RandomSource for F {
    fn next_u128(&mut self) -> u128 {
        self()
    }
}

/// Decides what to change now. See the module for the phases.
///
/// Deterministic in its three inputs. When the commit is refused (somebody else changed an object first), throw the
/// plan away and call again with the newer state.
pub fn tick(state: &State, input: &TickInput<'_>, rng: &mut impl RandomSource) -> Plan {
    let mut random = || rng.next_u128();
    let mut draft = Draft::new(state, input.now, &mut random);
    newcomers::run(&mut draft, input.awaited_since);
    ports::run(&mut draft);
    orchestrator::run(&mut draft);
    orphan::run(&mut draft);
    reaper::run(&mut draft);
    allocator::run(&mut draft);
    scheduler::run(&mut draft);
    draft.into_plan()
}
