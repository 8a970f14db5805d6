//! Whether a container listens yet: a task that serves published ports counts as running only then, so that no node sends
//! it a connection that it would refuse.

use std::time::Duration;

/// How long a task may take from its start until it listens; then it counts as running all the same: it may never listen,
/// or on addresses of its own choice.
const LONGEST: Duration = Duration::from_secs(3);
/// Pauses between two looks: from this, doubling to that.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// `TCP_LISTEN` as /proc/net/tcp shows it (include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// Waits until the network namespace of a process has a listening TCP socket on each of these ports.
pub(super) async fn until(pid: i32, ports: &[u16]) {
    if ports.is_empty() {
        return;
    }
    let listening = async {
        let (mut pause, longest) = PAUSES;
        while !all_listen(pid, ports) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    };
    // Not in time: see `LONGEST`.
    let _ = tokio::time::timeout(LONGEST, listening).await;
}

/// A process that is gone listens no more; its end is for others to tell.
fn all_listen(pid: i32, ports: &[u16]) -> bool {
    let tables: Vec<String> = ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .collect();
    tables.is_empty() || ports.iter().all(|port| tables.iter().any(|table| listens(table, *port)))
}

/// Whether a table in the form of `/proc/net/tcp` (proc_net_tcp(5)) has a listener on a port at other addresses than
/// loopback ones.
fn listens(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        let (Some(local), Some(state)) = (fields.nth(1), fields.nth(1)) else { return false };
        let Some((address, local_port)) = local.split_once(':') else { return false };
        state == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port) && !is_loopback(address)
    })
}

/// Of an address in the kernel's notation: 32-bit words, each in the host's byte order.
fn is_loopback(address: &str) -> bool {
    let word = |text: &str| u32::from_str_radix(text, 16).map(u32::to_ne_bytes);
    match address.len() {
        8 => word(address).is_ok_and(|bytes| bytes[0] == 127),
        _ => {
            address.get(..24).is_some_and(|start| start.bytes().all(|digit| digit == b'0'))
                && address.get(24..).is_some_and(|last| word(last) == Ok([0, 0, 0, 1]))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn table(name: &str) -> String {
        std::fs::read_to_string(format!("/proc/self/net/{name}")).unwrap()
    }

    #[test]
    fn listeners_are_found_and_those_on_loopback_do_not_count() {
        let free = |address: &str| TcpListener::bind(address).unwrap();
        let (v4, v6) = (free("0.0.0.0:0"), free("[::]:0"));
        let (loop4, loop6) = (free("127.0.0.1:0"), free("[::1]:0"));
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        assert!(listens(&table("tcp"), port(&v4)));
        assert!(listens(&table("tcp6"), port(&v6)));
        assert!(!listens(&table("tcp"), port(&loop4)) && !listens(&table("tcp6"), port(&loop6)));
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(all_listen(pid, &[port(&v4), port(&v6)]));
        let gone = port(&v4);
        drop(v4);
        assert!(!all_listen(pid, &[gone]));
    }

    #[test]
    fn what_cannot_be_read_is_not_waited_for() {
        assert!(all_listen(i32::MAX, &[80]));
        assert!(!listens("garbage\n\n1\n1 2:zz 0A\n1 ::: 0A 0A", 80));
    }
}
