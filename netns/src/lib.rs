//! skep-netns
