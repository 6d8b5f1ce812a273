//! Measures what the project promises about speed, with real processes on loopback. Prints tables in Markdown. Where an
//! aim is missed beside bitcoind, or a policy costs too much, the exit code says so.
//!
//! `keyless-bench signing [--short] [2-of-3] [3-of-5]`, `keyless-bench losses [--short]`,
//! `keyless-bench wallet [--short]`, `keyless-bench ceremonies [2-of-3] [3-of-5] [5-of-9] [7-of-10]`,
//! `keyless-bench node [--short]`
#![allow(clippy::unwrap_used, clippy::panic)]

mod ceremonies;
mod cpu;
mod crowd;
mod floor;
mod library;
mod live;
mod losses;
mod node;
mod stats;
mod wallet;

use std::process::ExitCode;
use std::time::Duration;

use tss_wallet::wallet::keychain::AddressType;

use crate::live::{Live, type_name};
use crate::stats::{Sample, ms};

const USAGE: &str = "usage: keyless-bench signing [--short] [2-of-3] [3-of-5]\n       keyless-bench losses [--short]\n       \
                     keyless-bench wallet [--short]\n       \
                     keyless-bench ceremonies [2-of-3] [3-of-5] [5-of-9] [7-of-10]\n       \
                     keyless-bench node [--short]";
const HUNDRED: u32 = 100;
/// Per cent that a policy may cost, with no operator asked.
const MAX_GROWTH: f64 = 10.0;
const SCHEMES: [AddressType; 2] = [AddressType::Bech32m, AddressType::Bech32];

struct Runs {
    wallets: usize,
    sends: usize,
    hundreds: usize,
    floor: u32,
    losses: usize,
}

const FULL: Runs = Runs { wallets: 7, sends: 100, hundreds: 15, floor: 5, losses: 5 };
const SHORT: Runs = Runs { wallets: 3, sends: 12, hundreds: 3, floor: 2, losses: 2 };

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.split_first() {
        Some((&"signing", rest)) => signing_command(rest),
        Some((&"ceremonies", rest)) => ceremonies_command(rest),
        Some((&"losses", [])) => losses_command(FULL.losses),
        Some((&"losses", ["--short"])) => losses_command(SHORT.losses),
        Some((&"wallet", [])) => wallet_command(&wallet::FULL),
        Some((&"wallet", ["--short"])) => wallet_command(&wallet::SHORT),
        Some((&"node", [])) => node_command(&node::FULL),
        Some((&"node", ["--short"])) => node_command(&node::SHORT),
        _ => usage(),
    }
}

fn wallet_command(runs: &wallet::Runs) -> ExitCode {
    println!("{}", machine());
    wallet::run(runs);
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::FAILURE
}

fn ceremonies_command(args: &[&str]) -> ExitCode {
    let all = [("2-of-3", (2, 3)), ("3-of-5", (3, 5)), ("5-of-9", (5, 9)), ("7-of-10", (7, 10))];
    if args.iter().any(|arg| all.iter().all(|(name, _)| name != arg)) {
        return usage();
    }
    let wanted = all.iter().filter(|(name, _)| args.is_empty() || args.contains(name));
    println!("{}", machine());
    let within = ceremonies::run(&wanted.map(|(_, quorum)| *quorum).collect::<Vec<_>>());
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn losses_command(rounds: usize) -> ExitCode {
    println!("{}", machine());
    losses::run(rounds);
    ExitCode::SUCCESS
}

fn node_command(scale: &node::Scale) -> ExitCode {
    println!("{}", machine());
    if node::run(scale) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn signing_command(args: &[&str]) -> ExitCode {
    let mut runs = &FULL;
    let mut quorums = Vec::new();
    for arg in args {
        match *arg {
            "--short" => runs = &SHORT,
            "2-of-3" => quorums.push((2, 3)),
            "3-of-5" => quorums.push((3, 5)),
            _ => return usage(),
        }
    }
    if quorums.is_empty() {
        quorums = vec![(2, 3), (3, 5)];
    }
    println!("{}", machine());
    println!(
        "| quorum | operation | runs | median ms | p99 ms | CPU of each member ms | floor ms | wall ÷ floor \
         | libsecp256k1 ms | ratio |"
    );
    println!("| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |");
    let mut grown = Vec::new();
    for (threshold, count) in quorums {
        grown.extend(signing(threshold, count, runs));
    }
    println!();
    for (operation, growth) in &grown {
        println!(
            "{operation}: {growth:+.1} % with a policy, lower quartiles compared (aim: {MAX_GROWTH:+.0} % at most)"
        );
    }
    if grown.iter().all(|(_, growth)| *growth <= MAX_GROWTH) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What else the machine does decides what figures are worth.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    format!("{cores} cores, load averages before: {}\n", load.join(" "))
}

/// Gives by how many per cent a policy makes a payment slower, for each type of address.
fn signing(threshold: u8, count: u8, runs: &Runs) -> Vec<(String, f64)> {
    let mut grown = Vec::new();
    let quorum = format!("{threshold}-of-{count}");
    let shares = floor::generate(threshold, count);
    let mut live = Live::start(usize::from(threshold), usize::from(count));
    row(&quorum, "createwallet", &live.create_wallets(runs.wallets), None);
    for address_type in SCHEMES {
        let name = type_name(address_type);
        let wallet = live.fund(address_type);
        let least = |inputs, times| {
            (floor::signing(&shares, address_type, inputs, times), floor::libsecp256k1(address_type, inputs))
        };
        let sample = live.sends(&wallet, address_type, runs.sends);
        row(&quorum, &format!("{name}, sendtoaddress, 1 input"), &sample, Some(least(1, runs.floor * 4)));
        let [open, guarded] = live.guarded(&wallet, address_type, runs.sends);
        row(&quorum, &format!("{name}, the same, in turns with the next"), &open, None);
        row(&quorum, &format!("{name}, the same, with a policy"), &guarded, None);
        let growth = guarded.quartile().as_secs_f64() / open.quartile().as_secs_f64() - 1.0;
        grown.push((format!("{quorum}, {name}, sendtoaddress"), 100.0 * growth));
        let sample = live.hundred_inputs(&wallet, address_type, runs.hundreds);
        let operation = format!("{name}, signrawtransactionwithwallet, 100 inputs");
        row(&quorum, &operation, &sample, Some(least(HUNDRED, runs.floor)));
    }
    live.stop();
    grown
}

fn row(quorum: &str, operation: &str, sample: &Sample, least: Option<(Duration, Duration)>) {
    let median = sample.median();
    let cpu: Vec<String> = sample.cpu().into_iter().map(ms).collect();
    let over = |base: Duration| median.as_secs_f64() / base.as_secs_f64();
    let compared = match least {
        Some((floor, single)) => {
            format!("{} | {:.2} | {} | {:.0}", ms(floor), over(floor), ms(single), over(single))
        }
        None => "- | - | - | -".to_owned(),
    };
    let (runs, p99, cpu) = (sample.runs(), ms(sample.p99()), cpu.join(" "));
    println!("| {quorum} | {operation} | {runs} | {} | {p99} | {cpu} | {compared} |", ms(median));
}
