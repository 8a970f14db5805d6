//! Annotations `org.systemd.property.NAME` with a value in GVariant's text form, as runc takes them. Pure.

use super::wire::Value;

/// The property; one that ends in `Sec` is in seconds, which systemd's interface has in microseconds as `USec`.
pub(super) fn property(name: &str, text: &str) -> Result<(String, Value), &'static str> {
    if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err("a property's name has three letters or more and nothing else");
    }
    let value = parse(text.trim()).ok_or("its value is not of the GVariant text form that is known here")?;
    match name.strip_suffix("Sec") {
        Some(stem) if stem.ends_with(|letter: char| letter.is_ascii_lowercase()) => {
            const MILLION: u64 = 1_000_000;
            let seconds = match value {
                Value::U32(value) => Some(u64::from(value)),
                Value::I32(value) => u64::try_from(value).ok(),
                Value::I64(value) => u64::try_from(value).ok(),
                Value::U64(value) => Some(value),
                Value::F64(value) if value >= 0.0 => {
                    return Ok((format!("{stem}USec"), Value::U64((value * MILLION as f64) as u64)));
                }
                _ => None,
            };
            let micros = seconds.and_then(|seconds| seconds.checked_mul(MILLION));
            Ok((format!("{stem}USec"), Value::U64(micros.ok_or("its value is not a number of seconds")?)))
        }
        _ => Ok((name.to_owned(), value)),
    }
}

fn parse(text: &str) -> Option<Value> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']')?.trim();
        let parts = inner.split(',').map(|part| quoted(part.trim()));
        return Some(Value::Texts(parts.collect::<Option<_>>()?));
    }
    if let Some(text) = quoted(text) {
        return Some(Value::Text(text));
    }
    let (kind, number) = text.split_once(' ').unwrap_or(("", text));
    let number = number.trim();
    match kind {
        "" if text == "true" || text == "false" => Some(Value::Bool(text == "true")),
        "" if text.contains(['.', 'e']) => number.parse().ok().map(Value::F64),
        "" | "int32" => number.parse().ok().map(Value::I32),
        "@b" | "boolean" => number.parse().ok().map(Value::Bool),
        "uint32" | "@u" => number.parse().ok().map(Value::U32),
        "uint64" | "@t" => number.parse().ok().map(Value::U64),
        "int64" | "@x" => number.parse().ok().map(Value::I64),
        "double" | "@d" => number.parse().ok().map(Value::F64),
        "@i" => number.parse().ok().map(Value::I32),
        _ => None,
    }
}

/// A text in single or double quotes, with a backslash before what would end it.
fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|first| matches!(first, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = String::new();
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => out.push(letters.next().filter(|next| matches!(next, '\\' | '\'' | '"'))?),
            letter if letter == quote => return None,
            letter => out.push(letter),
        }
    }
    Some(out)
}
