//! A router that gives ports away by PCP (RFC 6887) or NAT-PMP (RFC 6886), in networks of a test's own.
//!
//! Owns two network namespaces: that of the calling thread, whose only way out leads to the router, and the router's. What
//! the thread starts from then on lives in the first. Needs `CAP_NET_ADMIN`; where that is missing, says so and makes nothing.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::mpsc;

/// Of RFC 6886 and RFC 6887.
const PORT: u16 = 5351;
const PCP: u8 = 2;
const ANSWER: u8 = 0x80;
const UNSUPPORTED_VERSION: u8 = 1;
const NAT_PMP_ADDRESS: u8 = 0;
const NAT_PMP_MAP_TCP: u8 = 2;
const PCP_BYTES: usize = 60;
/// The router, seen from inside.
const ROUTER: &str = "5.6.7.1/24";
/// The thread's own address there: one that others could reach.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(5, 6, 7, 8);
/// What the router has outside, and the port it gives away.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(9, 8, 7, 6);
pub const OUTSIDE_PORT: u16 = 4_242;
/// For how long it gives it away.
const LIFETIME_SECS: u32 = 1_200;

/// Which of the two it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Pcp,
    NatPmp,
}

/// Answers until the test's process ends.
pub struct Router {
    asked: mpsc::Receiver<Vec<u8>>,
}

impl Router {
    /// Moves the calling thread behind a router. `None` where nobody may make networks; says why.
    pub fn start(speaks: Speaks) -> Option<Self> {
        if !own_network() {
            return None;
        }
        ip("link set lo up");
        ip("link add inside type veth peer name outside");
        let (place, places) = mpsc::sync_channel(1);
        let (ready, is_ready) = mpsc::sync_channel::<()>(1);
        let (bound, is_bound) = mpsc::sync_channel::<()>(1);
        let (tell, asked) = mpsc::sync_channel(64);
        std::thread::spawn(move || {
            assert!(own_network(), "a second network");
            // SAFETY: takes no argument and cannot fail.
            let thread = unsafe { libc::syscall(libc::SYS_gettid) };
            place.send(format!("/proc/{}/task/{thread}/ns/net", std::process::id())).expect("the test waits");
            is_ready.recv().expect("the test moves the interface");
            ip(&format!("address add {ROUTER} dev outside"));
            ip("link set outside up");
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("a port of a new network is free");
            bound.send(()).expect("the test waits");
            serve(&socket, speaks, &tell);
        });
        ip(&format!("link set outside netns {}", places.recv().expect("the router has a network")));
        ready.send(()).expect("the router waits");
        is_bound.recv().expect("the router answers");
        ip(&format!("address add {INSIDE}/24 dev inside"));
        ip("link set inside up");
        ip("route add default via 5.6.7.1");
        Some(Self { asked })
    }

    /// What it was asked since it was looked at last.
    pub fn asked(&self) -> Vec<Vec<u8>> {
        self.asked.try_iter().collect()
    }
}

fn own_network() -> bool {
    // SAFETY: plain unshare(2); of threads it changes this one alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        println!("SKIPPED: no network of one's own here: {}", io::Error::last_os_error());
        return false;
    }
    true
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("ip can be started");
    assert!(status.success(), "ip {words}");
}

fn serve(socket: &UdpSocket, speaks: Speaks, tell: &mpsc::SyncSender<Vec<u8>>) {
    let mut bytes = [0; 1_100];
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        let request = &bytes[..length];
        // Nobody looks any more: go on answering.
        let _ = tell.try_send(request.to_vec());
        if let Some(answer) = answer(request, speaks) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn answer(request: &[u8], speaks: Speaks) -> Option<Vec<u8>> {
    let epoch = [0, 0, 0, 9];
    let lifetime = LIFETIME_SECS.to_be_bytes();
    let (&version, &operation) = (request.first()?, request.get(1)?);
    match (speaks, version, operation) {
        (Speaks::Pcp, PCP, _) if request.len() == PCP_BYTES => {
            let mapping = &request[24..42];
            let outside = OUTSIDE.to_ipv6_mapped().octets();
            let head = [&[PCP, operation | ANSWER, 0, 0][..], &lifetime, &epoch, &[0; 12]].concat();
            Some([&head[..], mapping, &OUTSIDE_PORT.to_be_bytes(), &outside].concat())
        }
        (Speaks::NatPmp, 0, NAT_PMP_ADDRESS) => Some([&[0, ANSWER, 0, 0][..], &epoch, &OUTSIDE.octets()].concat()),
        (Speaks::NatPmp, 0, NAT_PMP_MAP_TCP) => {
            let port = request.get(4..6)?;
            Some([&[0, operation | ANSWER, 0, 0][..], &epoch, port, &OUTSIDE_PORT.to_be_bytes(), &lifetime].concat())
        }
        (Speaks::NatPmp, ..) => Some([&[0, operation | ANSWER, 0, UNSUPPORTED_VERSION][..], &epoch].concat()),
        (Speaks::Pcp, ..) => None,
    }
}
