//! Dependencies as `deny.toml` has them: their licences, their sources, and one version of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::host;

const POLICY: &str = "deny.toml";

/// The part of cargo-deny's configuration that is checked here; anything else in the file is an error, not ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Policy {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Licenses {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    multiple_versions: Deny,
    #[serde(default)]
    skip: Vec<Skip>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    /// `NAME@VERSION`.
    #[serde(rename = "crate")]
    package: String,
    #[allow(dead_code)] // for who reads the file
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    #[allow(dead_code)] // the one value that there is
    unknown_registry: Deny,
    #[allow(dead_code)] // likewise
    unknown_git: Deny,
    allow_registry: BTreeSet<String>,
}

/// Nothing is merely warned about.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Deny {
    Deny,
}

/// A dependency.
#[derive(Clone, Debug)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// As in Cargo.lock.
    source: String,
}

/// Compares what Cargo.lock says with the policy.
///
/// # Errors
///
/// Everything in which they differ; or where cargo does not know a dependency's manifest, because it was never fetched.
pub(crate) fn dependencies() -> Result<()> {
    let path = host::workspace().join(POLICY);
    let policy =
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let metadata = MetadataCommand::new()
        .manifest_path(host::workspace().join("Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .context("cargo metadata")?;
    let packages: Vec<_> = metadata
        .packages
        .iter()
        .filter_map(|package| {
            Some(Package {
                name: package.name.to_string(),
                version: package.version.to_string(),
                license: package.license.clone(),
                // Those of the workspace have none.
                source: package.source.as_ref()?.repr.clone(),
            })
        })
        .collect();
    let problems = problems(&packages, &policy)?;
    if !problems.is_empty() {
        bail!("{POLICY}:\n{}", problems.join("\n"));
    }
    println!("{} dependencies are as {POLICY} has them", packages.len());
    Ok(())
}

/// What is not as the policy has it, and what of the policy is about nothing.
fn problems(packages: &[Package], policy: &str) -> Result<Vec<String>> {
    let policy: Policy = toml::from_str(policy).context("the policy")?;
    let mut problems = Vec::new();
    licenses(packages, &policy.licenses, &mut problems);
    versions(packages, &policy.bans, &mut problems);
    for Package { name, version, source, .. } in packages {
        let registry = source.strip_prefix("registry+");
        if !registry.is_some_and(|registry| policy.sources.allow_registry.contains(registry)) {
            problems.push(format!("{name} {version} comes from {source}"));
        }
    }
    Ok(problems)
}

fn licenses(packages: &[Package], policy: &Licenses, problems: &mut Vec<String>) {
    let mut used = BTreeSet::new();
    let mut excepted = BTreeSet::new();
    for Package { name, version, license, .. } in packages {
        let Some(license) = license else {
            problems.push(format!("{name} {version} names no licence"));
            continue;
        };
        let expression = match Expression::parse_mode(license, ParseMode::LAX) {
            Ok(expression) => expression,
            Err(error) => {
                problems.push(format!("{name} {version}: `{license}`: {}", error.reason));
                continue;
            }
        };
        let own = policy.exceptions.iter().find(|exception| exception.name == *name);
        let is_allowed = expression.evaluate(|wanted| {
            let wanted = wanted.to_string();
            if policy.allow.contains(&wanted) {
                used.insert(wanted);
                return true;
            }
            let is_excepted = own.is_some_and(|exception| exception.allow.contains(&wanted));
            if is_excepted {
                excepted.insert(name);
            }
            is_excepted
        });
        if !is_allowed {
            problems.push(format!("{name} {version} may be used under {license} only"));
        }
    }
    let unused = policy.allow.difference(&used);
    problems.extend(unused.map(|license| format!("no dependency needs the licence {license}")));
    let exceptions = policy.exceptions.iter().map(|exception| &exception.name);
    let unused = exceptions.filter(|name| !excepted.contains(name));
    problems.extend(unused.map(|name| format!("{name} needs no exception")));
}

fn versions(packages: &[Package], policy: &Bans, problems: &mut Vec<String>) {
    let Deny::Deny = policy.multiple_versions;
    let mut skipped: BTreeSet<_> = policy.skip.iter().map(|skip| skip.package.clone()).collect();
    let mut by_name = BTreeMap::<_, Vec<_>>::new();
    for package in packages {
        by_name.entry(&package.name).or_default().push(&package.version);
    }
    for (name, versions) in by_name.iter().filter(|(_, versions)| versions.len() > 1) {
        let left: Vec<_> = versions
            .iter()
            .filter(|version| !skipped.remove(&format!("{name}@{version}")))
            .map(|version| version.as_str())
            .collect();
        if left.len() > 1 {
            problems.push(format!("there is more than one {name}: {}", left.join(", ")));
        }
    }
    problems.extend(skipped.iter().map(|package| format!("{package} need not be skipped")));
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0 WITH LLVM-exception"]
        exceptions = [{ crate = "odd", allow = ["LGPL-3.0"] }]
        [bans]
        multiple-versions = "deny"
        skip = [{ crate = "twice@1.0.0", reason = "old" }]
        [sources]
        unknown-registry = "deny"
        unknown-git = "deny"
        allow-registry = ["https://index"]
    "#;

    fn package(name: &str, version: &str, license: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            license: (!license.is_empty()).then(|| license.to_owned()),
            source: "registry+https://index".to_owned(),
        }
    }

    fn all() -> Vec<Package> {
        vec![
            package("plain", "1.0.0", "MIT"),
            package("old-form", "1.0.0", "MIT/Apache-2.0"),
            package("llvm", "1.0.0", "Apache-2.0 WITH LLVM-exception"),
            package("odd", "1.0.0", "LGPL-3.0"),
            package("twice", "1.0.0", "MIT"),
            package("twice", "2.0.0", "GPL-3.0-only OR MIT"),
        ]
    }

    fn said(change: impl FnOnce(&mut Vec<Package>)) -> Vec<String> {
        let mut packages = all();
        change(&mut packages);
        problems(&packages, POLICY).expect("a policy")
    }

    #[test]
    fn nothing_is_wrong() {
        assert_eq!(said(|_| {}), [""; 0]);
    }

    #[test]
    fn each_that_is_wrong() {
        let add = |new: Package| move |all: &mut Vec<Package>| all.push(new);
        for (said, expected) in [
            (
                said(add(package("bad", "1.0.0", "GPL-3.0-only"))),
                "bad 1.0.0 may be used under GPL-3.0-only only",
            ),
            (
                said(add(package("bad", "1.0.0", "MIT AND GPL-3.0-only"))),
                "under MIT AND GPL-3.0-only only",
            ),
            (
                said(add(package("bad", "1.0.0", "LGPL-3.0"))),
                "bad 1.0.0 may be used under LGPL-3.0 only",
            ),
            (said(add(package("bad", "1.0.0", ""))), "bad 1.0.0 names no licence"),
            (said(add(package("bad", "1.0.0", "free as in beer"))), "free as in beer"),
            (said(add(package("twice", "3.0.0", "MIT"))), "more than one twice: 2.0.0, 3.0.0"),
            (said(|all| all.retain(|package| package.name != "odd")), "odd needs no exception"),
            (
                said(|all| all.retain(|package| package.version != "2.0.0")),
                "twice@1.0.0 need not be skipped",
            ),
            (
                said(|all| all.retain(|package| package.name != "llvm")),
                "no dependency needs the licence Apache",
            ),
            (
                said(|all| all[0].source = "git+https://elsewhere".to_owned()),
                "plain 1.0.0 comes from git+",
            ),
            (
                said(|all| all[0].source = "registry+https://elsewhere".to_owned()),
                "plain 1.0.0 comes from registry+",
            ),
        ] {
            assert!(said.len() == 1 && said[0].contains(expected), "{expected}: {said:?}");
        }
    }

    #[test]
    fn a_setting_that_is_not_checked_is_refused() {
        assert!(problems(&[], &format!("{POLICY}\n[advisories]\n")).is_err());
        assert!(problems(&[], &POLICY.replace("\"deny\"", "\"warn\"")).is_err());
    }
}
