#![allow(clippy::unwrap_used)]
use super::*;
use crate::code;
use crate::table::{Arg, Category, Kind};

static OPTIONS: &[Arg] = &[Arg::opt("fee", Kind::Amount), Arg::opt("lock|lock_unspents", Kind::Bool)];
static METHOD: Method = Method::kernel(
    "pay",
    Category::Wallet,
    &[
        Arg::req("to", Kind::Str),
        Arg::opt("count|number", Kind::Num),
        Arg::opt("options", Kind::NamedObj).inner(OPTIONS),
        Arg::opt("extra", Kind::Arr).ours(),
    ],
);

fn bind(params: &str) -> Result<Vec<Value>, RpcError> {
    Args::bind(&METHOD, Value::parse(params).unwrap(), || METHOD.help()).map(|args| args.values)
}

fn bound(params: &str) -> String {
    Value::Arr(bind(params).unwrap()).compact()
}

fn refused(params: &str) -> (i32, String) {
    let error = bind(params).unwrap_err();
    (error.code, error.message)
}

#[test]
fn named_arguments_find_their_places() {
    assert_eq!(bound(r#"{"to":"x"}"#), r#"["x"]"#);
    assert_eq!(bound(r#"{"number":3,"to":"x"}"#), r#"["x",3]"#);
    assert_eq!(bound(r#"{"to":"x","fee":"1","lock_unspents":true}"#), r#"["x",null,{"fee":"1","lock_unspents":true}]"#);
    assert_eq!(bound(r#"{"args":["x"],"count":2}"#), r#"["x",2]"#);
    assert_eq!(bound(r#"{"args":["x"],"options":{"fee":1}}"#), r#"["x",null,{"fee":1}]"#);
}

#[test]
fn faults_of_named_arguments_are_named_as_core_names_them() {
    for (params, text) in [
        (r#"{"to":"x","nope":1}"#, "Unknown named parameter nope"),
        (r#"{"to":"x","to":"y"}"#, "Parameter to specified multiple times"),
        (r#"{"to":"x","fee":1,"options":{}}"#, "Parameter options conflicts with parameter fee"),
        (r#"{"args":["x"],"to":"y"}"#, "Parameter to specified twice both as positional and named argument"),
        (
            r#"{"args":["x",1],"number":1}"#,
            "Parameter count|number specified twice both as positional and named argument",
        ),
    ] {
        assert_eq!(refused(params), (code::RPC_INVALID_PARAMETER, text.to_owned()), "{params}");
    }
}

#[test]
fn a_wrong_count_answers_with_the_help_text() {
    for params in ["[]", r#"["x",1,{},[],1]"#] {
        let (number, message) = refused(params);
        assert_eq!(number, code::RPC_MISC_ERROR);
        assert!(message.starts_with("pay \"to\" ( count "), "{message}");
    }
}

#[test]
fn wrong_types_are_listed_by_position() {
    let expected = "Wrong type passed:\n{\n    \"Position 1 (to)\": \"JSON value of type number is not of expected type \
                    string\",\n    \"Position 2 (count|number)\": \"JSON value of type bool is not of expected type \
                    number\"\n}";
    assert_eq!(refused("[1,true]"), (code::RPC_TYPE_ERROR, expected.to_owned()));
}

#[test]
fn our_arguments_may_come_as_text() {
    assert_eq!(bound(r#"["x",null,null,"[1,2]"]"#), r#"["x",null,null,[1,2]]"#);
}

#[test]
fn accessors_speak_cores_texts() {
    let args = Args::from_values(vec![Value::from(1), Value::from("ab"), Value::Num("1e30".into()), Value::from(300)]);
    assert_eq!(args.str(0).unwrap_err().message, "JSON value of type number is not of expected type string");
    assert_eq!(args.int::<i64>(2).unwrap_err(), RpcError::misc("JSON integer out of range"));
    assert_eq!(args.int::<u8>(3).unwrap_err(), RpcError::misc("JSON integer out of range"));
    assert_eq!(args.opt_bool(9).unwrap(), None);
    let short = args.txid(1, "txid").unwrap_err();
    assert_eq!(short.message, "txid must be of length 64 (not 2, for 'ab')");
    assert_eq!(short.code, code::RPC_INVALID_PARAMETER);
}
