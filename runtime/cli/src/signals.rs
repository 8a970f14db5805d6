//! Signals by name and number.

/// Real-time signals have no names but these; the kernel's first that programs may use.
const FIRST_REAL_TIME: i32 = 34;

/// The kernel's last signal.
const LAST: i32 = 64;

/// As runc: a number is taken as it is (the kernel refuses what is none), a name with or without `SIG`. Unlike in runc,
/// `RTMIN+3` and the like are names too: service managers in containers are stopped so.
pub(crate) fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: &str| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<i32>().ok(),
    };
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => FIRST_REAL_TIME.checked_add(offset(rest, "+")?),
        (_, Some(rest)) => LAST.checked_sub(offset(rest, "-")?),
        (None, None) => return named(name),
    };
    real_time.filter(|number| (FIRST_REAL_TIME..=LAST).contains(number))
}

fn named(name: &str) -> Option<i32> {
    match name {
        "CLD" => Some(libc::SIGCHLD),
        "IOT" => Some(libc::SIGIOT),
        "POLL" => Some(libc::SIGPOLL),
        name => format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("99", 99),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["BAD", "", "SIG", "RTMIN+31", "RTMIN-1", "RTMINX"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
