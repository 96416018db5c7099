//! No files import each other in a circle: who reads one can stop somewhere.
//!
//! A module and those below it are one family: a parent declares its children and they may use what it has. So an import
//! counts between files that are not above each other.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::sources;

/// A crate's folder, and the module of a file in it: `comet/src`, `["front", "logins"]`.
fn module(path: &str) -> Option<(&str, Vec<String>)> {
    let (folder, file) = path.split_once("/src/").or_else(|| Some((".", path.strip_prefix("src/")?)))?;
    if file.starts_with("bin/") || file.contains("tests") {
        return None;
    }
    let mut parts: Vec<String> = file.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    Some((folder, parts))
}

/// The paths of `use` statements, braces resolved.
fn uses(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    // What tests import is no structure.
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    for statement in text.split(';') {
        let Some(at) = statement.rfind("use ") else { continue };
        if statement[..at].rsplit('\n').next().is_some_and(|before| before.contains("//")) {
            continue;
        }
        expand(&statement[at + 4..], &[], &mut found);
    }
    found
}

fn expand(tree: &str, before: &[String], found: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        found.push(
            before.iter().cloned().chain(path.split("::").map(|part| part.trim().to_owned())).collect(),
        );
        return;
    };
    let mut path: Vec<String> = before.to_vec();
    path.extend(tree[..open].split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
    let inside = tree[open + 1..].trim_end().strip_suffix('}').unwrap_or_default();
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in inside.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&inside[start..at], &path, found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inside[start..].trim().is_empty() {
        expand(&inside[start..], &path, found);
    }
}

/// The module that a path leads to, seen from one; none outside of the crate.
fn target(path: &[String], from: &[String], modules: &BTreeSet<Vec<String>>) -> Option<Vec<String>> {
    let mut at: Vec<String> = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" => from.to_vec(),
        "super" => from.split_last()?.1.to_vec(),
        _ => return None,
    };
    for part in &path[1..] {
        if part == "super" {
            at.pop()?;
            continue;
        }
        at.push(part.clone());
        if !modules.contains(&at) {
            at.pop();
            break;
        }
    }
    Some(at)
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let files = sources();
    let mut crates: BTreeMap<&str, BTreeMap<Vec<String>, &str>> = BTreeMap::new();
    for (path, text) in &files {
        if let Some((folder, module)) = module(path) {
            crates.entry(folder).or_default().insert(module, text);
        }
    }
    assert!(crates.len() > 10, "the crates are elsewhere");
    let mut circles = Vec::new();
    for (folder, modules) in &crates {
        let names: BTreeSet<Vec<String>> = modules.keys().cloned().collect();
        let mut edges: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
        for (module, text) in modules {
            let targets = uses(text).into_iter().filter_map(|path| target(&path, module, &names));
            let targets = targets.filter(|target| !target.starts_with(module) && !module.starts_with(target));
            edges.insert(module, targets.collect());
        }
        for start in &names {
            let (mut seen, mut left) = (BTreeSet::new(), edges[start].iter().cloned().collect::<Vec<_>>());
            while let Some(next) = left.pop() {
                if seen.insert(next.clone()) {
                    left.extend(edges[&next].iter().cloned());
                }
            }
            if seen.contains(start) {
                circles.push(format!("{folder}: {}", start.join("::")));
            }
        }
    }
    assert!(circles.is_empty(), "these import each other: {circles:#?}");
}

#[test]
fn a_path_is_read_with_braces_and_from_where_it_stands() {
    let found = uses("use a::{b, c::{D, self as e}};\npub(super) use super::x::Y;\n// use no::thing;\n");
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::b", "a::c::D", "a::c::self", "super::x::Y"]);
    let module = |name: &str| name.split("::").map(str::to_owned).collect::<Vec<_>>();
    let modules = BTreeSet::from([vec![], module("x"), module("x::y"), module("z")]);
    let leads = |path: &str, from: &str| target(&module(path), &module(from), &modules);
    assert_eq!(leads("crate::x::y::Name", "z"), Some(module("x::y")));
    assert_eq!(leads("super::z::Name", "x"), Some(module("z")));
    assert_eq!(leads("tokio::x", "z"), None);
}
