//! `-zmqpub<topic>=<address>`, several for each topic, and `-zmqpub<topic>hwm=<n>`.

use keyless_kernel::Args;

use super::topics::Topic;

/// Messages that may wait for one subscriber.
const DEFAULT_HIGH_WATER_MARK: i32 = 1_000;
/// Core's prefix of a socket in the file system, and ZMQ's.
const UNIX_PREFIX: &str = "unix:";
const IPC_PREFIX: &str = "ipc://";

/// One notifier that the options ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub topic: Topic,
    /// As ZMQ writes it: `tcp://127.0.0.1:28332`, `ipc:///run/keyless.sock`.
    pub address: String,
    /// Messages that may wait for one subscriber; later ones are dropped. 0: no limit.
    pub high_water_mark: i32,
}

/// All that the options ask for, in the order of their topics.
pub fn read(args: &Args) -> Vec<Wanted> {
    let of = |topic: Topic| {
        let option = topic.option();
        let high_water_mark = high_water_mark(args.get_int(&format!("{option}hwm")));
        let wanted = move |address: String| Wanted { topic, address: as_zmq(&address), high_water_mark };
        args.get_all(&option).into_iter().map(wanted)
    };
    Topic::ALL.into_iter().flat_map(of).collect()
}

fn as_zmq(address: &str) -> String {
    address.strip_prefix(UNIX_PREFIX).map_or_else(|| address.to_owned(), |path| format!("{IPC_PREFIX}{path}"))
}

/// A negative one is passed over, as in Core.
fn high_water_mark(set: Option<i64>) -> i32 {
    set.and_then(|mark| i32::try_from(mark).ok()).filter(|mark| *mark >= 0).unwrap_or(DEFAULT_HIGH_WATER_MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_prefix_of_a_path_is_zmqs() {
        assert_eq!(as_zmq("unix:/run/tx"), "ipc:///run/tx");
        assert_eq!(as_zmq("ipc:///run/tx"), "ipc:///run/tx");
        assert_eq!(as_zmq("tcp://[::1]:28332"), "tcp://[::1]:28332");
    }

    #[test]
    fn a_mark_below_zero_is_passed_over() {
        assert_eq!(high_water_mark(None), 1_000);
        assert_eq!(high_water_mark(Some(-1)), 1_000);
        assert_eq!(high_water_mark(Some(0)), 0);
        assert_eq!(high_water_mark(Some(5)), 5);
    }
}
