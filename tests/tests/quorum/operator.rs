//! What an operator and its tools see of a member: whether it lives, its figures, payments that nobody waits for.

use keyless_tests::quorum::Discovery;
use keyless_tests::wait::{until, until_true};
use keyless_tests::{Daemon, Quorum, RpcClient};
use serde_json::{Value, json};

use super::{DEADLINE, address, mine};

/// The figure of a name with its labels.
fn figure(figures: &str, name: &str) -> Option<u64> {
    figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn supervisors_and_prometheus_see_how_a_member_is_by_http() {
    let mut quorum = Quorum::start(2, 3, Discovery::Static);
    let rpc = quorum.members[0].rpc();
    let stranger = rpc.anonymous();
    assert_eq!(stranger.get("/health").unwrap(), (200, "ok\n".to_owned()));
    assert_eq!(stranger.get("/ready").unwrap(), (200, "ready\n".to_owned()));
    assert_eq!(stranger.request("POST", "/health", "").unwrap().0, 405);
    assert_eq!(stranger.get("/metrics").unwrap().0, 401);
    let port = quorum.members[0].rpc_port();
    let guess = RpcClient::new(([127, 0, 0, 1], port).into(), "alice:guess");
    assert_eq!(guess.get("/metrics").unwrap().0, 401);
    assert_eq!(stranger.get("/metricsx").unwrap().0, 404);

    quorum.create_wallet("w");
    let wallet = quorum.wallet(0, "w");
    let own = address(&wallet, "bech32m");
    mine(&quorum, 0, 101, &own);
    wallet.call("sendtoaddress", json!([own, 1]));
    let (status, figures) = rpc.get("/metrics").unwrap();
    assert_eq!(status, 200);
    let expected = [
        ("keyless_chain_height", 101),
        ("keyless_members{wallet=\"w\"}", 3),
        ("keyless_members_online{wallet=\"w\"}", 3),
        ("keyless_epoch{wallet=\"w\"}", 0),
        ("keyless_approvals_pending{wallet=\"w\"}", 0),
        ("keyless_signings_total{result=\"signed\"}", 1),
        ("keyless_signing_seconds_count", 1),
        ("keyless_requests_dropped_total", 0),
    ];
    for (name, value) in expected {
        assert_eq!(figure(&figures, name), Some(value), "{name} in\n{figures}");
    }
    for name in ["keyless_addresses_ready{wallet=\"w\"}", "keyless_audit_entries{wallet=\"w\"}"] {
        assert!(figure(&figures, name) > Some(0), "{name} in\n{figures}");
    }
    // Whoever took part has decided something; it counts that once the session is over there, too.
    let decisions = || {
        let of = |member: &Daemon| {
            figure(&member.rpc().get("/metrics").unwrap().1, "keyless_decisions_total{decision=\"sign\"}")
        };
        quorum.members[1..].iter().filter_map(of).sum::<u64>()
    };
    until_true("one member has signed", DEADLINE, || decisions() == 1);

    quorum.members[2].kill9();
    until_true("its absence is seen", DEADLINE, || {
        figure(&rpc.get("/metrics").unwrap().1, "keyless_members_online{wallet=\"w\"}") == Some(2)
    });
    assert_eq!(stranger.get("/ready").unwrap().0, 200, "two are enough");
    quorum.members[1].kill9();
    let (status, why) = until("one is not enough", DEADLINE, || {
        Some(stranger.get("/ready").unwrap()).filter(|(status, _)| *status != 200)
    });
    assert_eq!((status, why.as_str()), (503, "wallet \"w\": 1 of 2 needed members are online\n"));
    assert_eq!(stranger.get("/health").unwrap().0, 200, "it lives");
}

/// The row of a payment that nobody waits for.
fn row(wallet: &RpcClient, session: &Value) -> Value {
    let rows = wallet.call("listsigningsessions", json!([]));
    let found = rows.as_array().unwrap().iter().find(|row| row["id"] == *session);
    found.unwrap_or_else(|| panic!("no session {session} in {rows}")).clone()
}

fn question(wallet: &RpcClient) -> Value {
    until("its operator is asked", DEADLINE, || {
        wallet.call("listpendingapprovals", json!([])).as_array().unwrap().first().cloned()
    })
}

#[test]
fn a_payment_that_nobody_waits_for_is_followed_to_its_end() {
    let quorum = Quorum::start(2, 3, Discovery::Static);
    quorum.create_wallet("w");
    let wallet = quorum.wallet(0, "w");
    let own = address(&wallet, "bech32m");
    mine(&quorum, 0, 101, &own);
    let asks =
        json!({"max_fee": 0.01, "max_tip_age": null, "resign": true, "rules": [{"name": "all", "action": "ask"}]});
    for member in [1, 2] {
        quorum.wallet(member, "w").call("setsigningpolicy", json!([asks]));
    }
    let send = || wallet.call("sendtoaddress", json!({"address": own, "amount": 1, "wait": false}))["session"].clone();

    let session = send();
    let asked = question(&quorum.wallet(1, "w"));
    let under_way = row(&wallet, &session);
    assert_eq!((&under_way["kind"], &under_way["state"]), (&json!("payment"), &json!("under way")), "{under_way}");
    assert_eq!((&under_way["txid"], &under_way["coordinator"]), (&Value::Null, &json!(quorum.peer_ids[0])));
    assert!(under_way["expires"].as_u64() > under_way["started"].as_u64(), "{under_way}");
    quorum.wallet(1, "w").call("approvesigning", json!([asked["id"]]));
    let done = until("it is made", DEADLINE, || Some(row(&wallet, &session)).filter(|row| row["state"] == "done"));
    assert_eq!(done["txid"], asked["txid"]);
    assert!(wallet.call("getrawmempool", json!([])).as_array().unwrap().contains(&done["txid"]));
    assert!(done.get("error").is_none(), "{done}");

    let refused = send();
    for member in [1, 2] {
        let wallet = quorum.wallet(member, "w");
        // The one that was not needed for the first payment is still asked about it.
        let asked = until("its operator is asked", DEADLINE, || {
            let rows = wallet.call("listpendingapprovals", json!([]));
            rows.as_array().unwrap().iter().find(|row| row["txid"] != done["txid"]).cloned()
        });
        wallet.call("rejectsigning", json!([asked["id"], "not today"]));
    }
    let failed =
        until("it is refused", DEADLINE, || Some(row(&wallet, &refused)).filter(|row| row["state"] == "failed"));
    assert!(failed["error"].as_str().unwrap().contains("not today"), "{failed}");
    assert_eq!(failed["txid"], Value::Null);
    assert_eq!(row(&wallet, &session)["state"], "done", "it is shown still");
}
