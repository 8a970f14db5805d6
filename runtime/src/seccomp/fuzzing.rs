//! Any profile, compiled and run beside the profile read by hand.

use oci_spec::runtime::LinuxSeccomp;

use super::arch::{Abi, X32_BIT};
use super::interpreter::{Call, judge, run};
use super::{Filter, Machine};

/// Most calls that are tried of one profile.
const CALLS_MAX: usize = 64;

/// A profile: what the kernel's interpreter does with the program is what the profile says.
pub fn seccomp(bytes: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) else { return };
    for machine in [Machine::X86_64, Machine::Aarch64, Machine::Riscv64] {
        let Ok(filter) = Filter::compile_for(&profile, machine) else { continue };
        for call in calls(&profile, machine.abis()) {
            assert_eq!(run(filter.program(), &call), judge(&profile, machine, &call), "{call:?}");
        }
    }
}

/// Calls near everything that the profile names.
fn calls(profile: &LinuxSeccomp, abis: &[Abi]) -> Vec<Call> {
    let mut calls = Vec::new();
    for abi in abis {
        let call = |number: u32, args| Call { audit: abi.audit(), number, args };
        calls.extend([0, 1, X32_BIT, u32::MAX].map(|number| call(number, [0; 6])));
        for rule in profile.syscalls().iter().flatten() {
            let mut args = [0; 6];
            for arg in rule.args().iter().flatten() {
                if let Some(place) = args.get_mut(arg.index()) {
                    *place = arg.value_two().unwrap_or_else(|| arg.value());
                }
            }
            for number in rule.names().iter().filter_map(|name| abi.number(name)).take(2) {
                calls.extend([call(number, args), call(number.wrapping_add(1), args)]);
                calls.push(call(number, args.map(|arg: u64| arg.wrapping_add(1))));
                calls.push(call(number, args.map(|arg: u64| arg.wrapping_sub(1))));
            }
        }
    }
    calls.truncate(CALLS_MAX);
    calls
}
