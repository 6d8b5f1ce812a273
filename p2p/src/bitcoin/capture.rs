//! `-capturemessages`: every message to a file, in the format of Core's `CaptureMessage`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Files open at once; beyond it all are closed and opened again when needed.
const MAX_OPEN: usize = 64;

#[derive(Debug)]
pub(crate) struct Capture {
    dir: Option<PathBuf>,
    open: HashMap<(SocketAddr, bool), File>,
}

impl Capture {
    pub(crate) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, open: HashMap::new() }
    }

    /// Appends a message; without a directory it does nothing.
    pub(crate) fn message(&mut self, peer: SocketAddr, command: &str, payload: &[u8], incoming: bool, now: Duration) {
        if self.dir.is_none() {
            return;
        }
        if let Err(error) = self.write(peer, command, payload, incoming, now) {
            tracing::warn!("cannot capture messages: {error}");
            self.dir = None;
        }
    }

    fn write(
        &mut self,
        peer: SocketAddr,
        command: &str,
        payload: &[u8],
        incoming: bool,
        now: Duration,
    ) -> io::Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        let file = match self.open.entry((peer, incoming)) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(vacant) => {
                let dir = dir.join(peer.to_string().replace(':', "_"));
                std::fs::create_dir_all(&dir)?;
                let name = if incoming { "msgs_recv.dat" } else { "msgs_sent.dat" };
                vacant.insert(OpenOptions::new().append(true).create(true).open(dir.join(name))?)
            }
        };
        let mut record = Vec::with_capacity(24 + payload.len());
        let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        record.extend_from_slice(&micros.to_le_bytes());
        let mut name = [0; 12];
        name.iter_mut().zip(command.bytes()).for_each(|(slot, byte)| *slot = byte);
        record.extend_from_slice(&name);
        record.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        record.extend_from_slice(payload);
        file.write_all(&record)
    }
}
