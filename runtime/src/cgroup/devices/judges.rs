//! What the kernel does with a device program and with exceptions, for the tests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

use super::Kind;
use super::exceptions::{Exceptions, Pattern};
use super::program::{Instruction, code};

/// Runs a device program as the kernel would.
pub(super) fn run(program: &[Instruction], kind: Kind, access: u8, major: u32, minor: u32) -> bool {
    let kind = if kind == Kind::Block { 1 } else { 2 };
    let context = [u32::from(access) << 16 | kind, major, minor];
    let mut registers = [0_u64; 11];
    let mut at = 0;
    loop {
        let Instruction { code, registers: pair, offset, immediate } = program[at];
        let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
        at += 1;
        let jump = |condition: bool| if condition { usize::try_from(offset).unwrap() } else { 0 };
        let wide = i64::from(immediate) as u64;
        match code {
            code::LOAD => registers[to] = u64::from(context[usize::try_from(offset).unwrap() / 4]),
            code::MOVE => registers[to] = u64::from(immediate as u32),
            code::COPY => registers[to] = registers[from],
            code::AND => registers[to] = u64::from(registers[to] as u32 & immediate as u32),
            code::SHIFT => registers[to] = u64::from(registers[to] as u32 >> immediate),
            code::JUMP_UNEQUAL => at += jump(registers[to] != wide),
            code::JUMP_EQUAL => at += jump(registers[to] == wide),
            code::EXIT => return registers[0] != 0,
            other => panic!("no such instruction: {other:#x}"),
        }
    }
}

/// What the kernel's devices controller says (`devcgroup_check_permission`).
pub(super) fn controller(state: &Exceptions, kind: Kind, access: u8, major: u32, minor: u32) -> bool {
    let about = |pattern: &Pattern| {
        pattern.kind == kind
            && pattern.major.is_none_or(|one| one == major)
            && pattern.minor.is_none_or(|one| one == minor)
    };
    let mut exceptions = state.patterns.iter().filter(|(pattern, _)| about(pattern));
    if state.default_allow {
        !exceptions.any(|(_, rights)| rights & access != 0)
    } else {
        exceptions.any(|(_, rights)| access & !rights == 0)
    }
}
