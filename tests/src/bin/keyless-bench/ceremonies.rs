//! What the ceremonies of a wallet's keys cost: generation, refresh, a member added, a share repaired. Wall time of the
//! call beside the CPU of all machines run one after the other on one thread, shared out over the cores (while every core
//! does that); bytes beside
//! those of the libraries' own key generation, which their own refresh costs too.

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
use crate::floor::{self, Floor};
use crate::library;
use crate::stats::ms;

const WALLET: &str = "w";
const DEADLINE: Duration = Duration::from_secs(120);
/// What a node says whose wallet is gone with its disk, as bitcoind would.
const LOST: &str = "Skipping -wallet path that doesn't exist";
/// Wall time is to be at most so many times the floor.
const AIM: f64 = 1.5;

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

/// Has every core do the same at once, as they do when members work: cores may share what they compute with. Answers with
/// one result, and the mean CPU.
fn on_all_cores<T: Send>(work: impl Fn() -> (T, Floor) + Sync) -> (T, Floor) {
    let mut all: Vec<(T, Floor)> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..cores()).map(|_| scope.spawn(&work)).collect();
        started.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    });
    let cpu = all.iter().map(|(_, floor)| floor.cpu).sum::<Duration>() / cores();
    let (result, floor) = all.swap_remove(0);
    (result, Floor { cpu, ..floor })
}

fn cores() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    u32::try_from(cores).unwrap_or(1)
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

/// One ceremony of one quorum; whether it is within the aim.
fn row(threshold: u8, count: u8, what: &str, cost: &Cost, floor: &Floor, library: &Floor) -> bool {
    let least = floor.cpu / cores();
    let total: Duration = cost.cpu.iter().sum();
    let pairs = u32::from(count) * (u32::from(count) - 1) / 2;
    let ratio = cost.wall.as_secs_f64() / least.as_secs_f64();
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    println!(
        "| {threshold}-of-{count} | {what} | {} | {} | {} | {ratio:.2} | {} | {} | {} | {:.0} | {:.0} | {:.0} |",
        ms(cost.wall),
        ms(total),
        ms(least),
        if ratio <= AIM { "yes" } else { "no" },
        ms(floor.cpu / pairs),
        floor.traffic.messages,
        kib(floor.traffic.bytes),
        kib(floor.traffic.bytes) / f64::from(pairs),
        kib(library.traffic.bytes),
    );
    ratio <= AIM
}

/// Prints the tables; whether all is within the aim.
pub fn run(quorums: &[(u8, u8)]) -> bool {
    println!(
        "| quorum | ceremony | wall ms | CPU of all members ms | floor ms (CPU of all machines ÷ cores) | wall ÷ floor \
         | ≤ {AIM} | CPU of a pair ms | messages | KiB in all | KiB of a pair | KiB of the libraries' own generation |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |");
    let mut libraries = Vec::new();
    let mut within = true;
    for &(threshold, count) in quorums {
        let library = library::generation(threshold, count);
        within &= ceremonies(threshold, count, &library);
        libraries.push((threshold, count, library));
    }
    println!("\n| quorum | the libraries' own generation: CPU of a member ms | messages | KiB in all |");
    println!("| --- | ---: | ---: | ---: |");
    for (threshold, count, Floor { cpu, traffic }) in libraries {
        let (each, kib) = (ms(cpu / u32::from(count)), traffic.bytes as f64 / 1024.0);
        println!("| {threshold}-of-{count} | {each} | {} | {kib:.0} |", traffic.messages);
    }
    within
}

fn ceremonies(threshold: u8, count: u8, library: &Floor) -> bool {
    let (parties, generate) = on_all_cores(|| generation(threshold, count));
    let ((), all) = on_all_cores(|| ((), redealing(&parties, usize::from(count))));
    let ((), without_last) = on_all_cores(|| ((), redealing(&parties, usize::from(count) - 1)));
    let last = usize::from(count) - 1;
    let mut within = true;
    let mut show = |what: &str, cost: &Cost, floor: &Floor| within &= row(threshold, count, what, cost, floor, library);
    let mut quorum = Quorum::start(usize::from(threshold), usize::from(count), Discovery::Static);
    let cost = measured(&quorum, || {
        quorum.members[0].call("createwallet", json!([WALLET]));
    });
    show("generation (createwallet)", &cost, &generate);
    quorum.wait_wallet(WALLET);
    let wallet = quorum.wallet(0, WALLET);
    let cost = measured(&quorum, || {
        wallet.call("refreshshares", json!([]));
    });
    show("refresh (refreshshares)", &cost, &all);
    // The last member leaves, and is added again.
    let ids: Vec<&String> = quorum.peer_ids.iter().collect();
    wallet.call("resharequorum", json!([threshold.min(count - 1), ids[..last]]));
    until_true("the member has left", DEADLINE, || quorum.members[last].call("listwallets", json!([])) == json!([]));
    let mut epoch = Value::Null;
    let cost = measured(&quorum, || epoch = wallet.call("resharequorum", json!([threshold, ids]))["epoch"].clone());
    show("reshare, one member added (resharequorum)", &cost, &without_last);
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
    show("repair (repairshare)", &cost, &without_last);
    for member in &mut quorum.members {
        member.stop_saying(LOST);
    }
    within
}
