//! Names of images, with Docker's grammar and normalisation.
//!
//! `nginx` is `docker.io/library/nginx:latest` and is shown as `nginx:latest`. The grammar is that of the
//! distribution project (`reference/reference.go`), the normalisation that of Docker (`normalize.go`).

use std::fmt;
use std::str::FromStr;

use crate::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Bytes of domain and path together (distribution: `NameTotalLengthMax`).
const NAME_BYTES_MAX: usize = 255;
/// Bytes of a tag.
const TAG_BYTES_MAX: usize = 128;

/// A complete name: domain, path, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Target {
    Tag(String),
    Digest(Digest),
}

/// The text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: {text:?}: {reason}")]
pub struct InvalidReference {
    /// What was given, cut to 300 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// The registry: `docker.io` if none was written.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in the registry: `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if the reference is by tag.
    pub fn tag(&self) -> Option<&str> {
        match &self.target {
            Target::Tag(tag) => Some(tag),
            Target::Digest(_) => None,
        }
    }

    /// The digest, if the reference is by digest. A tag beside a digest is dropped, as Docker does.
    pub fn digest(&self) -> Option<Digest> {
        match &self.target {
            Target::Tag(_) => None,
            Target::Digest(digest) => Some(*digest),
        }
    }

    /// The repository as users write it: `nginx`, `me/app`, `host:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(rest) if !rest.contains('/') => rest.into(),
            _ => self.path.clone(),
        }
    }

    /// The whole name as users write it: `nginx:latest`, `nginx@sha256:…`.
    pub fn familiar(&self) -> String {
        match &self.target {
            Target::Tag(tag) => format!("{}:{tag}", self.familiar_name()),
            Target::Digest(digest) => format!("{}@{digest}", self.familiar_name()),
        }
    }

    /// The same repository by digest.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { target: Target::Digest(digest), ..self.clone() }
    }

    /// True if both name the same repository.
    pub fn same_repository(&self, other: &Self) -> bool {
        self.domain == other.domain && self.path == other.path
    }
}

impl fmt::Display for Reference {
    /// The full form: `docker.io/library/nginx:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Target::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |reason| InvalidReference { text: text.chars().take(300).collect(), reason };
        if text.is_empty() {
            return Err(invalid("it is empty"));
        }
        if Digest::from_hex(text).is_ok() {
            return Err(invalid("64 hexadecimal digits are an image ID, not a name"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| invalid("the digest is not sha256: and 64 digits"))?))
            }
            None => (text, None),
        };
        // The tag begins after the last colon, if that is behind the last slash: host:5000/app has none.
        let name_start = rest.rfind('/').map_or(0, |i| i + 1);
        let (name, tag) = match rest[name_start..].find(':') {
            Some(colon) => (&rest[..name_start + colon], Some(&rest[name_start + colon + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !valid_tag(tag)
        {
            return Err(invalid(
                "the tag may have 128 letters, digits, '_', '.' and '-', and begins with none of the last two",
            ));
        }
        let (domain, path) = split_domain(name);
        if !valid_domain(domain) {
            return Err(invalid("the registry is not a host name with an optional port"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("repository name must be lowercase"));
        }
        if !path.split('/').all(valid_component) {
            return Err(invalid(
                "the name may have lower-case letters, digits, and '.', '_', '-' between them",
            ));
        }
        let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL_PREFIX}{path}")
        } else {
            path.into()
        };
        if domain.len() + 1 + path.len() > NAME_BYTES_MAX {
            return Err(invalid("the name is longer than 255 characters"));
        }
        let target = match digest {
            Some(digest) => Target::Digest(digest),
            None => Target::Tag(tag.unwrap_or(DEFAULT_TAG).into()),
        };
        Ok(Self { domain: domain.into(), path, target })
    }
}

/// Docker's `splitDockerDomain`: the first part is a host only if it looks like one.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn valid_tag(tag: &str) -> bool {
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && tag.bytes().next().is_some_and(|b| b != b'.' && b != b'-')
}

fn valid_domain(domain: &str) -> bool {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match after.strip_prefix(':') {
            Some(port) => ("", Some(port)),
            None if after.is_empty() => ("", None),
            None => return false,
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (domain.starts_with('[') || host.split('.').all(label))
        && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn valid_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    bytes.split(|&b| alnum(b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().map_or_else(|e| panic!("{e}"), |r| r.to_string())
    }

    #[test]
    fn normalises_like_docker() {
        for (text, want, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.25-alpine", "docker.io/library/nginx:1.25-alpine", "nginx:1.25-alpine"),
            ("library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("index.docker.io/me/app:2", "docker.io/me/app:2", "me/app:2"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app:x", "localhost:5000/app:x", "localhost:5000/app:x"),
            ("host:5000/a/b", "host:5000/a/b:latest", "host:5000/a/b:latest"),
            ("ghcr.io/a/b_c/d--e:V1", "ghcr.io/a/b_c/d--e:V1", "ghcr.io/a/b_c/d--e:V1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("a__b", "docker.io/library/a__b:latest", "a__b:latest"),
        ] {
            let r: Reference = text.parse().unwrap();
            assert_eq!(r.to_string(), want);
            assert_eq!(r.familiar(), familiar);
            assert_eq!(full(&r.familiar()), want, "the shown form means the same");
            assert_eq!(full(&r.to_string()), want);
        }
    }

    #[test]
    fn digest_wins_over_tag() {
        let digest = Digest::of(b"x");
        let r: Reference = format!("nginx:1@{digest}").parse().unwrap();
        assert_eq!(r.digest(), Some(digest));
        assert_eq!(r.tag(), None);
        assert_eq!(r.familiar(), format!("nginx@{digest}"));
    }

    #[test]
    fn refuses_what_docker_refuses() {
        let long = "a".repeat(250);
        let id = "e".repeat(64);
        for bad in [
            "",
            "Nginx",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a:",
            "a:-x",
            "a b",
            "a@",
            "a@sha256:12",
            ":tag",
            "a:t:u",
            "a.b:x/c",
            "http://a.b/c",
            "../x",
            "a/../b",
            "[::1/a",
            "a@sha256:..%2f",
            long.as_str(),
            id.as_str(),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
