//! `-natpmp`: a port of the router, beside bitcoind behind the same router.

use keyless_tests::daemon::free_port;
use keyless_tests::router::{INSIDE, OUTSIDE, OUTSIDE_PORT, Router, Speaks};
use keyless_tests::wait::until;
use keyless_tests::{Daemon, Options};
use serde_json::{Value, json};

use super::SYNC_DEADLINE;

const MAPPED: &str = "portmap: Added mapping ";

fn behind(options: Options) -> Daemon {
    // Where every address of the machine is listened on, its own are told, too.
    let any = format!("-bind=0.0.0.0:{}", free_port());
    Daemon::start_new(options.arg("-natpmp=1").arg(any).arg("-debug=net"))
}

/// Requests without what is of one moment or one node: nonce and ports.
fn plain(mut requests: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for request in &mut requests {
        let own: &[(usize, usize)] = if request.len() > 12 { &[(24, 36), (40, 44)] } else { &[(4, 8)] };
        for (from, to) in own {
            if let Some(bytes) = request.get_mut(*from..*to) {
                bytes.fill(0);
            }
        }
    }
    requests
}

/// What the node asked, what it says of the mapping (without its own port), and its addresses.
fn mapped(mut node: Daemon, router: &Router) -> (Vec<Vec<u8>>, String, Value) {
    let line = until("a port is mapped", SYNC_DEADLINE, || {
        node.log().lines().find_map(|line| line.split_once(MAPPED).map(|(_, said)| said.to_owned()))
    });
    let mut said = line;
    let port = said.split_once(&format!("{INSIDE}:")).and_then(|(_, rest)| rest.split(' ').next()).unwrap().to_owned();
    said = said.replace(&port, "<port>");
    let mut own = node.call("getnetworkinfo", json!([]))["localaddresses"].clone();
    for address in own.as_array_mut().unwrap() {
        if address["address"] == json!(INSIDE.to_string()) {
            assert_eq!(address["port"].to_string(), port, "one port is listened on, and mapped");
            address["port"] = json!(0);
        }
    }
    node.stop();
    (plain(router.asked()), said, own)
}

#[test]
fn a_router_maps_the_port_as_for_bitcoind() {
    for speaks in [Speaks::Pcp, Speaks::NatPmp] {
        // Each pair of networks is a thread's own.
        std::thread::spawn(move || {
            let Some(router) = Router::start(speaks) else { return };
            let core = mapped(behind(Options::core()), &router);
            let ours = mapped(behind(Options::keyless().arg("-disablewallet")), &router);
            println!("{speaks:?}: {} requests, {}, {}", ours.0.len(), ours.1, ours.2);
            assert_eq!(ours, core);
            assert!(ours.1.contains(&format!("{OUTSIDE}:{OUTSIDE_PORT} -> {INSIDE}:<port>")), "{}", ours.1);
            assert_eq!(ours.2[1]["address"], json!(OUTSIDE.to_string()), "{}", ours.2);
        })
        .join()
        .unwrap();
    }
}

#[test]
fn without_natpmp_the_router_is_not_asked() {
    std::thread::spawn(|| {
        let Some(router) = Router::start(Speaks::Pcp) else { return };
        for off in ["-natpmp=0", "-listen=0", "-proxy=127.0.0.1:1"] {
            // The configuration turns it off; what is softly set needs that away.
            let mut node = Daemon::new(Options::keyless().arg("-disablewallet").arg(off));
            let conf = node.datadir().join("bitcoin.conf");
            let text = std::fs::read_to_string(&conf).unwrap().replace("natpmp=0\n", "").replace("bind=", "#bind=");
            std::fs::write(&conf, text).unwrap();
            node.start();
            assert!(!node.log().contains("mapport thread start"), "{off}");
            node.stop();
        }
        assert_eq!(router.asked(), Vec::<Vec<u8>>::new());
    })
    .join()
    .unwrap();
}
