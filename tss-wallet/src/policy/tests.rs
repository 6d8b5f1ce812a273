#![allow(clippy::unwrap_used, clippy::panic)]
use std::collections::BTreeSet;

use bitcoin::hashes::Hash;

use super::*;

const HOUR: u64 = 3_600;
const NOW: u64 = 1_000_000;

fn coin(number: u8) -> OutPoint {
    OutPoint::new(Txid::from_byte_array([number; 32]), 0)
}

fn script(number: u8) -> ScriptBuf {
    ScriptBuf::new_p2wpkh(&bitcoin::WPubkeyHash::from_byte_array([number; 20]))
}

fn spend(coins: &[u8], to: u8, sat: u64) -> Spend {
    Spend {
        txid: Txid::from_byte_array([to; 32]),
        inputs: coins.iter().map(|number| coin(*number)).collect(),
        recipients: vec![(script(to), Amount::from_sat(sat))],
        fee: Some(Amount::from_sat(200)),
        vsize: Some(100),
        odd_sighash: None,
        unknown_prevout: None,
    }
}

fn facts(request: u8, spend: Spend) -> Facts {
    Facts {
        request: [request; 32],
        coordinator: MemberId([1; 32]),
        subject: Subject::Transaction(spend),
        block_time: Some(NOW),
        tip_age_seconds: Some(60),
        time_of_day: Some(12 * 3_600),
    }
}

fn rule(name: &str, conditions: Conditions, action: Action) -> Rule {
    Rule { name: name.to_owned(), conditions, action }
}

/// Strict guards, and a rule that signs all that passes them.
fn open() -> Policy {
    Policy { rules: vec![rule("all", Conditions::default(), Action::Sign)], ..Policy::strict() }
}

fn denial(policy: &Policy, facts: &Facts, book: &SpendBook) -> Denial {
    match policy.judge(facts, book) {
        Verdict::Refuse(denial) => denial,
        other => panic!("not refused: {other:?}"),
    }
}

fn signs(policy: &Policy, facts: &Facts, book: &SpendBook) -> bool {
    matches!(policy.judge(facts, book), Verdict::Sign { .. })
}

fn reserve(book: &mut SpendBook, facts: &Facts) {
    book.insert(facts.request, Reservation::of(facts).unwrap());
}

#[test]
fn without_rules_nothing_is_signed_and_only_regtest_has_a_default() {
    let request = facts(1, spend(&[1], 1, 1_000));
    assert_eq!(denial(&Policy::strict(), &request, &SpendBook::default()), Denial::NoRule);
    for network in [Network::Bitcoin, Network::Testnet, Network::Testnet4, Network::Signet] {
        assert_eq!(Policy::default_of(network), None);
    }
    assert!(signs(&Policy::default_of(Network::Regtest).unwrap(), &request, &SpendBook::default()));
}

#[test]
fn the_fee_caps_bind_at_their_figure() {
    let empty = SpendBook::default();
    let with = |fee: u64, vsize: u64| {
        facts(1, Spend { fee: Some(Amount::from_sat(fee)), vsize: Some(vsize), ..spend(&[1], 1, 1_000) })
    };
    let policy = Policy { max_fee: Some(Amount::from_sat(500)), max_fee_rate_sat_kvb: None, ..open() };
    assert!(signs(&policy, &with(500, 1), &empty));
    assert_eq!(denial(&policy, &with(501, 1), &empty), Denial::Fee { fee: 501, cap: 500 });
    let policy = Policy { max_fee: None, max_fee_rate_sat_kvb: Some(2_000), ..open() };
    assert!(signs(&policy, &with(200, 100), &empty));
    assert_eq!(denial(&policy, &with(201, 100), &empty), Denial::FeeRate { rate: 2_010, cap: 2_000 });
    let regtest = Policy::default_of(Network::Regtest).unwrap();
    let above = with(REGTEST_MAX_FEE.to_sat() + 1, 100);
    assert!(matches!(denial(&regtest, &above, &empty), Denial::Fee { .. }));
}

#[test]
fn what_is_not_known_denies() {
    let empty = SpendBook::default();
    let missing = |what: &str| Denial::Missing { what: what.to_owned() };
    let no_fee = facts(1, Spend { fee: None, ..spend(&[1], 1, 1_000) });
    assert_eq!(denial(&open(), &no_fee, &empty), missing("the fee"));
    for vsize in [None, Some(0)] {
        let no_size = facts(1, Spend { vsize, ..spend(&[1], 1, 1_000) });
        assert_eq!(denial(&open(), &no_size, &empty), missing("the size of the transaction"));
    }
    let limit = Limit { amount: Amount::ONE_BTC, window_seconds: HOUR };
    let limited = Policy { limits: vec![limit], ..open() };
    let no_time = Facts { block_time: None, ..facts(1, spend(&[1], 1, 1_000)) };
    assert_eq!(denial(&limited, &no_time, &empty), missing("the time of the last block"));
    let uncapped = Policy { max_fee: None, max_fee_rate_sat_kvb: None, ..limited.clone() };
    assert_eq!(denial(&uncapped, &no_fee, &empty), missing("the fee"));
    // In a rule it denies too: the next rule is not tried.
    let hours = Conditions { hours: Some(Hours { from_minute: 0, to_minute: 60 }), ..Conditions::default() };
    let rules = vec![rule("night", hours, Action::Ask), rule("all", Conditions::default(), Action::Sign)];
    let no_clock = Facts { time_of_day: None, ..facts(1, spend(&[1], 1, 1_000)) };
    assert_eq!(denial(&Policy { rules, ..open() }, &no_clock, &empty), missing("the time of day"));
    let in_rule = Conditions { limit: Some(limit), ..Conditions::default() };
    let rules = vec![rule("little", in_rule, Action::Sign), rule("all", Conditions::default(), Action::Sign)];
    assert_eq!(denial(&Policy { rules, ..open() }, &no_time, &empty), missing("the time of the last block"));
}

#[test]
fn unknown_coins_and_odd_sighash_types_are_for_those_who_allow_them() {
    let empty = SpendBook::default();
    let unknown = facts(1, Spend { unknown_prevout: Some(3), fee: None, ..spend(&[1], 1, 1_000) });
    assert_eq!(denial(&open(), &unknown, &empty), Denial::UnknownPrevout(3));
    assert!(signs(&Policy { unknown_prevouts: true, ..open() }, &unknown, &empty));
    let odd = facts(1, Spend { odd_sighash: Some(2), ..spend(&[1], 1, 1_000) });
    assert_eq!(denial(&open(), &odd, &empty), Denial::Sighash(2));
    assert!(signs(&Policy { any_sighash: true, ..open() }, &odd, &empty));
}

#[test]
fn messages_need_leave_and_a_rule_without_conditions_on_payments() {
    let empty = SpendBook::default();
    let message = Facts { subject: Subject::Message, ..facts(1, spend(&[], 1, 0)) };
    assert_eq!(denial(&open(), &message, &empty), Denial::Messages);
    let policy = Policy { messages: true, ..open() };
    assert!(signs(&policy, &message, &empty));
    let conditions = [
        Conditions { max_amount: Some(Amount::MAX), ..Conditions::default() },
        Conditions { recipients: Some(Vec::new()), ..Conditions::default() },
        Conditions { limit: Some(Limit { amount: Amount::MAX, window_seconds: HOUR }), ..Conditions::default() },
    ];
    for conditions in conditions {
        let policy = Policy { messages: true, rules: vec![rule("pay", conditions, Action::Sign)], ..open() };
        assert_eq!(denial(&policy, &message, &empty), Denial::NoRule);
    }
}

#[test]
fn an_old_tip_and_initial_download_deny() {
    let empty = SpendBook::default();
    let policy = Policy { max_tip_age_seconds: Some(60), ..open() };
    let at = |age| Facts { tip_age_seconds: age, ..facts(1, spend(&[1], 1, 1_000)) };
    assert!(signs(&policy, &at(Some(60)), &empty));
    assert_eq!(denial(&policy, &at(Some(61)), &empty), Denial::NotCurrent);
    assert_eq!(denial(&policy, &at(None), &empty), Denial::NotCurrent);
    assert!(signs(&Policy { max_tip_age_seconds: None, ..policy }, &at(None), &empty));
}

#[test]
fn the_first_rule_that_fits_decides() {
    let empty = SpendBook::default();
    let upto = |sat| Conditions { max_amount: Some(Amount::from_sat(sat)), ..Conditions::default() };
    let rules = vec![
        rule("small", upto(1_000), Action::Sign),
        rule("middle", upto(5_000), Action::Ask),
        rule("rest", Conditions::default(), Action::Refuse),
    ];
    let policy = Policy { rules, ..open() };
    let judge = |sat| policy.judge(&facts(1, spend(&[1], 1, sat)), &empty);
    assert_eq!(judge(1_000), Verdict::Sign { rule: "small".to_owned() });
    assert_eq!(judge(1_001), Verdict::Ask { rule: "middle".to_owned() });
    assert_eq!(judge(5_001), Verdict::Refuse(Denial::Rule("rest".to_owned())));
}

#[test]
fn coordinators_hours_and_recipients_are_conditions() {
    let empty = SpendBook::default();
    let with = |conditions| Policy { rules: vec![rule("only", conditions, Action::Sign)], ..open() };
    let request = facts(1, spend(&[1], 7, 1_000));

    let policy = with(Conditions { coordinators: Some(BTreeSet::from([MemberId([1; 32])])), ..Conditions::default() });
    assert!(signs(&policy, &request, &empty));
    assert!(!signs(&policy, &Facts { coordinator: MemberId([2; 32]), ..request.clone() }, &empty));

    let at = |hours: (u16, u16), minute: u32| {
        let hours = Hours { from_minute: hours.0, to_minute: hours.1 };
        let policy = with(Conditions { hours: Some(hours), ..Conditions::default() });
        signs(&policy, &Facts { time_of_day: Some(minute * 60 + 59), ..request.clone() }, &empty)
    };
    assert!(at((540, 1_020), 540) && at((540, 1_020), 1_019));
    assert!(!at((540, 1_020), 539) && !at((540, 1_020), 1_020));
    assert!(at((1_320, 360), 1_320) && at((1_320, 360), 0) && at((1_320, 360), 359));
    assert!(!at((1_320, 360), 360) && !at((1_320, 360), 1_319));

    let address = bitcoin::Address::from_script(&script(7), Network::Regtest).unwrap().to_string();
    let allowed = vec![Destination::parse(&address, Network::Regtest).unwrap()];
    let policy = with(Conditions { recipients: Some(allowed), ..Conditions::default() });
    assert!(signs(&policy, &request, &empty));
    let mut two = spend(&[1], 7, 1_000);
    two.recipients.push((script(8), Amount::from_sat(1)));
    assert!(!signs(&policy, &facts(1, two), &empty));
}

#[test]
fn an_allow_list_takes_addresses_of_the_network_and_descriptors() {
    let xpub = "tpubD6NzVbkrYhZ4WaWSyoBvQwbpLkojyoTZPRsgXELWz3Popb3qkjcJyJUGLnL4qHHoQvao8ESaAstxYSnhyswJ76uZPStJRJCTKvosUCJZL5B";
    let ranged = Destination::parse(&format!("wpkh({xpub}/0/*)"), Network::Regtest).unwrap();
    let descriptor: miniscript::Descriptor<miniscript::DescriptorPublicKey> =
        format!("wpkh({xpub}/0/*)").parse().unwrap();
    let policy = |to: Destination| Policy {
        rules: vec![rule("to", Conditions { recipients: Some(vec![to]), ..Conditions::default() }, Action::Sign)],
        ..open()
    };
    for (index, fits) in [(0, true), (999, true), (1_000, false)] {
        let script = descriptor.at_derivation_index(index).unwrap().script_pubkey();
        let mut paid = spend(&[1], 1, 1_000);
        paid.recipients = vec![(script, Amount::from_sat(1_000))];
        assert_eq!(signs(&policy(ranged.clone()), &facts(1, paid), &SpendBook::default()), fits, "{index}");
    }
    assert!(matches!(
        Destination::parse("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", Network::Regtest),
        Err(DestinationError::Neither(_))
    ));
    assert!(matches!(
        Destination::parse(&format!("wpkh({xpub}/0'/*)"), Network::Regtest),
        Err(DestinationError::Hardened(_) | DestinationError::Neither(_))
    ));
}

#[test]
fn a_rolling_limit_counts_fees_and_forgets_after_its_window() {
    let limit = Limit { amount: Amount::from_sat(3_000), window_seconds: HOUR };
    let policy = Policy { limits: vec![limit], ..open() };
    let mut book = SpendBook::default();
    let first = facts(1, spend(&[1], 1, 1_300));
    assert!(signs(&policy, &first, &book));
    reserve(&mut book, &first);
    assert!(signs(&policy, &first, &book), "a repeated request counts once");
    assert!(signs(&policy, &facts(2, spend(&[2], 2, 1_300)), &book));
    let above = facts(2, spend(&[2], 2, 1_301));
    assert_eq!(denial(&policy, &above, &book), Denial::Limit { total: 3_001, limit: 3_000, seconds: HOUR });
    let at = |time| Facts { block_time: Some(time), ..above.clone() };
    assert!(!signs(&policy, &at(NOW + HOUR - 1), &book));
    assert!(signs(&policy, &at(NOW + HOUR), &book));
}

#[test]
fn a_limit_in_a_rule_passes_on_to_the_next() {
    let limit = Limit { amount: Amount::from_sat(1_200), window_seconds: HOUR };
    let little = Conditions { limit: Some(limit), ..Conditions::default() };
    let rules = vec![rule("little", little, Action::Sign), rule("more", Conditions::default(), Action::Ask)];
    let policy = Policy { rules, ..open() };
    let mut book = SpendBook::default();
    let first = facts(1, spend(&[1], 1, 1_000));
    assert!(signs(&policy, &first, &book));
    reserve(&mut book, &first);
    assert_eq!(policy.judge(&facts(2, spend(&[2], 1, 1)), &book), Verdict::Ask { rule: "more".to_owned() });
}

#[test]
fn conflicting_spends_count_once_at_their_largest() {
    let limit = Limit { amount: Amount::from_sat(10_000), window_seconds: HOUR };
    let policy = Policy { limits: vec![limit], resign: true, ..open() };
    let mut book = SpendBook::default();
    reserve(&mut book, &facts(1, spend(&[1], 1, 5_800)));
    reserve(&mut book, &facts(2, spend(&[1, 2], 1, 6_800)));
    // Both spend coin 1: 7,000 at most. A third on the same coin changes nothing as long as it is smaller.
    assert!(signs(&policy, &facts(3, spend(&[1], 2, 6_000)), &book));
    assert!(signs(&policy, &facts(3, spend(&[3], 2, 2_800)), &book));
    assert!(!signs(&policy, &facts(3, spend(&[3], 2, 2_801)), &book));
}

#[test]
fn spends_in_a_chain_of_conflicts_are_never_counted_too_low() {
    // 1 and 3 can both confirm; 2 conflicts with each of them.
    let limit = Limit { amount: Amount::from_sat(8_000), window_seconds: HOUR };
    let policy = Policy { limits: vec![limit], resign: true, ..open() };
    let mut book = SpendBook::default();
    reserve(&mut book, &facts(1, spend(&[1], 1, 3_800)));
    reserve(&mut book, &facts(2, spend(&[1, 2], 1, 1_800)));
    assert!(signs(&policy, &facts(3, spend(&[2], 1, 3_800)), &book));
    assert!(!signs(&policy, &facts(3, spend(&[2], 1, 3_801)), &book));
}

#[test]
fn a_busy_day_is_added_up_in_no_time() {
    let limit = Limit { amount: Amount::from_sat(u64::MAX), window_seconds: HOUR };
    let policy = Policy { limits: vec![limit], resign: true, ..open() };
    let mut book = SpendBook::default();
    for number in 0..20_000_u32 {
        let mut id = [7; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let inputs = [0, 1].map(|vout| OutPoint::new(Txid::from_byte_array(id), vout)).to_vec();
        let request = Facts { request: id, ..facts(1, Spend { inputs, ..spend(&[], 1, 1_000) }) };
        reserve(&mut book, &request);
    }
    let started = std::time::Instant::now();
    assert!(signs(&policy, &facts(9, spend(&[9], 1, 1_000)), &book));
    // Twenty milliseconds; each with each other it would be minutes.
    assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn a_signed_coin_goes_to_no_other_recipients_unless_allowed() {
    let mut book = SpendBook::default();
    let first = facts(1, spend(&[1, 2], 1, 1_000));
    reserve(&mut book, &first);
    let other = facts(2, spend(&[2], 2, 1_000));
    assert_eq!(denial(&open(), &other, &book), Denial::Resign(coin(2).to_string()));
    assert!(signs(&Policy { resign: true, ..open() }, &other, &book));
    // A replacement with a higher fee pays the same.
    let bumped = facts(3, Spend { fee: Some(Amount::from_sat(400)), ..spend(&[2], 1, 1_000) });
    assert!(signs(&open(), &bumped, &book));
    assert!(!signs(&open(), &facts(3, spend(&[2], 1, 1_001)), &book));
    assert!(signs(&open(), &first, &book), "the same request again");
    assert!(signs(&open(), &facts(4, spend(&[3], 2, 1_000)), &book), "another coin");
}

#[test]
fn the_book_forgets_only_what_is_older() {
    let mut book = SpendBook::default();
    assert_eq!((book.len(), book.is_empty()), (0, true));
    reserve(&mut book, &facts(1, spend(&[1], 1, 1_000)));
    reserve(&mut book, &Facts { block_time: Some(NOW + 1), ..facts(2, spend(&[2], 1, 1_000)) });
    assert!(book.forget_before(NOW).is_empty());
    assert_eq!(book.forget_before(NOW + 1), [[1; 32]]);
    assert!(book.get(&[1; 32]).is_none() && book.get(&[2; 32]).is_some());
    assert_eq!((book.len(), book.is_empty()), (1, false));
}

#[test]
fn how_long_the_book_must_remember() {
    let limit = |window_seconds| Limit { amount: Amount::ONE_BTC, window_seconds };
    let in_rule = Conditions { limit: Some(limit(9)), ..Conditions::default() };
    let rules = vec![rule("r", in_rule, Action::Sign)];
    let policy = Policy { resign: true, limits: vec![limit(5)], rules, ..open() };
    assert_eq!(policy.memory_seconds(), Some(9));
    assert_eq!(Policy { resign: true, ..open() }.memory_seconds(), None);
    assert_eq!(open().memory_seconds(), Some(MAX_WINDOW_SECONDS));
}

#[test]
fn a_policy_out_of_bounds_cannot_be_set() {
    let named = |name: &str| rule(name, Conditions::default(), Action::Sign);
    let limit = |window_seconds| Limit { amount: Amount::ONE_BTC, window_seconds };
    let ok = Policy { rules: vec![named("a"), named("b")], limits: vec![limit(MAX_WINDOW_SECONDS)], ..open() };
    assert_eq!(ok.validate(), Ok(()));
    let many: Vec<Rule> = (0..=MAX_RULES).map(|number| named(&number.to_string())).collect();
    assert_eq!(Policy { rules: many[..MAX_RULES].to_vec(), ..ok.clone() }.validate(), Ok(()));
    assert_eq!(Policy { rules: many, ..ok.clone() }.validate(), Err(PolicyError::Rules(MAX_RULES)));
    assert_eq!(Policy { limits: vec![limit(1); MAX_LIMITS], ..ok.clone() }.validate(), Ok(()));
    let limits = vec![limit(1); MAX_LIMITS + 1];
    assert_eq!(Policy { limits, ..ok.clone() }.validate(), Err(PolicyError::Limits(MAX_LIMITS)));
    for window in [0, MAX_WINDOW_SECONDS + 1] {
        let limits = vec![limit(window)];
        let error = Policy { limits, ..ok.clone() }.validate();
        assert_eq!(error, Err(PolicyError::Window(MAX_WINDOW_SECONDS)));
    }
    for name in [String::new(), "x".repeat(MAX_NAME_BYTES + 1)] {
        let error = Policy { rules: vec![named(&name)], ..ok.clone() }.validate();
        assert_eq!(error, Err(PolicyError::Name(MAX_NAME_BYTES)));
    }
    assert_eq!(Policy { rules: vec![named(&"x".repeat(MAX_NAME_BYTES))], ..ok.clone() }.validate(), Ok(()));
    let twice = Policy { rules: vec![named("a"), named("a")], ..ok.clone() };
    assert_eq!(twice.validate(), Err(PolicyError::NameTwice("a".to_owned())));
    let address = bitcoin::Address::from_script(&script(7), Network::Regtest).unwrap().to_string();
    let to = Destination::parse(&address, Network::Regtest).unwrap();
    let with = |count: usize| {
        let conditions = Conditions { recipients: Some(vec![to.clone(); count]), ..Conditions::default() };
        Policy { rules: vec![rule("r", conditions, Action::Sign)], ..ok.clone() }.validate()
    };
    assert_eq!(with(MAX_DESTINATIONS), Ok(()));
    assert_eq!(with(MAX_DESTINATIONS + 1), Err(PolicyError::Destinations("r".to_owned(), MAX_DESTINATIONS)));
    for (from_minute, to_minute, fits) in
        [(0, 1_440, true), (1_439, 0, true), (1_440, 3, false), (0, 1_441, false), (5, 5, false)]
    {
        let conditions = Conditions { hours: Some(Hours { from_minute, to_minute }), ..Conditions::default() };
        let policy = Policy { rules: vec![rule("r", conditions, Action::Sign)], ..ok.clone() };
        let expected = if fits { Ok(()) } else { Err(PolicyError::Hours("r".to_owned())) };
        assert_eq!(policy.validate(), expected, "{from_minute}-{to_minute}");
    }
}

#[test]
fn what_a_limit_is_worth_with_members_compromised() {
    let worth = |f| limit_factor(5, 3, f);
    assert_eq!([worth(0), worth(1), worth(2), worth(3), worth(6)], [Some(1), Some(2), Some(3), None, None]);
    assert_eq!(limit_factor(3, 2, 1), Some(2));
}

#[test]
fn a_policy_is_read_as_it_was_written() {
    let address = bitcoin::Address::from_script(&script(7), Network::Regtest).unwrap().to_string();
    let conditions = Conditions {
        max_amount: Some(Amount::ONE_BTC),
        recipients: Some(vec![Destination::parse(&address, Network::Regtest).unwrap()]),
        coordinators: Some(BTreeSet::from([MemberId([1; 32])])),
        hours: Some(Hours { from_minute: 1, to_minute: 2 }),
        limit: Some(Limit { amount: Amount::ONE_BTC, window_seconds: HOUR }),
    };
    let policy = Policy { rules: vec![rule("r", conditions, Action::Ask)], ..open() };
    let bytes = postcard::to_allocvec(&policy).unwrap();
    assert_eq!(postcard::from_bytes::<Policy>(&bytes).unwrap(), policy);
}
