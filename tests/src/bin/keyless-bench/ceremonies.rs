//! What the ceremonies of a wallet's keys cost: generation, refresh, a member added, a share repaired. Wall time of the
//! call beside the CPU of all machines run one after the other on one thread, shared out over the cores.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::Network;
use bitcoin::secp256k1::rand::random;
use keyless_tests::quorum::{Discovery, Quorum};
use keyless_tests::wait::until_true;
use serde_json::{Value, json};
use tss_wallet::{
    Dkg, DkgParams, Epoch, KeyShare, MemberId, Outgoing, PartyIndex, Redeal, RedealParams, Roster, SessionId,
    SigningIdentity, Split,
};

use crate::cpu;
use crate::floor::{self, Traffic};
use crate::stats::ms;

const WALLET: &str = "w";
const DEADLINE: Duration = Duration::from_secs(120);

/// What one ceremony costs the machines alone.
struct Floor {
    cpu: Duration,
    traffic: Traffic,
}

/// What it costs the processes.
struct Cost {
    wall: Duration,
    cpu: Vec<Duration>,
}

struct Parties {
    identities: Vec<SigningIdentity>,
    roster: Roster,
    shares: Vec<Arc<KeyShare>>,
}

fn identities(count: u8) -> Vec<SigningIdentity> {
    let mut all: Vec<SigningIdentity> = (0..count).map(|_| SigningIdentity::from_seed(&random())).collect();
    all.sort_by_key(SigningIdentity::member_id);
    all
}

fn generation(threshold: u8, count: u8) -> (Parties, Floor) {
    let identities = identities(count);
    let members: Vec<MemberId> = identities.iter().map(SigningIdentity::member_id).collect();
    let roster = Roster::new(threshold, members, Split::Refused).expect("a valid quorum");
    let session = SessionId(random());
    let wallet = DkgParams::wallet_id("floor", Network::Regtest, &roster, &session);
    let params = DkgParams { wallet, network: Network::Regtest, roster: roster.clone(), session, context: [0; 32] };
    let ((machines, traffic), cpu) = cpu::timed(|| {
        let mut machines = BTreeMap::new();
        let mut first = Vec::new();
        for identity in &identities {
            let (machine, out) = Dkg::start(params.clone(), identity.clone(), random()).expect("it starts");
            first.push((machine.me(), out));
            machines.insert(machine.me(), machine);
        }
        let traffic = floor::run(&mut machines, first, |machine: &mut Dkg, from, body| {
            machine.receive(from, body).expect("all are honest")
        });
        (machines, traffic)
    });
    let shares = machines.values().map(|machine| Arc::clone(machine.finished().expect("it ends"))).collect();
    (Parties { identities, roster, shares }, Floor { cpu, traffic })
}

/// Dealing again: with all as dealers, or with the last one as a receiver alone.
fn redealing(parties: &Parties, dealers: usize) -> Floor {
    let public = parties.shares[0].public();
    let params = RedealParams {
        old: Arc::clone(public),
        epoch: Epoch(public.epoch.0 + 1),
        roster: parties.roster.clone(),
        dealers: parties.roster.members()[..dealers].iter().copied().collect(),
        absent: BTreeSet::new(),
        session: SessionId(random()),
        context: [0; 32],
    };
    let start = |identity: &SigningIdentity, share: Option<&KeyShare>| -> (Redeal, Vec<Outgoing>) {
        Redeal::start(params.clone(), identity.clone(), share, random()).expect("it starts")
    };
    let (traffic, cpu) = cpu::timed(|| {
        let mut machines: BTreeMap<PartyIndex, Redeal> = BTreeMap::new();
        let mut first = Vec::new();
        for (position, identity) in parties.identities.iter().enumerate() {
            let share = (position < dealers).then(|| parties.shares[position].as_ref());
            let (machine, out) = start(identity, share);
            first.push((machine.me(), out));
            machines.insert(machine.me(), machine);
        }
        let traffic = floor::run(&mut machines, first, |machine: &mut Redeal, from, body| {
            machine.receive(from, body).expect("all are honest")
        });
        assert!(machines.values().all(|machine| machine.finished().is_some()), "all have the new epoch");
        traffic
    });
    Floor { cpu, traffic }
}

fn measured(quorum: &Quorum, call: impl FnOnce()) -> Cost {
    let spent = || quorum.members.iter().map(|member| cpu::of_process(member.pid())).collect::<Vec<_>>();
    let before = spent();
    let start = Instant::now();
    call();
    let wall = start.elapsed();
    let cpu = spent().into_iter().zip(before).map(|(after, before)| after.saturating_sub(before)).collect();
    Cost { wall, cpu }
}

fn in_epoch(quorum: &Quorum, epoch: &Value) {
    until_true("all members in the new epoch", DEADLINE, || {
        (0..quorum.members.len()).all(|m| {
            let info = quorum.wallet(m, WALLET).try_call("getquoruminfo", json!([]));
            info.is_ok_and(|info| info["epoch"] == *epoch)
        })
    });
}

fn row(quorum: &str, what: &str, cost: &Cost, floor: &Floor) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let least = floor.cpu / u32::try_from(cores).unwrap_or(1);
    let total: Duration = cost.cpu.iter().sum();
    println!(
        "| {quorum} | {what} | {} | {} | {} | {:.2} | {} | {:.1} |",
        ms(cost.wall),
        ms(total),
        ms(least),
        cost.wall.as_secs_f64() / least.as_secs_f64(),
        floor.traffic.messages,
        floor.traffic.bytes as f64 / 1024.0,
    );
}

/// Prints the table.
pub fn run(quorums: &[(u8, u8)]) {
    println!(
        "| quorum | ceremony | wall ms | CPU of all members ms | floor ms (CPU of all machines ÷ cores) | wall ÷ floor \
         | messages | KiB in all |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for &(threshold, count) in quorums {
        ceremonies(threshold, count);
    }
}

fn ceremonies(threshold: u8, count: u8) {
    let name = format!("{threshold}-of-{count}");
    let (parties, generate) = generation(threshold, count);
    let all = redealing(&parties, usize::from(count));
    let without_last = redealing(&parties, usize::from(count) - 1);
    let last = usize::from(count) - 1;
    let mut quorum = Quorum::start(usize::from(threshold), usize::from(count), Discovery::Static);
    let cost = measured(&quorum, || {
        quorum.members[0].call("createwallet", json!([WALLET]));
    });
    row(&name, "generation (createwallet)", &cost, &generate);
    quorum.wait_wallet(WALLET);
    let wallet = quorum.wallet(0, WALLET);
    let cost = measured(&quorum, || {
        wallet.call("refreshshares", json!([]));
    });
    row(&name, "refresh (refreshshares)", &cost, &all);
    // The last member leaves, and is added again.
    let ids: Vec<&String> = quorum.peer_ids.iter().collect();
    wallet.call("resharequorum", json!([threshold, ids[..last]]));
    until_true("the member has left", DEADLINE, || quorum.members[last].call("listwallets", json!([])) == json!([]));
    let mut epoch = Value::Null;
    let cost = measured(&quorum, || epoch = wallet.call("resharequorum", json!([threshold, ids]))["epoch"].clone());
    row(&name, "reshare, one member added (resharequorum)", &cost, &without_last);
    in_epoch(&quorum, &epoch);
    // The last member loses its disk.
    let member = &mut quorum.members[last];
    member.stop();
    std::fs::remove_dir_all(member.net_dir().join("wallets").join(WALLET)).expect("the wallet's directory");
    member.start();
    for m in 0..quorum.members.len() {
        quorum.wait_connected(m);
    }
    let cost = measured(&quorum, || {
        quorum.members[last].call("repairshare", json!([WALLET]));
    });
    row(&name, "repair (repairshare)", &cost, &without_last);
    for member in &mut quorum.members {
        member.stop();
    }
}
