//! A program of classic BPF, written from its end to its start, so that every jump's distance is known at once.
//!
//! Classic BPF jumps forwards only (`linux/filter.h`): what a jump leads to is always written before the jump. A
//! conditional jump reaches 255 instructions; a return that is farther is written again nearby, anything else gets an
//! unconditional jump, which has 32 bits, in between.

use std::collections::HashMap;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};

/// A conditional jump's reach, less what one branch itself may put in between.
const REACH: usize = 250;

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// To the end, with this answer.
    Return(u32),
    /// To what was written before, counted from the program's end.
    At(usize),
}

/// What a conditional jump asks of the accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterEqual,
}

/// The program so far, last instruction first.
#[derive(Default)]
pub(super) struct Assembler {
    reversed: Vec<sock_filter>,
    /// The latest place of each return.
    returns: HashMap<u32, usize>,
}

impl Assembler {
    /// If the accumulator passes the test against `value`, go on at `yes`, else at `no`.
    pub(super) fn branch(&mut self, test: Test, value: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        let (yes, no) = (self.near(yes), self.near(no));
        let code = match test {
            Test::Equal => BPF_JEQ,
            Test::Greater => BPF_JGT,
            Test::GreaterEqual => BPF_JGE,
        };
        let here = self.reversed.len();
        // `near` leaves both within reach.
        let distance = |place: usize| (here - place - 1) as u8;
        self.push(BPF_JMP | code | BPF_K, distance(yes), distance(no), value)
    }

    /// Loads the 32 bits at this offset of `seccomp_data` into the accumulator, then goes on at `then`.
    pub(super) fn load(&mut self, offset: u32, then: Target) -> Target {
        if let Target::Return(_) = then {
            return then;
        }
        self.fall_into(then);
        self.push(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
    }

    /// Cuts the accumulator down to the mask's bits, then goes on at `then`.
    pub(super) fn and(&mut self, mask: u32, then: Target) -> Target {
        self.fall_into(then);
        self.push(BPF_ALU | BPF_AND | BPF_K, 0, 0, mask)
    }

    /// The program that begins at `start`.
    pub(super) fn finish(mut self, start: Target) -> Vec<sock_filter> {
        self.fall_into(start);
        self.reversed.reverse();
        self.reversed
    }

    /// Makes `target` what comes next in the program.
    fn fall_into(&mut self, target: Target) {
        let last = self.reversed.len().wrapping_sub(1);
        match target {
            Target::At(place) if place == last => {}
            Target::At(place) => self.jump(place),
            Target::Return(value) => self.answer(value),
        }
    }

    /// A place that means `target` and is within a conditional jump's reach.
    fn near(&mut self, target: Target) -> usize {
        let place = match target {
            Target::At(place) => Some(place),
            Target::Return(value) => self.returns.get(&value).copied(),
        };
        match (place, target) {
            (Some(place), _) if self.reversed.len() - place <= REACH => return place,
            (_, Target::At(place)) => self.jump(place),
            (_, Target::Return(value)) => self.answer(value),
        }
        self.reversed.len() - 1
    }

    fn jump(&mut self, place: usize) {
        let distance = (self.reversed.len() - place - 1) as u32;
        self.push(BPF_JMP | BPF_JA, 0, 0, distance);
    }

    fn answer(&mut self, value: u32) {
        self.push(BPF_RET | BPF_K, 0, 0, value);
        self.returns.insert(value, self.reversed.len() - 1);
    }

    fn push(&mut self, code: u32, jt: u8, jf: u8, k: u32) -> Target {
        self.reversed.push(sock_filter { code: code as u16, jt, jf, k });
        Target::At(self.reversed.len() - 1)
    }
}
