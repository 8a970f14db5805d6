//! Durations for people, and Go's durations for flags.

use skep_state::Timestamp;

/// How long ago, in Docker's words: `About a minute ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(now.since(then).as_secs()))
}

fn span(seconds: u64) -> String {
    let plural = |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match seconds {
        0 => "Less than a second".to_owned(),
        1..60 => plural(seconds, "second"),
        60..120 => "About a minute".to_owned(),
        120..3_600 => plural(seconds / 60, "minute"),
        3_600..7_200 => "About an hour".to_owned(),
        7_200..172_800 => plural(seconds / 3_600, "hour"),
        172_800..1_209_600 => plural(seconds / 86_400, "day"),
        1_209_600..5_184_000 => plural(seconds / 604_800, "week"),
        5_184_000..63_072_000 => plural(seconds / 2_592_000, "month"),
        _ => plural(seconds / 31_536_000, "year"),
    }
}

/// Go's duration syntax (`1h30m`, `500ms`, `0`) in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<u64, String> {
    let refuse = || format!("invalid duration {text:?}: write it as 10s, 1m30s or 500ms");
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text;
    let mut total = 0_f64;
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits =
            rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or_else(refuse)?;
        let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let unit = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3_600e9,
                _ => return Err(refuse()),
            };
        rest = &rest[unit..];
    }
    // More than 2^63 nanoseconds (292 years) is not a duration that Docker's API can carry.
    if total > 9.2e18 { Err(refuse()) } else { Ok(total as u64) }
}

/// Bytes with a unit (`64m`, `1g`, `512k`, `1GiB`) as Docker takes them: powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Result<i64, String> {
    let refuse = || format!("invalid size {text:?}: write it as 64m or 1g");
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(lower.len());
    let number: f64 = lower[..digits].parse().map_err(|_| refuse())?;
    let factor: f64 = match lower[digits..].trim() {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1024.0 * 1024.0,
        "g" | "gb" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(refuse()),
    };
    let bytes = number * factor;
    if bytes > 9.2e18 { Err(refuse()) } else { Ok(bytes as i64) }
}

/// CPUs (`0.5`) in billionths.
pub(crate) fn parse_cpus(text: &str) -> Result<i64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.0..=1e6).contains(&cpus) => Ok((cpus * 1e9).round() as i64),
        _ => Err(format!("invalid CPU count {text:?}: write it as 0.5 or 2")),
    }
}

/// Sizes for people, in powers of 1000 as `docker images` shows them.
pub(crate) fn human_size(bytes: i64) -> String {
    let mut number = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if number < 1000.0 {
            return if unit == "B" || number >= 100.0 {
                format!("{number:.0}{unit}")
            } else if number >= 10.0 {
                format!("{number:.1}{unit}")
            } else {
                format!("{number:.2}{unit}")
            };
        }
        number /= 1000.0;
    }
    format!("{number:.2}TB")
}

/// Memory for people: four digits and a power of 1024, as Docker's `BytesSize` (Go's `%.4g`).
pub(crate) fn memory_size(bytes: i64) -> String {
    let mut number = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while number >= 1024.0 {
        let Some(next) = units.next() else { break };
        (number, unit) = (number / 1024.0, next);
    }
    let decimals = match number {
        1000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let mut text = format!("{number:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text + unit
}

/// A moment of the API (RFC 3339, UTC) as Go prints a time, which is what Docker shows to people.
pub(crate) fn go_time(moment: &str) -> String {
    let Some((date, time)) = moment.strip_suffix('Z').and_then(|moment| moment.split_once('T')) else {
        return moment.to_owned();
    };
    let time = if time.contains('.') { time.trim_end_matches('0').trim_end_matches('.') } else { time };
    format!("{date} {time} +0000 UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(parse_duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(parse_duration("1.5s"), Ok(1_500_000_000));
        for bad in ["", "5", "5x", "s", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_dockers() {
        assert_eq!(parse_bytes("64m"), Ok(64 << 20));
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert!(parse_bytes("m").is_err());
        assert_eq!(human_size(7_340_032), "7.34MB");
        assert_eq!(parse_cpus("0.5"), Ok(500_000_000));
        assert!(parse_cpus("-1").is_err());
    }

    #[test]
    fn memory_and_moments_are_gos() {
        for (bytes, shown) in [
            (0, "0B"),
            (1023, "1023B"),
            (20 << 20, "20MiB"),
            (1_073_741_824, "1GiB"),
            (2_095_886_336, "1.952GiB"),
            (33_565_388_800, "31.26GiB"),
        ] {
            assert_eq!(memory_size(bytes), shown);
        }
        assert_eq!(go_time("2026-01-02T03:04:05.120Z"), "2026-01-02 03:04:05.12 +0000 UTC");
        assert_eq!(go_time("2026-01-02T03:04:00Z"), "2026-01-02 03:04:00 +0000 UTC");
        assert_eq!(go_time("never"), "never");
    }

    #[test]
    fn spans_are_dockers() {
        let now = Timestamp::from_nanos(4_000_000_000_000);
        let back = |seconds: i64| ago(Timestamp::from_nanos(now.nanos() - seconds * 1_000_000_000), now);
        assert_eq!(back(0), "Less than a second ago");
        assert_eq!(back(59), "59 seconds ago");
        assert_eq!(back(61), "About a minute ago");
        assert_eq!(back(3_599), "59 minutes ago");
    }
}
