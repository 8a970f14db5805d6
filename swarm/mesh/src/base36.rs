//! Base 36 (digits, then lower-case letters) of big-endian numbers, zero-padded: the alphabet of Docker's ids and
//! join tokens.

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A Docker-like object id: 25 characters of base 36 out of 16 random bytes.
pub fn random_id(random: [u8; 16]) -> String {
    encode(&random, 25)
}

/// `number` (big endian) in base 36, padded with zeros to `width` characters.
pub(crate) fn encode(number: &[u8], width: usize) -> String {
    let mut number = number.to_vec();
    let mut digits = Vec::with_capacity(width);
    while number.iter().any(|byte| *byte != 0) {
        let mut remainder = 0u32;
        for byte in &mut number {
            let value = (remainder << 8) | u32::from(*byte);
            *byte = (value / 36) as u8;
            remainder = value % 36;
        }
        digits.push(DIGITS[remainder as usize]);
    }
    while digits.len() < width {
        digits.push(b'0');
    }
    digits.iter().rev().map(|digit| char::from(*digit)).collect()
}

/// The number that `text` writes, or nothing if a character is foreign or the number needs more than `N` bytes.
pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut number = [0u8; N];
    for character in text.bytes() {
        let mut carry = match character {
            b'0'..=b'9' => u32::from(character - b'0'),
            b'a'..=b'z' => u32::from(character - b'a') + 10,
            _ => return None,
        };
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn widths_are_dockers() {
        assert_eq!(encode(&[0xff; 32], 50).len(), 50);
        assert_eq!(random_id([0xff; 16]), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(random_id([0; 16]), "0".repeat(25));
    }

    #[test]
    fn refuses_foreign_characters_and_overflow() {
        assert_eq!(decode::<2>("1ekf"), Some([0xff, 0xff]));
        assert_eq!(decode::<2>("1ekg"), None, "65536 does not fit");
        assert_eq!(decode::<2>("A"), None);
        assert_eq!(decode::<2>("-1"), None);
    }

    proptest! {
        #[test]
        fn round_trip(number: [u8; 32]) {
            prop_assert_eq!(decode::<32>(&encode(&number, 50)), Some(number));
        }
    }
}
