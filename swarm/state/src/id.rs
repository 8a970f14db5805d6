//! Object identifiers: 25 base-36 digits, as Docker Swarm makes them (swarmkit `identity/randomid.go`).

/// Length of an identifier in characters.
pub const ID_LENGTH: usize = 25;

/// The identifier that 128 random bits make. The caller brings the randomness.
pub fn from_random(random: u128) -> String {
    let mut digits = base36(random);
    // 128 bits fill 24.8 digits: pad, so that every identifier has the same length.
    while digits.len() < ID_LENGTH {
        digits.insert(0, '0');
    }
    digits
}

/// A number in base 36, lower case, without padding.
pub fn base36(mut number: u128) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut reversed = Vec::with_capacity(ID_LENGTH);
    loop {
        reversed.push(DIGITS[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    reversed.iter().rev().map(|&digit| char::from(digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identifier_has_25_digits() {
        assert_eq!(from_random(0), "0".repeat(25));
        assert_eq!(from_random(u128::MAX).len(), 25);
        assert_eq!(from_random(u128::MAX), "f5lxx1zz5pnorynqglhzmsp33");
    }
}
