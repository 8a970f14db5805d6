//! Compiled filters by the text of their profile: containers of a node have few different ones, written by one program,
//! and comparing a text costs a hundredth of reading it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Filter;

/// So many are kept; the one unused for longest goes. One is about 8 KiB, and its text as much.
const FILTERS_MAX: usize = 16;

/// Longer profiles are read each time: Docker's own has 7 KiB.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Filters and what they were compiled from, latest used first.
#[derive(Debug, Default)]
pub struct FilterCache {
    filters: VecDeque<(Box<str>, Arc<Filter>)>,
}

impl FilterCache {
    /// The filter of the profile with exactly this text.
    pub fn find(&mut self, text: &str) -> Option<Arc<Filter>> {
        let index = self.filters.iter().position(|(known, _)| **known == *text)?;
        let found = self.filters.remove(index)?;
        let filter = Arc::clone(&found.1);
        self.filters.push_front(found);
        Some(filter)
    }

    /// Keeps the filter of a profile that was not found.
    pub fn keep(&mut self, text: String, filter: Arc<Filter>) {
        if text.len() <= TEXT_BYTES_MAX {
            self.filters.push_front((text.into_boxed_str(), filter));
            self.filters.truncate(FILTERS_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> Arc<Filter> {
        let mut profile = oci_spec::runtime::LinuxSeccomp::default();
        profile.set_default_action(oci_spec::runtime::LinuxSeccompAction::ScmpActErrno);
        Arc::new(Filter::compile(&profile).unwrap())
    }

    #[test]
    fn few_filters_are_kept_and_what_is_used_stays() {
        let mut cache = FilterCache::default();
        assert!(cache.find("first").is_none());
        let first = filter();
        cache.keep("first".to_owned(), Arc::clone(&first));
        for number in 0..100 {
            cache.keep(number.to_string(), filter());
            assert!(Arc::ptr_eq(&first, &cache.find("first").unwrap()));
        }
        assert_eq!(cache.filters.len(), FILTERS_MAX);
        assert!(cache.find("99").is_some());
        assert!(cache.find("1").is_none());
        cache.keep("x".repeat(TEXT_BYTES_MAX + 1), filter());
        assert!(cache.find("99").is_some() && cache.filters.len() == FILTERS_MAX);
    }
}
