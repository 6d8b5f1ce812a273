//! What can happen to a wallet's shares: each step says whether it is possible now, and does it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bitcoin::secp256k1::rand::Rng;
use bitcoin::secp256k1::rand::seq::SliceRandom;
use serde_json::{Value, json};

use super::{Backup, LOST, Life, WALLET};
use crate::rpc::RpcClient;

/// One kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A member goes away: stopped, or killed.
    Down,
    /// A member comes back.
    Up,
    Refresh,
    /// Members added or removed, the threshold changed.
    Reshare,
    /// A member's disk is lost; its share is repaired.
    Lose,
    BackUp,
    /// A disk is lost and restored from a backup, which may be of an older epoch and is refused then.
    Restore,
    /// A member is suspended by another one, and resumed after a payment without it.
    Suspend,
    /// A member deletes its share.
    Leave,
    /// A member is killed in the middle of a ceremony.
    KilledInRefresh,
    KilledInReshare,
    KilledInRepair,
}

impl Step {
    pub const ALL: [Self; 12] = [
        Self::Down,
        Self::Up,
        Self::Refresh,
        Self::Reshare,
        Self::Lose,
        Self::BackUp,
        Self::Restore,
        Self::Suspend,
        Self::Leave,
        Self::KilledInRefresh,
        Self::KilledInReshare,
        Self::KilledInRepair,
    ];
}

/// What a reshare asks for.
struct Plan {
    threshold: usize,
    members: Vec<usize>,
}

impl Life {
    /// Does the step if it is possible now.
    pub(super) fn try_step(&mut self, step: Step) -> bool {
        let holders = self.holders();
        // 2t > n, so t members are more than half too.
        let enough = holders.len() >= self.threshold;
        match step {
            Step::Down => self.down(),
            Step::Up => self.up(),
            Step::Refresh => enough && self.refresh(&holders),
            Step::Reshare => enough && self.reshare(&holders),
            Step::Lose => self.lose(&holders),
            Step::BackUp => self.back_up(&holders),
            Step::Restore => self.restore(&holders),
            Step::Suspend => self.suspend(&holders),
            Step::Leave => enough && self.leave(&holders),
            Step::KilledInRefresh => enough && self.killed(&holders, None),
            Step::KilledInReshare => {
                let Some(plan) = enough.then(|| self.plan(&holders)).flatten() else { return false };
                self.killed(&holders, Some(plan))
            }
            Step::KilledInRepair => enough && self.killed_in_repair(&holders),
        }
    }

    fn down(&mut self) -> bool {
        let running = self.running();
        if running.len() <= self.threshold {
            return false;
        }
        let Some(m) = self.pick(&running) else { return false };
        if self.rng.gen_bool(0.5) {
            self.note(&format!("member {m} is stopped"));
            self.quorum.members[m].stop_saying(LOST);
        } else {
            self.note(&format!("member {m} is killed"));
            self.quorum.members[m].kill9();
        }
        true
    }

    fn up(&mut self) -> bool {
        let away: Vec<usize> =
            (0..self.quorum.members.len()).filter(|m| !self.quorum.members[*m].is_running()).collect();
        let Some(m) = self.pick(&away) else { return false };
        self.note(&format!("node {m} comes back"));
        self.start(m);
        true
    }

    fn refresh(&mut self, holders: &[usize]) -> bool {
        let Some(m) = self.pick(holders) else { return false };
        let before = self.epoch();
        self.note(&format!("refresh at {m}, with {} of {} there", self.running().len(), self.roster.len()));
        let done = self.ceremony(m, "refreshshares", json!([]));
        assert!(done["epoch"].as_u64() > Some(before), "{done}");
        true
    }

    fn plan(&mut self, holders: &[usize]) -> Option<Plan> {
        let spares: Vec<usize> = (0..self.quorum.members.len())
            .filter(|m| !self.roster.contains(m) && self.quorum.members[*m].is_running())
            .collect();
        let mut members = self.roster.clone();
        if self.rng.gen_bool(0.5)
            && let Some(gone) = self.pick(&Vec::from_iter(self.roster.iter().copied()))
        {
            members.remove(&gone);
        }
        if self.rng.gen_bool(0.6)
            && let Some(new) = self.pick(&spares)
        {
            members.insert(new);
        }
        let n = members.len();
        let least = (n / 2 + 1).max(2);
        if n < 2 || least > n {
            return None;
        }
        let threshold = self.rng.gen_range(least..=n.min(least + 1));
        // Members of the old roster may be away; those with a share and the new ones must make the new threshold.
        let there = members.iter().filter(|m| self.quorum.members[**m].is_running()).count();
        let coordinator = holders.iter().any(|m| members.contains(m));
        (there >= threshold && coordinator).then(|| Plan { threshold, members: members.into_iter().collect() })
    }

    fn params(&self, plan: &Plan) -> Value {
        let ids: Vec<&String> = plan.members.iter().map(|m| &self.quorum.peer_ids[*m]).collect();
        json!([plan.threshold, ids])
    }

    fn adopt(&mut self, plan: &Plan) {
        self.threshold = plan.threshold;
        self.roster = plan.members.iter().copied().collect();
        // A backup of another roster's epoch is of no use to whoever left.
        let roster = self.roster.clone();
        self.backups.retain(|backup| roster.contains(&backup.of));
    }

    fn reshare(&mut self, holders: &[usize]) -> bool {
        let Some(plan) = self.plan(holders) else { return false };
        let Some(m) = self.pick(holders) else { return false };
        self.note(&format!("reshare at {m}: {} of {:?}, before {:?}", plan.threshold, plan.members, self.roster));
        self.ceremony(m, "resharequorum", self.params(&plan));
        self.adopt(&plan);
        true
    }

    /// The wallet's directory of a member is gone.
    fn wipe(&mut self, m: usize) {
        if self.quorum.members[m].is_running() {
            self.quorum.members[m].kill9();
        }
        std::fs::remove_dir_all(self.wallet_dir(m)).expect("the wallet's directory");
        self.start(m);
    }

    fn lose(&mut self, holders: &[usize]) -> bool {
        let Some(m) = self.pick(&self.running()) else { return false };
        if holders.iter().filter(|other| **other != m).count() < self.threshold {
            return false;
        }
        self.note(&format!("member {m} loses its disk, and is repaired"));
        self.wipe(m);
        let done = self.ceremony(m, "repairshare", json!([WALLET]));
        assert!(done["helpers"].as_array().is_some_and(|helpers| helpers.len() + 1 >= self.threshold), "{done}");
        true
    }

    fn back_up(&mut self, holders: &[usize]) -> bool {
        let Some(of) = self.pick(holders) else { return false };
        let epoch = self.epoch();
        let file = self.kept.path().join(format!("backup-{}", self.backups.len()));
        self.wallet(of).call("backupwallet", json!([file]));
        let checked = self.quorum.members[of].call("verifysharebackup", json!([file]));
        assert_eq!(checked["valid"], json!(true), "{checked}");
        assert_eq!(checked["epoch"], json!(epoch));
        self.note(&format!("backup of member {of} in epoch {epoch}"));
        self.backups.push(Backup { of, epoch, file });
        true
    }

    fn restore(&mut self, holders: &[usize]) -> bool {
        let Some(position) = (!self.backups.is_empty()).then(|| self.rng.gen_range(0..self.backups.len())) else {
            return false;
        };
        let Backup { of, epoch, .. } = self.backups[position];
        let others = holders.iter().filter(|other| **other != of).count();
        if others < self.threshold {
            return false;
        }
        let file = self.backups[position].file.clone();
        let present = self.epoch();
        self.note(&format!("member {of} loses its disk, and restores its backup of epoch {epoch}; now is {present}"));
        self.wipe(of);
        let restored = self.quorum.members[of].rpc().try_call("restorewallet", json!([WALLET, file]));
        if epoch == present {
            restored.expect("a backup of the present epoch is restored");
        } else {
            let error = restored.expect_err("a backup of an older epoch is refused while a newer quorum lives");
            assert!(error.message.contains(&format!("it is of epoch {epoch}")), "{error}");
            self.ceremony(of, "repairshare", json!([WALLET]));
        }
        true
    }

    fn suspend(&mut self, holders: &[usize]) -> bool {
        if holders.len() <= self.threshold {
            return false;
        }
        let mut order = holders.to_vec();
        order.shuffle(&mut self.rng);
        let (by, whom) = (order[0], order[1]);
        self.note(&format!("member {by} suspends {whom}, pays, and resumes it"));
        let peer = self.quorum.peer_ids[whom].clone();
        self.wallet(by).call("suspendcosigner", json!([peer, "random step"]));
        self.send(by);
        self.wallet(by).call("resumecosigner", json!([peer]));
        true
    }

    fn leave(&mut self, holders: &[usize]) -> bool {
        if self.roster.len() <= self.threshold || self.roster.len() <= 3 {
            return false;
        }
        let Some(m) = self.pick(holders) else { return false };
        let left = self.running().len() - 1;
        if left < self.threshold {
            return false;
        }
        self.note(&format!("member {m} deletes its share"));
        self.quorum.members[m].call("deleteshare", json!([WALLET, WALLET]));
        self.roster.remove(&m);
        self.backups.retain(|backup| backup.of != m);
        true
    }

    /// A member dies in the middle of a refresh or a reshare, and comes back.
    fn killed(&mut self, holders: &[usize], plan: Option<Plan>) -> bool {
        let Some(coordinator) = self.pick(holders) else { return false };
        let mut all = self.running();
        all.extend(plan.iter().flat_map(|plan| plan.members.iter().copied()));
        all.retain(|m| self.quorum.members[*m].is_running());
        let Some(victim) = self.pick(&all) else { return false };
        let (method, params) = match &plan {
            None => ("refreshshares", json!([])),
            Some(plan) => ("resharequorum", self.params(plan)),
        };
        self.kill_while(victim, self.wallet(coordinator), method, params);
        if let Some(plan) = plan {
            self.settle_roster(plan);
        }
        true
    }

    /// Kills a node at a random moment of a call, and starts it again.
    pub(super) fn kill_while(&mut self, victim: usize, client: RpcClient, method: &'static str, params: Value) {
        let delay = Duration::from_millis(self.rng.gen_range(0..self.moments_ms));
        self.note(&format!("{method}: node {victim} is killed after {delay:?}"));
        let started = Instant::now();
        let running = std::thread::spawn(move || {
            let outcome = client.try_call(method, params);
            (outcome, started.elapsed())
        });
        std::thread::sleep(delay);
        self.quorum.members[victim].kill9();
        let (outcome, took) = running.join().expect("the call ends");
        match outcome {
            // The moments of the next one are those of a ceremony that went through.
            Ok(_) => self.moments_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX) + 300,
            Err(error) => self.note(&format!("{method}: {error}")),
        }
        self.start(victim);
    }

    /// A member loses its disk; somebody is killed while its share is repaired.
    fn killed_in_repair(&mut self, holders: &[usize]) -> bool {
        let running = self.running();
        let Some(lost) = self.pick(&running) else { return false };
        if holders.iter().filter(|other| **other != lost).count() < self.threshold {
            return false;
        }
        let Some(victim) = self.pick(&running) else { return false };
        self.wipe(lost);
        self.kill_while(victim, self.quorum.members[lost].rpc(), "repairshare", json!([WALLET]));
        let back = || self.epoch_of(lost).is_some();
        let deadline = Instant::now() + Duration::from_secs(15);
        while !back() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(250));
        }
        if !back() {
            self.ceremony(lost, "repairshare", json!([WALLET]));
        }
        true
    }

    /// Kills somebody at a random moment of a ceremony; the members agree afterwards, and sign.
    pub fn kill_in(&mut self, ceremony: Step) {
        loop {
            let holders = self.holders();
            let done = match ceremony {
                Step::KilledInRepair => self.killed_in_repair(&holders),
                other => self.try_step(other),
            };
            if done {
                break;
            }
            // With n = t nothing can be repaired: other members, or another threshold.
            if !self.try_step(Step::Up) {
                self.try_step(Step::Reshare);
            }
            self.settle();
        }
        let before = Instant::now();
        self.settle();
        self.slowest = self.slowest.max(before.elapsed());
        self.check();
    }

    /// Finds out which of two rosters is in force after a ceremony that may have failed.
    fn settle_roster(&mut self, plan: Plan) {
        let old = (self.threshold, self.roster.clone());
        let both: Vec<usize> = plan.members.iter().copied().filter(|m| old.1.contains(m)).collect();
        let deadline = Instant::now() + super::SETTLED;
        loop {
            let mut rosters = Vec::new();
            for m in both.iter().filter(|m| self.quorum.members[**m].is_running()) {
                let Ok(info) = self.info(*m) else { continue };
                let members: Vec<usize> = info["members"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|member| {
                        self.quorum
                            .peer_ids
                            .iter()
                            .position(|id| json!(id) == member["peerid"])
                            .expect("a known member")
                    })
                    .collect();
                rosters.push((
                    info["threshold"].as_u64().expect("a number"),
                    members.into_iter().collect::<BTreeSet<_>>(),
                ));
            }
            if let Some(first) = rosters.first()
                && rosters.iter().all(|other| other == first)
                && rosters.len() == both.iter().filter(|m| self.quorum.members[**m].is_running()).count()
            {
                let new: BTreeSet<usize> = plan.members.iter().copied().collect();
                if first.1 == new && first.0 == plan.threshold as u64 {
                    self.note("the reshare is in force");
                    self.adopt(&plan);
                } else {
                    assert_eq!((first.0, &first.1), (old.0 as u64, &old.1));
                    self.note("the reshare is void");
                }
                return;
            }
            assert!(Instant::now() < deadline, "the members do not agree on the roster: {rosters:?}");
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}
