//! Compares certificates by their text: enough to tell whether two PEM files hold the same one.

/// The base64 of each certificate in a PEM text, without line breaks, headers and what stands around the blocks.
pub(crate) fn certificates(pem: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in pem.lines().map(str::trim) {
        if line == "-----BEGIN CERTIFICATE-----" {
            open = Some(String::new());
        } else if line == "-----END CERTIFICATE-----" {
            found.extend(open.take());
        } else if let Some(body) = open.as_mut()
            && !line.contains(':')
        {
            body.push_str(line);
        }
    }
    found
}

/// Whether two PEM texts hold the same certificates (at least one) in the same order.
pub(crate) fn same(one: &str, other: &str) -> bool {
    let one = certificates(one);
    !one.is_empty() && one == certificates(other)
}

/// Whether two PEM texts of keys are the same but for white space.
pub(crate) fn same_key(one: &str, other: &str) -> bool {
    let plain = |pem: &str| pem.split_whitespace().collect::<String>();
    !one.trim().is_empty() && plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_around_a_certificate_does_not_count() {
        let plain = "-----BEGIN CERTIFICATE-----\nAAAA\nBBBB\n-----END CERTIFICATE-----\n";
        let other = "a comment\r\n-----BEGIN CERTIFICATE-----\r\nkey: value\r\n\r\nAAAABBBB\r\n-----END CERTIFICATE-----";
        assert!(same(plain, other));
        assert!(!same(plain, &plain.replace("BBBB", "CCCC")));
        assert!(!same(plain, &format!("{plain}{plain}")));
        assert!(!same("", ""), "nothing is not the same as nothing");
        assert_eq!(certificates("-----BEGIN CERTIFICATE-----\nAAAA"), Vec::<String>::new(), "cut off");
    }

    #[test]
    fn keys_are_compared_without_white_space() {
        assert!(same_key("-----BEGIN\nAA BB\n", "-----BEGIN AA\r\nBB"));
        assert!(!same_key("", " "));
    }
}
