//! `user[:group]` by the files of a hostile image.

use super::user::{UserError, resolve_in};

/// Three texts, one behind the other with a zero byte between: the user, `/etc/passwd`, `/etc/group`.
pub fn user(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut texts = text.splitn(3, '\0');
    let mut next = || texts.next().unwrap_or_default();
    let (wanted, passwd, group_file) = (next(), next(), next());
    let (user, group) = wanted.split_once(':').map_or((wanted, None), |(user, group)| (user, Some(group)));
    match resolve_in(passwd, group_file, user, group) {
        Ok(found) => {
            let ids = found.additional_gids.iter().chain([&found.uid, &found.gid]);
            assert!(ids.into_iter().all(|id| i32::try_from(*id).is_ok()));
            if let Ok(number) = user.parse::<u32>() {
                assert_eq!(found.uid, number, "a number is never another one");
            }
            if let Some(Ok(number)) = group.map(str::parse::<u32>) {
                assert_eq!(found.gid, number, "a number is never another one");
            }
        }
        Err(UserError::Read { .. }) => unreachable!("nothing was read"),
        Err(_) => {}
    }
}
