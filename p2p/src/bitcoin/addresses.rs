//! The address book: nodes heard of, and which of them were reached.
//!
//! Bounded, kept in a text file of our own (one line each). It is simpler than Core's bucketed `addrman`: what a single
//! source can put in is limited by the rate at which gossip is taken, and outbound peers are chosen from different networks.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bitcoin::p2p::ServiceFlags;
use rand::seq::{IteratorRandom, SliceRandom};

use super::handle::KnownAddress;
use super::message::Gossip;

/// Addresses kept; when full, one that was never reached makes room.
const MAX_ADDRESSES: usize = 16_384;
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
const FORMAT: &str = "keyless addresses 1";
/// Not gossiped when older than this.
const HORIZON_SECS: u64 = 30 * 24 * 60 * 60;
/// Attempts after which an address that never answered is forgotten.
const MAX_ATTEMPTS: u32 = 3;

#[derive(Clone, Copy, Debug)]
struct Entry {
    time: u64,
    services: ServiceFlags,
    tried: bool,
    attempts: u32,
    last_try: Duration,
}

#[derive(Debug)]
pub(crate) struct Addresses {
    file: Option<PathBuf>,
    entries: HashMap<SocketAddr, Entry>,
}

/// Addresses of one network operator, roughly: /16 or /32.
pub(crate) fn group(ip: IpAddr) -> [u8; 5] {
    match ip.to_canonical() {
        IpAddr::V4(ip) => [4, ip.octets()[0], ip.octets()[1], 0, 0],
        IpAddr::V6(ip) => {
            let o = ip.octets();
            [6, o[0], o[1], o[2], o[3]]
        }
    }
}

impl Addresses {
    pub(crate) fn load(file: Option<PathBuf>, now: Duration) -> Self {
        let mut book = Self { file, entries: HashMap::new() };
        let Some(path) = &book.file else { return book };
        let small = std::fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_FILE_BYTES);
        let text = if small { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        let mut lines = text.lines();
        if lines.next() == Some(FORMAT) {
            let found: Vec<_> = lines.filter_map(parse).take(MAX_ADDRESSES).collect();
            book.entries.extend(found);
        }
        tracing::info!("Loaded {} addresses at {}", book.entries.len(), now.as_secs());
        book
    }

    pub(crate) fn save(&self) {
        let Some(path) = &self.file else { return };
        let write = || -> io::Result<()> {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            let next = path.with_extension("new");
            let mut out = io::BufWriter::new(std::fs::File::create(&next)?);
            writeln!(out, "{FORMAT}")?;
            for (address, entry) in &self.entries {
                let (services, tried) = (entry.services.to_u64(), u8::from(entry.tried));
                writeln!(out, "{address} {} {services} {tried}", entry.time)?;
            }
            out.flush()?;
            std::fs::rename(&next, path)
        };
        if let Err(error) = write() {
            tracing::warn!("cannot keep known addresses in {}: {error}", path.display());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes gossip, `penalty` older than it claims to be. False if it was known.
    pub(crate) fn learn(&mut self, entry: &Gossip, penalty: Duration) -> bool {
        let time = u64::from(entry.time).saturating_sub(penalty.as_secs());
        if let Some(known) = self.entries.get_mut(&entry.address) {
            known.services |= entry.services;
            known.time = known.time.max(time);
            return false;
        }
        if entry.address.port() == 0 || !self.make_room() {
            return false;
        }
        let fresh = Entry { time, services: entry.services, tried: false, attempts: 0, last_try: Duration::ZERO };
        self.entries.insert(entry.address, fresh);
        tracing::debug!(target: "addrman", "Added {} to new", entry.address);
        true
    }

    fn make_room(&mut self) -> bool {
        if self.entries.len() < MAX_ADDRESSES {
            return true;
        }
        let mut rng = rand::thread_rng();
        let victim = self.entries.iter().filter(|(_, e)| !e.tried).map(|(a, _)| *a).choose(&mut rng);
        victim.is_some_and(|victim| self.entries.remove(&victim).is_some())
    }

    pub(crate) fn set_services(&mut self, address: SocketAddr, services: ServiceFlags) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.services = services;
        }
    }

    /// Offered the encrypted transport when last heard of.
    pub(crate) fn speaks_v2(&self, address: &SocketAddr) -> bool {
        self.entries.get(address).is_some_and(|entry| entry.services.has(ServiceFlags::P2P_V2))
    }

    /// It answered with a handshake.
    pub(crate) fn good(&mut self, address: SocketAddr, now: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else { return false };
        entry.tried = true;
        entry.attempts = 0;
        entry.time = entry.time.max(now.as_secs());
        true
    }

    /// A connection is being tried.
    pub(crate) fn attempt(&mut self, address: SocketAddr, now: Duration) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        entry.attempts += 1;
        entry.last_try = now;
        if !entry.tried && entry.attempts > MAX_ATTEMPTS {
            self.entries.remove(&address);
        }
    }

    /// One to connect to that `fits`, not tried in the last ten minutes; half of the time one that was reached before.
    pub(crate) fn choose(&self, now: Duration, fits: impl Fn(&SocketAddr, ServiceFlags) -> bool) -> Option<SocketAddr> {
        let mut rng = rand::thread_rng();
        let rested = |e: &Entry| now.saturating_sub(e.last_try) > Duration::from_secs(600);
        let of = |tried: bool| {
            let fits = &fits;
            self.entries
                .iter()
                .filter(move |(a, e)| e.tried == tried && rested(e) && fits(a, e.services))
                .map(|(a, _)| *a)
        };
        let first = rand::random::<bool>();
        of(first).choose(&mut rng).or_else(|| of(!first).choose(&mut rng))
    }

    /// A share of the recent ones, for `getaddr`.
    pub(crate) fn sample(&self, most: usize, percent: usize, now: Duration) -> Vec<Gossip> {
        let oldest = now.as_secs().saturating_sub(HORIZON_SECS);
        let mut found: Vec<Gossip> = self
            .entries
            .iter()
            .filter(|(_, e)| e.time >= oldest)
            .map(|(address, e)| Gossip {
                time: u32::try_from(e.time).unwrap_or(u32::MAX),
                services: e.services,
                address: *address,
            })
            .collect();
        found.shuffle(&mut rand::thread_rng());
        found.truncate(most.min((self.entries.len() * percent).div_ceil(100)));
        found
    }

    pub(crate) fn list(&self) -> Vec<KnownAddress> {
        self.entries
            .iter()
            .map(|(address, e)| KnownAddress { time: e.time, services: e.services, address: *address, tried: e.tried })
            .collect()
    }
}

fn parse(line: &str) -> Option<(SocketAddr, Entry)> {
    let mut words = line.split(' ');
    let address = words.next()?.parse().ok()?;
    let time = words.next()?.parse().ok()?;
    let services = ServiceFlags::from(words.next()?.parse::<u64>().ok()?);
    let tried = words.next()? == "1";
    Some((address, Entry { time, services, tried, attempts: 0, last_try: Duration::ZERO }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gossip(n: u32) -> Gossip {
        let ip = std::net::Ipv4Addr::from_bits(0x0808_0000 + n);
        Gossip { time: 1_000_000, services: ServiceFlags::NETWORK, address: SocketAddr::new(ip.into(), 8333) }
    }

    #[test]
    fn the_book_is_bounded_and_keeps_whom_it_reached() {
        let mut book = Addresses::load(None, Duration::ZERO);
        assert!(book.learn(&gossip(0), Duration::ZERO));
        assert!(!book.learn(&gossip(0), Duration::ZERO));
        assert!(book.good(gossip(0).address, Duration::from_secs(1_000_000)));
        for n in 1..MAX_ADDRESSES as u32 + 50 {
            book.learn(&gossip(n), Duration::ZERO);
        }
        assert_eq!(book.len(), MAX_ADDRESSES);
        assert!(book.entries.contains_key(&gossip(0).address));
        let sample = book.sample(1_000, 23, Duration::from_secs(1_000_000));
        assert_eq!(sample.len(), 1_000);
    }

    #[test]
    fn it_survives_a_restart() {
        let dir = std::env::temp_dir().join(format!("keyless-addresses-{}", std::process::id()));
        let file = dir.join("addresses.txt");
        let mut book = Addresses::load(Some(file.clone()), Duration::ZERO);
        book.learn(&gossip(1), Duration::ZERO);
        book.good(gossip(1).address, Duration::ZERO);
        book.save();
        let again = Addresses::load(Some(file), Duration::ZERO);
        assert_eq!(again.list(), book.list());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_address_that_never_answers_is_forgotten() {
        let mut book = Addresses::load(None, Duration::ZERO);
        book.learn(&gossip(1), Duration::ZERO);
        let now = Duration::from_secs(10_000);
        assert_eq!(book.choose(now, |_, _| true), Some(gossip(1).address));
        (0..=MAX_ATTEMPTS).for_each(|_| book.attempt(gossip(1).address, now));
        assert_eq!(book.len(), 0);
    }
}
