//! The signing policy as JSON, and the methods that show, set and try it. Methods of ours.
//!
//! Source: `tss_wallet::policy`. What a policy leaves out is at its strictest.

use bitcoin::Network;
use bitcoin::psbt::Psbt;
use tss_wallet::MemberId;
use tss_wallet::policy::{Action, Conditions, Destination, Hours, Limit, Policy, Rule, limit_factor};

use crate::amount;
use crate::args::{self, Args};
use crate::backend::Ctx;
use crate::error::RpcError;
use crate::json::Value;
use crate::local;
use crate::table::{Arg, Kind, Method, RpcResult};

use super::backend::{Payment, PolicyInfo, Result, WalletHandle};
use super::params::{address_of, check_options, optional};
use super::{psbt, select, signing};

pub(super) const METHODS: &[Method] = &[
    Method::ours(
        "getsigningpolicy",
        &[],
        "What this member signs by itself for the wallet. On regtest a wallet begins with a policy that signs all below \
         a fee cap; elsewhere with none, and nothing is signed.\n\
         Returns {\"version\":n,\"policy\":{...}|null,\"limits_worth\":[{\"compromised\":n,\"factor\":n},...]}: with so \
         many members compromised, a limit that all members set alike is worth so many times itself.",
        local!(getsigningpolicy),
    ),
    Method::ours(
        "setsigningpolicy",
        &[Arg::req("policy", Kind::Obj).oneline("policy")],
        "Sets the policy of this member for the wallet; the other members have their own.\n\
         {\"max_fee\":amount,\"max_feerate\":sat/vB,\"limits\":[{\"amount\":amount,\"seconds\":n},...],\
         \"any_sighash\":bool,\"unknown_prevouts\":bool,\"test_acceptance\":bool,\"resign\":bool,\"messages\":bool,\
         \"max_tip_age\":seconds,\"rules\":[rule,...]}. A rule is {\"name\":str,\"action\":\"sign\"|\"ask\"|\"refuse\",\
         \"max_amount\":amount,\"recipients\":[\"address or descriptor\",...],\"coordinators\":[\"peerid\",...],\
         \"hours\":\"HH:MM-HH:MM\",\"limit\":{\"amount\":amount,\"seconds\":n}}: the first whose conditions all hold \
         decides, and where none does the answer is no. Hours are UTC; a limit counts by the time of blocks, fees \
         included.\n\
         Returns as getsigningpolicy does.",
        local!(setsigningpolicy),
    ),
    Method::ours(
        "testsigningpolicy",
        &[Arg::req("psbt", Kind::Str)],
        "What this member would say to a PSBT, and why. Nothing is signed or written.\n\
         Returns {\"decision\":\"sign\"|\"ask\"|\"refuse\",\"rule\":str,\"reason\":str,\"txid\":hex,\"payments\":[...],\
         \"change\":amount,\"fee\":amount}.",
        local!(testsigningpolicy),
    ),
];

async fn getsigningpolicy(ctx: Ctx, _args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    Ok(info_value(wallet.as_ref(), &wallet.signing_policy()?))
}

async fn setsigningpolicy(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::wallet(&ctx)?;
    let network = ctx.wallets()?.network();
    let policy = read(args.get(0), network, &|peerid| wallet.member_of(peerid))?;
    policy.validate().map_err(|error| RpcError::invalid_parameter(format!("Invalid policy: {error}")))?;
    wallet.set_signing_policy(policy).await?;
    Ok(info_value(wallet.as_ref(), &wallet.signing_policy()?))
}

async fn testsigningpolicy(ctx: Ctx, args: Args) -> RpcResult {
    let wallet = select::synced(&ctx).await?;
    let network = ctx.wallets()?.network();
    let text = args.str(0)?;
    let psbt: Psbt = match psbt::decode(text) {
        Ok((psbt, _)) => psbt,
        Err(error) => return Err(signing::refusal(&ctx, text, &error).await),
    };
    let answer = wallet.test_signing_policy(psbt).await?;
    let out = Value::obj().with("decision", answer.decision).with_opt("rule", answer.rule);
    let out = out.with_opt("reason", answer.reason).with_opt("txid", answer.txid);
    let out = out.with("payments", payments_value(&answer.payments, network)).with("change", answer.change);
    Ok(out.with_opt("fee", answer.fee))
}

/// To whom how much.
pub(super) fn payments_value(payments: &[Payment], network: Network) -> Value {
    Value::arr(payments.iter().map(|payment| {
        let out = Value::obj().with_opt("address", address_of(&payment.script, network));
        out.with("scriptPubKey", payment.script.to_hex_string()).with("amount", payment.amount)
    }))
}

fn info_value(wallet: &dyn WalletHandle, info: &PolicyInfo) -> Value {
    let policy = info.policy.as_ref().map_or(Value::Null, |policy| write(policy, &|member| wallet.peerid_of(member)));
    let worth = (0..info.members).map_while(|compromised| {
        let factor = limit_factor(info.members, info.threshold, compromised)?;
        Some(Value::obj().with("compromised", compromised).with("factor", factor))
    });
    Value::obj().with("version", info.version).with("policy", policy).with("limits_worth", Value::arr(worth))
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading

const SECONDS: &str = "seconds";

/// A member of this name: `None` if it is left out, `Some(None)` if it is null.
fn given<'a>(object: &'a Value, name: &str) -> Option<Option<&'a Value>> {
    object.find(name).map(|value| if value.is_null() { None } else { Some(value) })
}

fn or_default<T>(
    object: &Value,
    name: &str,
    default: Option<T>,
    read: impl FnOnce(&Value) -> Result<T>,
) -> Result<Option<T>> {
    match given(object, name) {
        None => Ok(default),
        Some(None) => Ok(None),
        Some(Some(value)) => read(value).map(Some),
    }
}

fn flag(object: &Value, name: &str, default: bool) -> Result<bool> {
    Ok(optional(object, name, args::bool_of)?.unwrap_or(default))
}

fn read(value: &Value, network: Network, member_of: &dyn Fn(&str) -> Result<MemberId>) -> Result<Policy> {
    args::obj_of(value)?;
    let known = [
        ("any_sighash", Some("bool")),
        ("limits", Some("array")),
        ("max_fee", None),
        ("max_feerate", None),
        ("max_tip_age", Some("number")),
        ("messages", Some("bool")),
        ("resign", Some("bool")),
        ("rules", Some("array")),
        ("test_acceptance", Some("bool")),
        ("unknown_prevouts", Some("bool")),
    ];
    check_options(value, &known)?;
    let strict = Policy::strict();
    Ok(Policy {
        max_fee: or_default(value, "max_fee", strict.max_fee, amount::from_value)?,
        max_fee_rate_sat_kvb: or_default(
            value,
            "max_feerate",
            strict.max_fee_rate_sat_kvb,
            amount::fee_rate_sat_per_kvb,
        )?,
        limits: value.member("limits").as_arr().unwrap_or_default().iter().map(limit).collect::<Result<_>>()?,
        any_sighash: flag(value, "any_sighash", strict.any_sighash)?,
        unknown_prevouts: flag(value, "unknown_prevouts", strict.unknown_prevouts)?,
        test_acceptance: flag(value, "test_acceptance", strict.test_acceptance)?,
        resign: flag(value, "resign", strict.resign)?,
        messages: flag(value, "messages", strict.messages)?,
        max_tip_age_seconds: or_default(value, "max_tip_age", strict.max_tip_age_seconds, args::int_of)?,
        rules: value
            .member("rules")
            .as_arr()
            .unwrap_or_default()
            .iter()
            .map(|item| rule(item, network, member_of))
            .collect::<Result<_>>()?,
    })
}

fn limit(value: &Value) -> Result<Limit> {
    args::obj_of(value)?;
    check_options(value, &[("amount", None), (SECONDS, Some("number"))])?;
    let amount = amount::from_value(value.member("amount"))?;
    Ok(Limit { amount, window_seconds: args::int_of(value.member(SECONDS))? })
}

fn rule(value: &Value, network: Network, member_of: &dyn Fn(&str) -> Result<MemberId>) -> Result<Rule> {
    args::obj_of(value)?;
    let known = [
        ("action", Some("string")),
        ("coordinators", Some("array")),
        ("hours", Some("string")),
        ("limit", Some("object")),
        ("max_amount", None),
        ("name", Some("string")),
        ("recipients", Some("array")),
    ];
    check_options(value, &known)?;
    let action = match args::str_of(value.member("action"))? {
        "sign" => Action::Sign,
        "ask" => Action::Ask,
        "refuse" => Action::Refuse,
        other => {
            let text = format!("Invalid action \"{other}\", must be one of: \"sign\", \"ask\", \"refuse\"");
            return Err(RpcError::invalid_parameter(text));
        }
    };
    let texts = |list: &Value| -> Result<Vec<String>> {
        args::arr_of(list)?.iter().map(|text| args::str_of(text).map(str::to_owned)).collect()
    };
    let destinations = |list: &Value| -> Result<Vec<Destination>> {
        let parse = |text: String| {
            Destination::parse(&text, network).map_err(|error| RpcError::invalid_address_or_key(error.to_string()))
        };
        texts(list)?.into_iter().map(parse).collect()
    };
    let conditions = Conditions {
        max_amount: optional(value, "max_amount", amount::from_value)?,
        recipients: optional(value, "recipients", destinations)?,
        coordinators: optional(value, "coordinators", |list| {
            texts(list)?.iter().map(|text| member_of(text)).collect()
        })?,
        hours: optional(value, "hours", hours)?,
        limit: optional(value, "limit", limit)?,
    };
    Ok(Rule { name: args::str_of(value.member("name"))?.to_owned(), conditions, action })
}

/// `08:00-18:30`.
fn hours(value: &Value) -> Result<Hours> {
    let text = args::str_of(value)?;
    let minute = |text: &str| -> Option<u16> {
        let (hour, minute) = text.split_once(':')?;
        let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        let minutes: u16 = minute.parse().ok().filter(|minutes| *minutes < 60 && digits(minute))?;
        let hours: u16 = hour.parse().ok().filter(|_| digits(hour))?;
        Some(hours * 60 + minutes)
    };
    let parsed = text.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
    let (from_minute, to_minute) =
        parsed.ok_or_else(|| RpcError::invalid_parameter(format!("Invalid hours \"{text}\", must be HH:MM-HH:MM")))?;
    Ok(Hours { from_minute, to_minute })
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing

fn or_null(value: Option<impl Into<Value>>) -> Value {
    value.map_or(Value::Null, Into::into)
}

/// `12.345` from sat/kvB.
fn sat_vb(rate: u64) -> Value {
    Value::Num(format!("{}.{:03}", rate / 1_000, rate % 1_000))
}

fn limit_value(limit: &Limit) -> Value {
    Value::obj().with("amount", limit.amount).with(SECONDS, limit.window_seconds)
}

fn write(policy: &Policy, peerid_of: &dyn Fn(&MemberId) -> String) -> Value {
    Value::obj()
        .with("max_fee", or_null(policy.max_fee))
        .with("max_feerate", policy.max_fee_rate_sat_kvb.map_or(Value::Null, sat_vb))
        .with("limits", Value::arr(policy.limits.iter().map(limit_value)))
        .with("any_sighash", policy.any_sighash)
        .with("unknown_prevouts", policy.unknown_prevouts)
        .with("test_acceptance", policy.test_acceptance)
        .with("resign", policy.resign)
        .with("messages", policy.messages)
        .with("max_tip_age", or_null(policy.max_tip_age_seconds))
        .with("rules", Value::arr(policy.rules.iter().map(|rule| rule_value(rule, peerid_of))))
}

fn rule_value(rule: &Rule, peerid_of: &dyn Fn(&MemberId) -> String) -> Value {
    let Conditions { max_amount, recipients, coordinators, hours, limit } = &rule.conditions;
    let action = match rule.action {
        Action::Sign => "sign",
        Action::Ask => "ask",
        Action::Refuse => "refuse",
    };
    let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    Value::obj()
        .with("name", &rule.name)
        .with("action", action)
        .with_opt("max_amount", *max_amount)
        .with_opt("recipients", recipients.as_ref().map(|list| Value::arr(list.iter().map(|to| &to.text))))
        .with_opt("coordinators", coordinators.as_ref().map(|list| Value::arr(list.iter().map(peerid_of))))
        .with_opt("hours", hours.map(|hours| format!("{}-{}", clock(hours.from_minute), clock(hours.to_minute))))
        .with_opt("limit", limit.as_ref().map(limit_value))
}
