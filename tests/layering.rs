//! The house: imports run down the table and nowhere else, and the lower crates stay small.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each package of ours and the packages of ours that it may depend on.
const HOUSE: &[(&str, &[&str])] = &[
    ("highwater-log", &[]),
    ("highwater-proto", &[]),
    ("highwater-materializers", &["highwater-log"]),
    ("highwater-changefeed", &["highwater-materializers", "highwater-log"]),
    ("highwater-query", &["highwater-changefeed", "highwater-materializers", "highwater-log"]),
    ("highwater-connectors", &["highwater-query", "highwater-changefeed", "highwater-materializers", "highwater-log"]),
    (
        "highwater",
        &[
            "highwater-connectors",
            "highwater-query",
            "highwater-changefeed",
            "highwater-materializers",
            "highwater-log",
            "highwater-proto",
        ],
    ),
];

/// Packages that build and test in seconds, because these are not below them.
const LIGHT: &[&str] = &["highwater-log", "highwater-materializers", "highwater-changefeed"];
const HEAVY: &[&str] = &["datafusion", "tonic", "axum", "rdkafka"];

/// What cargo says of the workspace on this platform; other platforms' packages need not be there.
fn metadata() -> Value {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host, "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn imports_run_down_the_house_only() {
    let metadata = metadata();
    let allowed: BTreeMap<_, _> = HOUSE.iter().copied().collect();
    let members: BTreeSet<String> = metadata["workspace_members"].as_array().unwrap().iter().map(text).collect();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: Vec<_> = packages.iter().filter(|package| members.contains(&text(&package["id"]))).collect();
    let names: BTreeSet<_> = ours.iter().map(|package| text(&package["name"])).collect();
    assert_eq!(
        names,
        allowed.keys().map(|name| (*name).to_owned()).collect(),
        "every package has its place in the house"
    );
    for package in ours {
        let name = text(&package["name"]);
        let dependencies =
            package["dependencies"].as_array().unwrap().iter().map(|dependency| text(&dependency["name"]));
        for dependency in dependencies.filter(|dependency| names.contains(dependency)) {
            assert!(allowed[&name[..]].contains(&&dependency[..]), "{name} must not import {dependency}");
        }
    }
}

#[test]
fn the_lower_crates_stay_free_of_what_builds_for_minutes() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let names: BTreeMap<String, String> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let below: BTreeMap<String, Vec<String>> = nodes
        .iter()
        .map(|node| (text(&node["id"]), node["dependencies"].as_array().unwrap().iter().map(text).collect()))
        .collect();
    for light in LIGHT {
        let mut waiting: Vec<_> = names.iter().filter(|(_, name)| name == light).map(|(id, _)| id.clone()).collect();
        assert!(!waiting.is_empty(), "{light} is a package");
        let mut seen = BTreeSet::new();
        while let Some(id) = waiting.pop() {
            assert!(!HEAVY.contains(&&names[&id][..]), "{light} depends on {}", names[&id]);
            if seen.insert(id.clone()) {
                waiting.extend(below[&id].iter().cloned());
            }
        }
        assert!(seen.len() > 5, "{light} has dependencies");
    }
}
