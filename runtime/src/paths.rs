//! Paths as text.

use std::path::{Component, Path, PathBuf};

/// The way from the top: without `.`, doubled slashes or a leading one, and with each `..` gone along with what is before
/// it. It never leads above the top; links are not looked at.
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_text() {
        for (path, cleaned) in
            [("/b/./c/../rootfs//", "b/rootfs"), ("/..", ""), ("a/../../b", "b"), ("", ""), ("/", "")]
        {
            assert_eq!(clean(Path::new(path)), Path::new(cleaned), "{path}");
        }
    }
}
