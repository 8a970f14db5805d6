//! Device rules as an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`. Pure.
//!
//! The rules are tried from the last to the first, with the rights that are still to be decided in a register: a rule
//! that denies one of them ends it, a rule that allows takes its rights away, and when none is left the access is
//! allowed. So each right is decided by the last rule about it.

use super::{ALL, Kind, Rule};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u8,
    /// Destination in the low half, source in the high one (on a little-endian machine).
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// The operations that are needed, as the kernel numbers them.
pub(super) mod code {
    /// dst = *(u32 *)(src + offset)
    pub(in super::super) const LOAD: u8 = 0x61;
    /// dst = immediate, 32 bits
    pub(in super::super) const MOVE: u8 = 0xb4;
    /// dst = src
    pub(in super::super) const COPY: u8 = 0xbf;
    /// dst &= immediate
    pub(in super::super) const AND: u8 = 0x54;
    /// dst >>= immediate
    pub(in super::super) const SHIFT: u8 = 0x74;
    /// if dst != immediate, jump
    pub(in super::super) const JUMP_UNEQUAL: u8 = 0x55;
    /// if dst == immediate, jump
    pub(in super::super) const JUMP_EQUAL: u8 = 0x15;
    /// return r0
    pub(in super::super) const EXIT: u8 = 0x95;
}

// Registers: what the kernel hands over and wants back, and ours.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const UNDECIDED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// `BPF_DEVCG_DEV_BLOCK` and `_CHAR`.
const fn number(kind: Kind) -> i32 {
    match kind {
        Kind::Block => 1,
        Kind::Char => 2,
    }
}

const fn registers(destination: u8, source: u8) -> u8 {
    if cfg!(target_endian = "big") { destination << 4 | source } else { source << 4 | destination }
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: registers(destination, source), offset, immediate }
}

/// The program for these rules.
pub(super) fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        // `struct bpf_cgroup_dev_ctx`: the access in the upper half of the first word, the type in the lower.
        instruction(code::LOAD, KIND, CONTEXT, 0, 0),
        instruction(code::AND, KIND, 0, 0, 0xffff),
        instruction(code::LOAD, UNDECIDED, CONTEXT, 0, 0),
        instruction(code::SHIFT, UNDECIDED, 0, 0, 16),
        instruction(code::LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(code::LOAD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        append(&mut program, rule);
        if rule.is_everything() {
            return program;
        }
    }
    program.extend(answer(false));
    program
}

fn answer(allow: bool) -> [Instruction; 2] {
    [instruction(code::MOVE, RESULT, 0, 0, i32::from(allow)), instruction(code::EXIT, 0, 0, 0, 0)]
}

fn append(program: &mut Vec<Instruction>, rule: &Rule) {
    let mut conditions = Vec::new();
    let numbers = [(KIND, rule.kind.map(number).map(Ok)), (MAJOR, rule.major.map(i32::try_from))];
    for (register, wanted) in numbers.into_iter().chain([(MINOR, rule.minor.map(i32::try_from))]) {
        match wanted {
            None => {}
            Some(Ok(wanted)) => conditions.push((register, wanted)),
            // No device has a number of 32 bits.
            Some(Err(_)) => return,
        }
    }
    let mut body = Vec::new();
    if rule.is_everything() {
        body.extend(answer(rule.allow));
    } else if rule.allow {
        body.push(instruction(code::AND, UNDECIDED, 0, 0, i32::from(ALL & !rule.access)));
        body.push(instruction(code::JUMP_UNEQUAL, UNDECIDED, 0, 2, 0));
        body.extend(answer(true));
    } else {
        body.push(instruction(code::COPY, SCRATCH, UNDECIDED, 0, 0));
        body.push(instruction(code::AND, SCRATCH, 0, 0, i32::from(rule.access)));
        body.push(instruction(code::JUMP_EQUAL, SCRATCH, 0, 2, 0));
        body.extend(answer(false));
    }
    for (index, (register, wanted)) in conditions.iter().enumerate() {
        // At most two conditions and five instructions are between here and the next rule.
        let distance = (conditions.len() - index - 1 + body.len()) as i16;
        program.push(instruction(code::JUMP_UNEQUAL, *register, 0, distance, *wanted));
    }
    program.extend(body);
}
