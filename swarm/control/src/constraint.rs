//! Placement constraints: `key==value` and `key!=value` (swarmkit `manager/constraint/constraint.go`).
//!
//! Keys: `node.id`, `node.hostname`, `node.ip` (an address or a range in CIDR form), `node.role`,
//! `node.platform.os`, `node.platform.arch`, `node.labels.NAME`, `engine.labels.NAME`. Keys take any case, label
//! names do not; values are compared without regard to case. An unknown key never matches.

use std::net::IpAddr;

use skep_state::Node;
use skep_state::spec::NodeRole;

/// One constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    key: String,
    equal: bool,
    value: String,
}

/// Why an expression is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Neither `==` nor `!=` with something on both sides.
    #[error("constraint expected one operator from ==, !=")]
    NoOperator,
    /// The key has characters that no key has.
    #[error("key '{0}' is invalid")]
    Key(String),
    /// The value has characters that no value has.
    #[error("value '{0}' is invalid")]
    Value(String),
}

impl Constraint {
    /// Parses `key==value` or `key!=value`; blanks around both sides are ignored.
    pub fn parse(expression: &str) -> Result<Self, ConstraintError> {
        let equal = expression.find("==");
        let unequal = expression.find("!=");
        let (at, equal) = match (equal, unequal) {
            (Some(equal), Some(unequal)) if equal < unequal => (equal, true),
            (_, Some(unequal)) => (unequal, false),
            (Some(equal), None) => (equal, true),
            (None, None) => return Err(ConstraintError::NoOperator),
        };
        let key = expression[..at].trim();
        let value = expression[at + 2..].trim();
        let key_allowed = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
        if key.is_empty()
            || !key.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
            || !key.chars().all(key_allowed)
        {
            return Err(ConstraintError::Key(key.to_owned()));
        }
        let value_allowed = |character: char| {
            character.is_ascii_alphanumeric() || ":-_. */()?+[]\\^$|,@~%&{}'\"<>;#!".contains(character)
        };
        if value.is_empty() || !value.chars().all(value_allowed) {
            return Err(ConstraintError::Value(value.to_owned()));
        }
        Ok(Self { key: key.to_owned(), equal, value: value.to_owned() })
    }

    /// Whether a node satisfies it.
    pub fn matches(&self, node: &Node) -> bool {
        let key = self.key.to_ascii_lowercase();
        let description = &node.description;
        match key.as_str() {
            "node.id" => self.compare(&node.meta.id),
            "node.hostname" => self.compare(&description.hostname),
            "node.ip" => self.compare_address(&node.status.addr),
            "node.role" => self.compare(match node.role {
                NodeRole::Manager => "manager",
                NodeRole::Worker => "worker",
            }),
            "node.platform.os" => self.compare(&description.platform.os),
            "node.platform.arch" => {
                let wanted = normal_arch(&self.value)
                    .eq_ignore_ascii_case(normal_arch(&description.platform.architecture));
                wanted == self.equal
            }
            _ => match label(node, &self.key) {
                Some(value) => self.compare(value),
                None => false,
            },
        }
    }

    fn compare(&self, value: &str) -> bool {
        value.eq_ignore_ascii_case(&self.value) == self.equal
    }

    fn compare_address(&self, address: &str) -> bool {
        let Some(address) = parse_address(address) else { return !self.equal };
        let inside = match self.value.split_once('/') {
            Some((network, length)) => match (network.parse::<IpAddr>(), length.parse::<u32>()) {
                (Ok(network), Ok(length)) => contains(network, length, address),
                _ => return false,
            },
            None => match self.value.parse::<IpAddr>() {
                Ok(wanted) => wanted == address,
                Err(_) => return false,
            },
        };
        inside == self.equal
    }
}

/// Whether a node satisfies every expression. One that cannot be parsed is never satisfied.
pub fn all_match(expressions: &[String], node: &Node) -> bool {
    expressions
        .iter()
        .all(|expression| Constraint::parse(expression).is_ok_and(|constraint| constraint.matches(node)))
}

/// The value of `node.labels.NAME` or `engine.labels.NAME`: empty when the node has no such label, `None` when the
/// key is neither.
pub(crate) fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    const NODE: &str = "node.labels.";
    const ENGINE: &str = "engine.labels.";
    let under = |prefix: &str| {
        key.get(..prefix.len())
            .filter(|start| start.eq_ignore_ascii_case(prefix))
            .and_then(|_| key.get(prefix.len()..))
            .filter(|name| !name.is_empty())
    };
    if let Some(name) = under(NODE) {
        return Some(node.spec.labels.get(name).map_or("", String::as_str));
    }
    under(ENGINE).map(|name| node.description.engine.labels.get(name).map_or("", String::as_str))
}

/// One name for the names that an architecture has in Go and in the kernel.
pub(crate) fn normal_arch(arch: &str) -> &str {
    match arch {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armhf" => "arm",
        other => other,
    }
}

/// An address with or without a port.
fn parse_address(address: &str) -> Option<IpAddr> {
    address.parse().ok().or_else(|| address.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

fn contains(network: IpAddr, length: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let mut node = Node { role: NodeRole::Manager, ..Node::default() };
        node.meta.id = "abc".to_owned();
        node.status.addr = "10.77.0.3".to_owned();
        node.description.hostname = "Host-1".to_owned();
        node.description.platform.architecture = "x86_64".to_owned();
        node.spec.labels.insert("rack".to_owned(), "A".to_owned());
        node.description.engine.labels.insert("disk".to_owned(), "ssd".to_owned());
        node
    }

    #[test]
    fn each_key_matches() {
        for (expression, expected) in [
            ("node.id==abc", true),
            ("node.id != abc", false),
            ("node.hostname == host-1", true),
            ("NODE.Role==Manager", true),
            ("node.role!=manager", false),
            ("node.ip==10.77.0.3", true),
            ("node.ip==10.77.0.0/16", true),
            ("node.ip!=10.78.0.0/16", true),
            ("node.platform.arch==amd64", true),
            ("node.labels.rack==a", true),
            ("node.labels.Rack==a", false),
            ("node.labels.none!=x", true),
            ("engine.labels.disk==ssd", true),
            ("node.colour==red", false),
            ("node.colour!=red", false),
        ] {
            assert_eq!(Constraint::parse(expression).unwrap().matches(&node()), expected, "{expression}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Constraint::parse("node.id=abc"), Err(ConstraintError::NoOperator));
        assert!(matches!(Constraint::parse("no de==abc"), Err(ConstraintError::Key(_))));
        assert!(matches!(Constraint::parse("node.id=="), Err(ConstraintError::Value(_))));
        assert!(!all_match(&["rubbish".to_owned()], &node()));
    }
}
