//! Names in the order in which people count: `node-2` before `node-10` (Docker's `sortorder.NaturalLess`).

use std::cmp::Ordering;
use std::iter::Peekable;
use std::str::Chars;

/// Compares letter by letter, but runs of digits as numbers; `2` before `02`.
pub(crate) fn compare(one: &str, other: &str) -> Ordering {
    let (mut left, mut right) = (one.chars().peekable(), other.chars().peekable());
    loop {
        let (Some(a), Some(b)) = (left.peek().copied(), right.peek().copied()) else {
            return left.peek().is_some().cmp(&right.peek().is_some());
        };
        let order = if a.is_ascii_digit() && b.is_ascii_digit() {
            let ((zeros, number), (other_zeros, other)) = (digits(&mut left), digits(&mut right));
            // Without leading zeros the longer number is the greater one: no parsing, so no limit to the length.
            number.len().cmp(&other.len()).then_with(|| number.cmp(&other)).then(zeros.cmp(&other_zeros))
        } else {
            left.next();
            right.next();
            b.is_ascii_digit().cmp(&a.is_ascii_digit()).then(a.cmp(&b))
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Takes a run of digits: how many leading zeros, and the rest.
fn digits(letters: &mut Peekable<Chars<'_>>) -> (usize, String) {
    let mut zeros = 0;
    while letters.next_if_eq(&'0').is_some() {
        zeros += 1;
    }
    let mut number = String::new();
    while let Some(digit) = letters.next_if(char::is_ascii_digit) {
        number.push(digit);
    }
    (zeros, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let sorted = [
            "",
            "0",
            "1",
            "2",
            "02",
            "10",
            "a",
            "node",
            "node-1",
            "node-2",
            "node-2b",
            "node-02",
            "node-10",
            "node-99999999999999999999999",
            "node-100000000000000000000000",
            "nodes",
        ];
        let mut shuffled = sorted;
        shuffled.reverse();
        shuffled.sort_by(|one, other| compare(one, other));
        assert_eq!(shuffled, sorted);
        assert_eq!(compare("node-10", "node-10"), Ordering::Equal);
    }
}
