//! What a lost co-signer costs the one who sends: the first payment after the loss, later ones, the error when too few
//! are left, and the way back.

use std::time::{Duration, Instant};

use bitcoin::secp256k1::rand::random;
use keyless_tests::RpcClient;
use keyless_tests::wait::until;
use serde_json::json;
use tss_wallet::wallet::keychain::AddressType;

use crate::cpu;
use crate::live::{Live, foreign};
use crate::stats::{Sample, ms};

const ADDRESS_TYPE: AddressType = AddressType::Bech32;
const PAYMENTS: usize = 4;
const BACK_DEADLINE: Duration = Duration::from_secs(30);

/// How a co-signer is lost.
#[derive(Clone, Copy)]
enum Loss {
    /// Its process dies between payments: its connections break.
    Killed,
    /// Its process dies at some moment of a signature.
    KilledWhileSigning,
    /// Its process hangs: its connections stay open, and silent.
    Stopped,
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::KilledWhileSigning => "killed while signing",
            Self::Stopped => "hanging (SIGSTOP)",
        }
    }
}

fn pay(wallet: &RpcClient) -> Duration {
    let start = Instant::now();
    wallet.call("sendtoaddress", json!([foreign(ADDRESS_TYPE), "0.01"]));
    start.elapsed()
}

fn pays(wallet: &RpcClient, count: usize) -> Sample {
    let mut sample = Sample::default();
    (0..count).for_each(|_| sample.add(pay(wallet), Vec::new()));
    sample
}

/// The co-signer that did the most for one payment.
fn partner(live: &Live, wallet: &RpcClient) -> usize {
    let spent = |m: usize| cpu::of_process(live.quorum.members[m].pid());
    let others = 1..live.quorum.members.len();
    let before: Vec<Duration> = others.clone().map(spent).collect();
    pay(wallet);
    others.clone().max_by_key(|m| spent(*m).saturating_sub(before[m - 1])).expect("there are others")
}

fn row(what: &str, sample: &Sample) {
    println!("| {what} | {} | {} | {} | {} |", sample.runs(), ms(sample.median()), ms(sample.p99()), ms(sample.max()));
}

/// Prints the table for a 2-of-3.
pub fn run(rounds: usize) {
    let mut live = Live::start(2, 3);
    live.create_wallets(1);
    let wallet = live.fund(ADDRESS_TYPE);
    println!("| 2-of-3, bech32, sendtoaddress | runs | median ms | p99 ms | most ms |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    row("all members", &pays(&wallet, 2 * PAYMENTS));
    for loss in [Loss::Killed, Loss::KilledWhileSigning, Loss::Stopped] {
        let (mut first, mut later, mut back) = (Sample::default(), Sample::default(), Sample::default());
        for _ in 0..rounds {
            live.mine(1, &foreign(ADDRESS_TYPE));
            let lost = partner(&live, &wallet);
            first.add(lose(&mut live, &wallet, lost, loss), Vec::new());
            for _ in 0..PAYMENTS {
                later.add(pay(&wallet), Vec::new());
            }
            back.add(bring_back(&mut live, lost, loss), Vec::new());
        }
        let which =
            if matches!(loss, Loss::KilledWhileSigning) { "that payment" } else { "the first payment after it" };
        row(&format!("one {}: {which}", loss.name()), &first);
        row(&format!("one {}: later payments", loss.name()), &later);
        row(&format!("one {}: until it is online again", loss.name()), &back);
    }
    too_few(&mut live, &wallet, rounds);
    live.stop();
}

/// Loses one member; answers with what the payment took that was first to notice.
fn lose(live: &mut Live, wallet: &RpcClient, lost: usize, loss: Loss) -> Duration {
    let member = &mut live.quorum.members[lost];
    match loss {
        Loss::Killed => member.kill9(),
        Loss::Stopped => member.signal(libc::SIGSTOP),
        Loss::KilledWhileSigning => {
            let wallet = wallet.clone();
            let paying = std::thread::spawn(move || pay(&wallet));
            std::thread::sleep(Duration::from_micros(u64::from(random::<u16>() % 20_000)));
            member.kill9();
            return paying.join().expect("the payment succeeds");
        }
    }
    pay(wallet)
}

fn bring_back(live: &mut Live, lost: usize, loss: Loss) -> Duration {
    match loss {
        Loss::Stopped => live.quorum.members[lost].signal(libc::SIGCONT),
        Loss::Killed | Loss::KilledWhileSigning => live.quorum.members[lost].start(),
    }
    let start = Instant::now();
    live.quorum.wait_connected(0);
    live.quorum.sync_blocks();
    start.elapsed()
}

/// Two of three are gone: the error, and the first payment that works again once one of them was started.
fn too_few(live: &mut Live, wallet: &RpcClient, rounds: usize) {
    let (mut error, mut back) = (Sample::default(), Sample::default());
    for _ in 0..rounds {
        live.mine(1, &foreign(ADDRESS_TYPE));
        live.quorum.members[1].kill9();
        live.quorum.members[2].kill9();
        let start = Instant::now();
        let failure = wallet.fail("sendtoaddress", json!([foreign(ADDRESS_TYPE), "0.01"]));
        error.add(start.elapsed(), Vec::new());
        for lost in [1, 2] {
            assert!(failure.message.contains(&live.quorum.peer_ids[lost]), "{failure} names who is missing");
        }
        assert_eq!(wallet.call("listlockunspent", json!([])), json!([]), "no coin is locked");
        live.quorum.members[1].start();
        let start = Instant::now();
        until("payments work again", BACK_DEADLINE, || {
            wallet.try_call("sendtoaddress", json!([foreign(ADDRESS_TYPE), "0.01"])).ok()
        });
        back.add(start.elapsed(), Vec::new());
        live.quorum.members[2].start();
        live.quorum.wait_connected(0);
        live.quorum.sync_blocks();
    }
    row("two killed: the error that names them", &error);
    row("one of them started: until a payment works", &back);
}
