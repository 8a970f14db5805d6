//! Compiled filters, by profile: containers of a node have few different ones.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use super::{Filter, SeccompError};

/// So many profiles are kept; the one unused for longest goes. One is about 8 KiB.
const PROFILES_MAX: usize = 16;

/// Filters and what they were compiled from.
#[derive(Debug, Default)]
pub struct FilterCache {
    /// Random keys for the hashes: a profile cannot be made to collide with another one.
    keys: [RandomState; 2],
    /// Latest used first.
    filters: Mutex<VecDeque<(u128, Arc<Filter>)>>,
}

impl FilterCache {
    /// The profile's filter.
    ///
    /// # Errors
    /// Those of [`Filter::compile`]; nothing is kept of a profile with one.
    pub fn get(&self, profile: &LinuxSeccomp) -> Result<Arc<Filter>, SeccompError> {
        let hash = self.hash(profile);
        {
            let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
            let found = filters.iter().position(|entry| Some(entry.0) == hash);
            if let Some(entry) = found.and_then(|index| filters.remove(index)) {
                let filter = Arc::clone(&entry.1);
                filters.push_front(entry);
                return Ok(filter);
            }
        }
        let filter = Arc::new(Filter::compile(profile)?);
        if let Some(hash) = hash {
            let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
            filters.push_front((hash, Arc::clone(&filter)));
            filters.truncate(PROFILES_MAX);
        }
        Ok(filter)
    }

    fn hash(&self, profile: &LinuxSeccomp) -> Option<u128> {
        let text = serde_json::to_vec(profile).ok()?;
        let [low, high] = self.keys.each_ref().map(|key| u128::from(key.hash_one(&text)));
        Some(high << 64 | low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(errno: u32) -> LinuxSeccomp {
        let mut profile = LinuxSeccomp::default();
        profile.set_default_action(oci_spec::runtime::LinuxSeccompAction::ScmpActErrno);
        profile.set_default_errno_ret(Some(errno));
        profile
    }

    #[test]
    fn a_profile_is_compiled_once_and_few_are_kept() {
        let cache = FilterCache::default();
        let first = cache.get(&profile(1)).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.get(&profile(1)).unwrap()));
        for errno in 2..100 {
            assert!(!Arc::ptr_eq(&first, &cache.get(&profile(errno)).unwrap()));
            cache.get(&profile(1)).unwrap();
        }
        assert_eq!(cache.filters.lock().unwrap().len(), PROFILES_MAX);
        assert!(Arc::ptr_eq(&first, &cache.get(&profile(1)).unwrap()), "what is used stays");
    }
}
