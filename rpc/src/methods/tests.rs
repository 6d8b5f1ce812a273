//! The rows against Core's own table of command line conversions.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::all;
use crate::table::Format;

/// The vendored `src/rpc/client.cpp`, from cargo's registry.
fn core_client_source() -> Option<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).ok()?;
    registries.filter_map(Result::ok).find_map(|registry| {
        let path = registry.path().join("libbitcoinkernel-sys-0.4.1/bitcoin/src/rpc/client.cpp");
        std::fs::read_to_string(path).ok()
    })
}

type Rows = BTreeMap<(String, usize, String), String>;

/// `{ "method", 0, "name", ParamFormat::X },` rows of Core's table.
fn core_rows(source: &str) -> Rows {
    let start = source.find("vRPCConvertParams[] =").unwrap();
    let table = &source[start..start + source[start..].find("\n};").unwrap()];
    let mut rows = Rows::new();
    for line in table.lines().filter_map(|line| line.trim().strip_prefix("{ \"")) {
        let fields: Vec<&str> = line.trim_end_matches([',', '}', ' ']).split(',').map(str::trim).collect();
        let plain = |text: &str| text.trim_matches('"').to_owned();
        let format = fields.get(3).map_or("JSON", |text| text.strip_prefix("ParamFormat::").unwrap_or(text));
        let key = (plain(fields[0]), fields[1].parse().unwrap(), plain(fields[2]));
        rows.insert(key, format.to_owned());
    }
    rows
}

fn our_rows() -> Rows {
    let mut rows = Rows::new();
    for method in all(true).filter(|method| !method.new) {
        for (position, arg) in method.args.iter().enumerate().filter(|(_, arg)| !arg.new) {
            for arg in std::iter::once(arg).chain(arg.inner).filter(|arg| !arg.new) {
                for name in arg.names.split('|') {
                    if let Some(format) = arg.format() {
                        let shown = match format {
                            Format::Json => "JSON",
                            Format::Text => "STRING",
                            Format::Either => "JSON_OR_STRING",
                        };
                        rows.insert((method.name.into(), position, name.into()), shown.into());
                    }
                }
            }
        }
    }
    rows
}

#[test]
fn conversions_equal_bitcoin_clis() {
    let Some(source) = core_client_source() else {
        panic!("the vendored Core tree is not in cargo's registry");
    };
    let (core, ours) = (core_rows(&source), our_rows());
    assert!(core.len() > 300, "{}", core.len());
    let missing: Vec<_> = core.iter().filter(|(key, format)| ours.get(*key) != Some(format)).collect();
    let extra: Vec<_> = ours.iter().filter(|(key, format)| core.get(*key) != Some(format)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:#?}\nextra {extra:#?}");
}

#[test]
fn every_method_of_core_has_one_row() {
    let names: Vec<&str> = all(true).filter(|method| !method.new).map(|method| method.name).collect();
    let unique: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(names.len(), unique.len());
    assert_eq!(unique.len(), 173);
}
