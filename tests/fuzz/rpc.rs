//! JSON-RPC bodies over kept connections.

use keyless_tests::http::Http;
use rand::Rng;

use super::{Target, mutate};

const SEEDS: [&str; 8] = [
    r#"{"jsonrpc":"2.0","id":1,"method":"getblockcount","params":[]}"#,
    r#"{"id":"a","method":"getblockhash","params":[0]}"#,
    r#"{"jsonrpc":"2.0","method":"uptime"}"#,
    r#"[{"jsonrpc":"2.0","id":1,"method":"getblockcount"},{"id":2,"method":"echo","params":{"arg0":"x"}}]"#,
    r#"{"id":null,"method":"echojson","params":[1.00000000,-0,1e5,"\u00e9\ud83d\ude00",[[[]]],{"a":null}]}"#,
    r#"{"id":1,"method":"createrawtransaction","params":[[{"txid":"00","vout":0}],{"data":"00"}]}"#,
    r#"{"id":1,"method":"decodescript","params":["5121"]}"#,
    r#"{"id":1,"method":"help","params":["getblock"]}"#,
];
/// What Core answers to anything at all.
const STATUSES: [u16; 6] = [200, 204, 400, 403, 404, 500];

#[test]
fn mutated_bodies_get_cores_status_codes() {
    let target = Target::start();
    target.attack("JSON-RPC", |_, share, mut rng| {
        let mut client = Http::open(&target.node);
        for _ in 0..share {
            let seed = SEEDS[rng.gen_range(0..SEEDS.len())];
            let body = mutate(&mut rng, seed.as_bytes());
            // `stop` would be a valid request.
            let body = String::from_utf8_lossy(&body).replace("\"stop\"", "\"stap\"");
            let (status, answer) = client.post(&body).expect("the server answers");
            assert!(STATUSES.contains(&status), "{status} to {body:?}: {answer:?}");
        }
    });
}
