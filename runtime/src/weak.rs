//! Defences that a build for tests can do without, so that the tests of attacks are seen to be able to fail.
//!
//! Without the cargo feature `weakened` — in every build that is shipped — [`has`] is the constant `false`, and the
//! compiler leaves out what hangs on it. With it, `SKEP_RUNTIME_WEAK` names the defences that are off, with commas
//! between them; what is done instead is what runtimes did before somebody got out of them.

/// A defence that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// Paths in the root filesystem are resolved in the host's view, links and all.
    Paths,
    /// Files are masked with whatever is called `/dev/null` in the root filesystem.
    Masks,
    /// Kernel settings are written by name, and anything may be mounted over `/proc`.
    Procfs,
    /// The program's own file is executed from where it can be written.
    Program,
    /// A container's process may look into the runtime's own before the exec.
    Tracing,
    /// Descriptors stay open, and the working directory may be anywhere.
    Descriptors,
    /// What is permitted is inheritable.
    Inheritable,
    /// The caller's supplementary groups are kept.
    Groups,
    /// No seccomp filter.
    Seccomp,
    /// The container sees the cgroup above its own.
    Cgroups,
    /// Hooks inherit an environment.
    Hooks,
    /// A container's name is taken for a path.
    Names,
    /// The terminal's slave side is found by its name.
    Terminal,
}

/// Every weakness, by the name that the environment has for it.
#[cfg(feature = "weakened")]
const NAMES: [(&str, Weakness); 13] = [
    ("paths", Weakness::Paths),
    ("masks", Weakness::Masks),
    ("procfs", Weakness::Procfs),
    ("program", Weakness::Program),
    ("tracing", Weakness::Tracing),
    ("descriptors", Weakness::Descriptors),
    ("inheritable", Weakness::Inheritable),
    ("groups", Weakness::Groups),
    ("seccomp", Weakness::Seccomp),
    ("cgroups", Weakness::Cgroups),
    ("hooks", Weakness::Hooks),
    ("names", Weakness::Names),
    ("terminal", Weakness::Terminal),
];

#[cfg(feature = "weakened")]
static CHOSEN: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {
    let text = std::env::var("SKEP_RUNTIME_WEAK").unwrap_or_default();
    let chosen = NAMES.iter().filter(|(name, _)| text.split(',').any(|word| word == *name));
    chosen.fold(0, |all, (_, weakness)| all | 1 << *weakness as u32)
});

/// Reads the environment, before there is a child: that one only looks at the outcome.
#[cfg(feature = "weakened")]
pub(crate) fn prepare() {
    std::sync::LazyLock::force(&CHOSEN);
}

/// Nothing is to be read.
#[cfg(not(feature = "weakened"))]
pub(crate) const fn prepare() {}

/// Whether this defence is off.
#[cfg(feature = "weakened")]
pub fn has(weakness: Weakness) -> bool {
    *CHOSEN & 1 << weakness as u32 != 0
}

/// Whether this defence is off: none is.
#[cfg(not(feature = "weakened"))]
#[inline]
pub const fn has(_: Weakness) -> bool {
    false
}
