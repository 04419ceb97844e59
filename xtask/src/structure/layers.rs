//! The layers of tracker-user, each a folder, and what each may import.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use syn::{Item, Visibility};

use super::{
    Source,
    imports::{imports, leaves},
};

/// Folders and, of the layers before each, those that it may import from. Whatever is not below another one here is its
/// sibling: neither imports from the other.
const LAYERS: [(&str, &[&str]); 6] = [
    ("model", &[]),
    ("kernel", &["model"]),
    ("client", &["model", "kernel"]),
    // Sees records only, never maps.
    ("export", &["model"]),
    ("agent", &["model", "kernel", "client", "export"]),
    ("cli", &["model", "kernel", "client", "agent", "export"]),
];

/// What was found.
#[derive(Debug)]
pub(super) struct Report {
    /// A line a layer: from which it imports, and how often.
    pub(super) graph: String,
    /// A line each.
    pub(super) problems: Vec<String>,
}

/// Checks the files of one crate, whose root is below `root`.
///
/// # Errors
///
/// Where one cannot be parsed, or the crate's root re-exports something by `*`.
pub(super) fn check(sources: &[&Source], root: &str) -> Result<Report> {
    let library = sources
        .iter()
        .find(|source| source.path == format!("{root}/lib.rs"))
        .with_context(|| format!("there is no {root}/lib.rs"))?;
    let exported = exported(&library.text)?;
    let mut counts = BTreeMap::<(usize, usize), usize>::new();
    let (mut problems, mut present) = (Vec::new(), BTreeSet::new());
    for source in sources {
        let module = module(&source.path, root);
        // The crate's roots: one lists the layers, the other is the command.
        let Some(folder) = module.first().filter(|name| !["lib", "main"].contains(&name.as_str()))
        else {
            continue;
        };
        let Some(from) = layer(folder) else {
            problems.push(format!("{}: this file is in no layer", source.path));
            continue;
        };
        present.insert(from);
        let file = syn::parse_file(&source.text).with_context(|| source.path.clone())?;
        for import in imports(&file, &module) {
            let place = format!("{}:{}", source.path, import.line);
            let written = import.path.join("::");
            let Some(first) = import.path.first() else { continue };
            let to = exported.get(first).unwrap_or(first);
            let Some(to) = layer(to) else {
                problems.push(format!("{place}: `crate::{written}` is in no layer"));
                continue;
            };
            if to == from {
                continue;
            }
            *counts.entry((from, to)).or_default() += 1;
            let (name, allowed) = LAYERS[from];
            if !allowed.contains(&LAYERS[to].0) {
                let allowed =
                    if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
                problems.push(format!(
                    "{place}: {name} imports `crate::{written}` from {}; {name} may import from: {allowed}",
                    LAYERS[to].0
                ));
            }
        }
    }
    if let Some(cycle) = cycle(&counts) {
        problems.push(format!("layers import each other in a circle: {cycle}"));
    }
    Ok(Report { graph: graph(root, &present, &counts), problems })
}

/// The layer of this name, by its place.
fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|(layer, _)| *layer == name)
}

/// A file's path of modules: `a/b.rs` and `a/b/mod.rs` are both `a::b`.
pub(super) fn module(path: &str, root: &str) -> Vec<String> {
    let path = path.trim_start_matches(root).trim_start_matches('/').trim_end_matches(".rs");
    let mut parts: Vec<_> = path.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// What the crate's root re-exports, by name, with the folder that each comes from.
fn exported(library: &str) -> Result<BTreeMap<String, String>> {
    let mut exported = BTreeMap::new();
    for item in syn::parse_file(library).context("the crate's root")?.items {
        let Item::Use(item) = item else { continue };
        if matches!(item.vis, Visibility::Inherited) {
            continue;
        }
        for (name, path) in leaves(&item.tree) {
            if name == "*" {
                bail!(
                    "the crate's root re-exports by `*`, so that nobody sees where names come from"
                );
            }
            let folder = path.iter().find(|part| !["crate", "self"].contains(&part.as_str()));
            exported.insert(name, folder.cloned().unwrap_or_default());
        }
    }
    Ok(exported)
}

fn graph(
    root: &str,
    present: &BTreeSet<usize>,
    counts: &BTreeMap<(usize, usize), usize>,
) -> String {
    let mut lines = vec![format!("layers of {root}, and how often each imports from others:")];
    for from in present {
        let to: Vec<_> = counts
            .range((*from, 0)..(*from + 1, 0))
            .map(|((_, to), count)| format!("{} {count}", LAYERS[*to].0))
            .collect();
        let to = if to.is_empty() { "nothing".to_owned() } else { to.join(", ") };
        lines.push(format!("  {:<6} -> {to}", LAYERS[*from].0));
    }
    lines.join("\n")
}

/// Layers that import each other, if any do, in the order in which they do.
fn cycle(counts: &BTreeMap<(usize, usize), usize>) -> Option<String> {
    fn visit(
        at: usize,
        counts: &BTreeMap<(usize, usize), usize>,
        path: &mut Vec<usize>,
        done: &mut BTreeSet<usize>,
    ) -> Option<Vec<usize>> {
        if let Some(begin) = path.iter().position(|before| *before == at) {
            return Some([&path[begin..], &[at]].concat());
        }
        if !done.insert(at) {
            return None;
        }
        path.push(at);
        let next = counts.range((at, 0)..(at + 1, 0)).map(|((_, to), _)| *to);
        let found = next.into_iter().find_map(|to| visit(to, counts, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    let found = (0..LAYERS.len()).find_map(|at| visit(at, counts, &mut Vec::new(), &mut done))?;
    Some(found.iter().map(|layer| LAYERS[*layer].0).collect::<Vec<_>>().join(" -> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBRARY: &str =
        "pub mod model; pub mod agent; pub use self::{agent::{hub, run as work}, model::record};";

    fn report(files: &[(&str, &str)]) -> Report {
        let sources: Vec<_> = [("lib", LIBRARY)]
            .iter()
            .chain(files)
            .map(|(path, text)| Source {
                path: format!("x/src/{path}.rs"),
                text: (*text).to_owned(),
            })
            .collect();
        check(&sources.iter().collect::<Vec<_>>(), "x/src").expect("it can be checked")
    }

    #[test]
    fn down_is_fine() {
        let report = report(&[
            ("model/record", "pub struct Record;"),
            ("kernel/mod", "use crate::model::record::Record;"),
            (
                "cli/flows",
                "use crate::{model, agent::run}; use crate::record::Record; use super::top;",
            ),
            ("main", "use x::anything;"),
        ]);
        assert_eq!(report.problems, [""; 0]);
        assert_eq!(
            report.graph,
            "layers of x/src, and how often each imports from others:\n  model  -> nothing\n  kernel -> model 1\n  \
             cli    -> model 2, agent 1"
        );
    }

    #[test]
    fn up_is_not() {
        for (path, text) in [
            ("model/record", "use crate::agent::hub::Hub;"),
            ("model/record", "use crate::{\n    work::Options,\n};"),
            ("model/record", "fn f() { crate::hub::f(); }"),
            ("model/record", "#[cfg(test)] mod tests { use super::super::super::agent::run; }"),
            ("model/record", "fn f() { assert!(crate::hub::is_on()); }"),
            ("model/mod", "pub use super::agent::hub;"),
            ("kernel/attach", "use crate::client::agent::Agent;"),
            ("client/listen", "use crate::hub::Request;"),
            ("export/spool", "use crate::agent::run;"),
            // Siblings.
            ("export/spool", "use crate::client::request;"),
            ("export/spool", "use crate::kernel::tables;"),
            ("agent/run", "use crate::cli::Cli;"),
        ] {
            let problems = report(&[(path, text)]).problems;
            assert_eq!(problems.len(), 1, "{path}: {text}: {problems:?}");
            assert!(problems[0].starts_with(&format!("x/src/{path}.rs:1: ")), "{problems:?}");
        }
    }

    #[test]
    fn circles_are_named() {
        let problems = report(&[
            ("model/a", "use crate::kernel::b;"),
            ("kernel/b", "use crate::client::c;"),
            ("client/c", "use crate::model::a;"),
        ])
        .problems;
        assert!(
            problems.iter().any(|said| said.ends_with("model -> kernel -> client -> model")),
            "{problems:?}"
        );
    }

    #[test]
    fn what_is_nowhere() {
        let said = report(&[("model/a", "use crate::elsewhere::b;"), ("loose", "")]).problems;
        assert!(said[0].contains("`crate::elsewhere::b` is in no layer"), "{said:?}");
        assert!(said[1].contains("x/src/loose.rs: this file is in no layer"), "{said:?}");
        assert!(exported("pub use self::model::*;").is_err());
    }
}
