//! -quorum: who of a wallet's quorum is there, how far behind, and what is going on, at a glance.

use std::time::{SystemTime, UNIX_EPOCH};

use super::call::{Client, batch_replies, request};
use super::options::Options;
use super::{CliError, Outcome, error_outcome};
use crate::json::Value;

const METHODS: [&str; 5] =
    ["getquoruminfo", "enumeratecosigners", "listsigningsessions", "getwalletinfo", "getblockcount"];
/// A PeerId's end tells it from others as well as the whole does.
const SHORT_ID: usize = 8;

pub fn run(client: &Client<'_>, options: &Options, words: &[String]) -> Result<Outcome, CliError> {
    if !words.is_empty() {
        return Err(CliError::other("-quorum takes no arguments"));
    }
    let requests = METHODS.iter().enumerate().map(|(id, method)| request(method, Value::Null, id.into()));
    let batch = client.call(Value::arr(requests), options.wallet().as_deref())?;
    let replies = batch_replies(&batch, METHODS.len())?;
    if let Some(failed) = replies.iter().map(|reply| reply.member("error")).find(|error| !error.is_null()) {
        return Ok(error_outcome(failed));
    }
    let [quorum, peers, sessions, wallet, height] = &replies[..] else {
        return Err(CliError::other("Batch member id is larger than batch size"));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let view = View {
        quorum: quorum.member("result"),
        peers: peers.member("result").as_arr().unwrap_or_default(),
        sessions: sessions.member("result").as_arr().unwrap_or_default(),
        scanning: wallet.member("result").member("scanning"),
        locked: wallet.member("result").member("unlocked_until").as_i64() == Some(0),
        height: height.member("result").as_i64().unwrap_or(0),
        now: i64::try_from(now).unwrap_or(i64::MAX),
    };
    Ok(Outcome { text: view.text(), code: 0 })
}

/// What the node said.
struct View<'a> {
    quorum: &'a Value,
    peers: &'a [Value],
    sessions: &'a [Value],
    scanning: &'a Value,
    /// This node's share is sealed by a passphrase.
    locked: bool,
    height: i64,
    now: i64,
}

impl View<'_> {
    fn text(&self) -> String {
        let members = self.quorum.member("members").as_arr().unwrap_or_default();
        let able = members.iter().filter(|member| self.is_able(member)).count();
        let threshold = self.quorum.member("threshold").as_i64().unwrap_or(0);
        let verdict = if i64::try_from(able).is_ok_and(|able| able >= threshold) {
            "it can sign"
        } else {
            "too few are there to sign"
        };
        let mut lines = vec![
            format!(
                "Wallet {}: {threshold} of {} members sign, {able} ready: {verdict}",
                self.quorum.member("wallet").val_str(),
                members.len()
            ),
            format!(
                "Epoch {}, fingerprint {}, this node at block {}",
                self.quorum.member("epoch").val_str(),
                self.quorum.member("fingerprint").val_str(),
                self.height
            ),
            String::new(),
            format!(
                "{:>3}  {:<52}  {:<9} {:>9} {:>7} {:>8}  seen",
                "", "member", "state", "block", "behind", "ping ms"
            ),
        ];
        lines.extend(members.iter().map(|member| self.member_line(member)));
        lines.push(String::new());
        lines.extend(self.refuses().map(|why| format!("This node signs nothing: {why}")));
        lines.push(format!("Sessions under way: {}", if self.sessions.is_empty() { "none" } else { "" }).trim().into());
        lines.extend(self.sessions.iter().map(|session| self.session_line(session)));
        if let Some(progress) = self.scanning.member("progress").as_f64() {
            let seconds = self.scanning.member("duration").val_str();
            lines.push(format!("Rescan: {:.1} % after {seconds} s", progress * 100.0));
        }
        lines.join("\n")
    }

    /// Why this node's share signs nothing.
    fn refuses(&self) -> Option<&str> {
        let why = self.quorum.member("refuses");
        (!why.is_null()).then(|| why.val_str())
    }

    fn peer(&self, member: &Value) -> Option<&Value> {
        let id = member.member("peerid").val_str();
        self.peers.iter().find(|peer| peer.member("peerid").val_str() == id)
    }

    fn state(&self, member: &Value) -> &'static str {
        let set = |value: &Value, key: &str| value.member(key).as_bool().unwrap_or(false);
        let banned = self.peer(member).is_some_and(|peer| set(peer, "banned"));
        match (set(member, "suspended"), banned, set(member, "online")) {
            (true, ..) => "suspended",
            (_, true, _) => "excluded",
            _ if self.locked && set(member, "self") => "locked",
            _ if self.refuses().is_some() && set(member, "self") => "refuses",
            (_, _, true) => "online",
            _ => "offline",
        }
    }

    fn is_able(&self, member: &Value) -> bool {
        self.state(member) == "online"
    }

    fn member_line(&self, member: &Value) -> String {
        let own = member.member("self").as_bool().unwrap_or(false);
        let blocks = member.member("blocks").as_i64();
        let behind = blocks.map_or_else(|| "-".to_owned(), |blocks| (self.height - blocks).max(0).to_string());
        let ping = self.peer(member).map(|peer| peer.member("latency_ms")).filter(|ping| !ping.is_null());
        let ping = ping.map_or_else(|| "-".to_owned(), |ping| ping.val_str().to_owned());
        let seen = match (own, member.member("lastseen").as_i64()) {
            (true, _) => "this node".to_owned(),
            (false, Some(seen)) => ago(self.now - seen),
            (false, None) if self.is_able(member) => "now".to_owned(),
            (false, None) => "never".to_owned(),
        };
        format!(
            "{:>3}  {:<52}  {:<9} {:>9} {behind:>7} {ping:>8}  {seen}",
            member.member("index").val_str(),
            member.member("peerid").val_str(),
            self.state(member),
            blocks.map_or_else(|| "-".to_owned(), |blocks| blocks.to_string()),
        )
    }

    fn session_line(&self, session: &Value) -> String {
        let age = session.member("started").as_i64().map_or(0, |started| (self.now - started).max(0));
        let mut line = format!(
            "  {} ({}), {age} s, coordinated by {}",
            session.member("kind").val_str(),
            session.member("state").val_str(),
            short(session.member("coordinator").val_str()),
        );
        let waiting = session.member("waiting_for").as_arr().unwrap_or_default();
        if !waiting.is_empty() {
            let names: Vec<String> = waiting.iter().map(|member| short(member.val_str())).collect();
            line.push_str(&format!(", waits for {}", names.join(", ")));
        }
        let txid = session.member("txid").val_str();
        if !txid.is_empty() {
            line.push_str(&format!(", transaction {txid}"));
        }
        line
    }
}

fn short(id: &str) -> String {
    let start = id.len().saturating_sub(SHORT_ID);
    id.get(start..).map_or_else(|| id.to_owned(), |end| format!("…{end}"))
}

fn ago(seconds: i64) -> String {
    match seconds {
        ..=1 => "now".to_owned(),
        2..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lost_member_a_session_and_a_rescan_are_seen_at_a_glance() {
        let quorum = Value::parse(
            r#"{"wallet":"w","epoch":2,"threshold":2,"fingerprint":"0a0b0c0d","members":[
                {"peerid":"12D3KooWaaaaaaaa","index":1,"self":true,"online":true,"blocks":100,"suspended":false,"lastseen":1000},
                {"peerid":"12D3KooWbbbbbbbb","index":2,"self":false,"online":false,"blocks":97,"suspended":false,"lastseen":700},
                {"peerid":"12D3KooWcccccccc","index":3,"self":false,"online":true,"blocks":100,"suspended":true,"lastseen":1000}]}"#,
        )
        .unwrap();
        let peers = [Value::parse(r#"{"peerid":"12D3KooWbbbbbbbb","latency_ms":0.412,"banned":false}"#).unwrap()];
        let sessions = [Value::parse(
            r#"{"kind":"transaction","state":"signing","coordinator":"12D3KooWaaaaaaaa","started":995,"txid":"ff00",
                "waiting_for":["12D3KooWbbbbbbbb"]}"#,
        )
        .unwrap()];
        let scanning = Value::parse(r#"{"duration":12,"progress":0.345}"#).unwrap();
        let mut view = View {
            quorum: &quorum,
            peers: &peers,
            sessions: &sessions,
            scanning: &scanning,
            locked: false,
            height: 100,
            now: 1000,
        };
        let text = view.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Wallet w: 2 of 3 members sign, 1 ready: too few are there to sign");
        assert!(lines[4].contains("online") && lines[4].ends_with("this node"), "{text}");
        assert!(lines[5].contains("offline") && lines[5].contains(" 3 ") && lines[5].ends_with("5 min ago"), "{text}");
        assert!(lines[6].contains("suspended"), "{text}");
        let session = "  transaction (signing), 5 s, coordinated by …aaaaaaaa, waits for …bbbbbbbb, transaction ff00";
        assert_eq!(lines[8..], ["Sessions under way:", session, "Rescan: 34.5 % after 12 s"]);
        view.locked = true;
        let text = view.text();
        assert!(text.starts_with("Wallet w: 2 of 3 members sign, 0 ready: too few"), "{text}");
        assert!(text.lines().nth(4).unwrap().contains("locked"), "{text}");
    }
}
