//! What callers ask through the handle.

use std::sync::mpsc::SyncSender;

use super::Owner;
use crate::bitcoin::handle::{Command, PeerId, Whom};
use crate::bitcoin::permissions::Subnet;

impl Owner {
    /// Does it and answers.
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Peers(reply) => answer(&reply, self.report()),
            Command::Info(reply) => answer(&reply, self.info()),
            Command::Totals(reply) => answer(&reply, self.totals()),
            Command::AddNode { node, v2, reply } => answer(&reply, self.add_node(&node, v2)),
            Command::RemoveNode { node, reply } => answer(&reply, self.remove_node(&node)),
            Command::AddedNodes(reply) => answer(&reply, self.added_nodes()),
            Command::Connect { node, kind, v2, reply } => {
                answer(&reply, self.has_room(kind) && self.start_dial(&node, kind, v2));
            }
            Command::Disconnect { whom, reply } => answer(&reply, self.disconnect(&whom)),
            Command::PingAll => self.peers.values_mut().for_each(|peer| peer.ping.queued = true),
            Command::SetActive(active) => self.set_active(active),
            Command::Ban { subnet, until, exact, reply } => {
                answer(&reply, self.ban(subnet, until, exact));
            }
            Command::Unban { subnet, reply } => answer(&reply, self.bans.unban(&subnet)),
            Command::Bans(reply) => {
                answer(&reply, self.bans.list(self.chain.now().as_secs()));
            }
            Command::ClearBans(reply) => {
                self.bans.clear();
                answer(&reply, ());
            }
            Command::SendRaw { id, command, payload, reply } => {
                let known = self.peers.contains_key(&id);
                self.with_peer(id, |owner, peer| {
                    owner.send(peer, &command, payload);
                    Ok(())
                });
                answer(&reply, known);
            }
            Command::FetchBlock { id, hash, reply } => {
                answer(&reply, self.fetch_block(id, hash));
            }
            Command::Advance(by) => self.advance(by),
        }
    }

    fn disconnect(&mut self, whom: &Whom) -> bool {
        let chosen: Vec<PeerId> = match whom {
            Whom::Id(id) => self.peers.contains_key(id).then_some(*id).into_iter().collect(),
            Whom::Address(name) => {
                self.peers.values().find(|peer| peer.name == *name).map(|p| p.id).into_iter().collect()
            }
            Whom::Subnet(subnet) => self.covered(subnet),
        };
        let how = match whom {
            Whom::Id(_) => "id",
            Whom::Address(_) => "address match",
            Whom::Subnet(_) => "subnet match",
        };
        for id in &chosen {
            self.with_peer(*id, |_, peer| Err(super::gone(format!("disconnect by {how}, {}", peer.disconnecting()))));
        }
        !chosen.is_empty()
    }

    fn covered(&self, subnet: &Subnet) -> Vec<PeerId> {
        self.peers.values().filter(|p| subnet.contains(p.address.ip())).map(|p| p.id).collect()
    }

    fn ban(&mut self, subnet: Subnet, until: u64, exact: bool) -> bool {
        let now = self.chain.now().as_secs();
        let until = if until == 0 { now + self.config.ban_time.as_secs() } else { until };
        let address = subnet.single_address().filter(|_| !exact);
        let banned = self.bans.ban(subnet.clone(), address, now, until);
        if banned {
            self.disconnect(&Whom::Subnet(subnet));
        }
        banned
    }
}

fn answer<T>(reply: &SyncSender<T>, value: T) {
    // A caller that no longer waits is no error.
    let _ = reply.try_send(value);
}
