//! What a kernel cannot do: the tests that must fail on it, each with the reason.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::kernel::Version;

/// The committed list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Absences {
    #[serde(default)]
    pub(crate) absent: Vec<Absence>,
}

/// Tests that fail on some kernels for a reason that is theirs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Absence {
    /// Names as `program::test`.
    pub(crate) tests: Vec<String>,
    /// The first kernel that has what they need; none has it without.
    pub(crate) before: Option<String>,
    /// The first kernel that lacks it.
    pub(crate) from: Option<String>,
    /// What the kernel lacks.
    pub(crate) reason: String,
}

impl Absences {
    /// Reads the list.
    ///
    /// # Errors
    ///
    /// Where it is not there or not valid.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let list = toml::from_str::<Self>(text)?;
        for absence in &list.absent {
            if absence.reason.trim().is_empty() || absence.tests.is_empty() {
                bail!("an absence needs tests and a reason: {absence:?}");
            }
            for version in absence.before.iter().chain(&absence.from) {
                Version::parse(version).with_context(|| format!("`{version}` is no version"))?;
            }
        }
        Ok(list)
    }

    /// Why a test must fail on a kernel, if it must.
    pub(crate) fn reason(&self, test: &str, version: &Version) -> Option<&str> {
        self.absent
            .iter()
            .find(|absence| {
                absence.tests.iter().any(|name| name == test)
                    && bound(absence.before.as_deref()).is_none_or(|before| *version < before)
                    && bound(absence.from.as_deref()).is_none_or(|from| *version >= from)
            })
            .map(|absence| absence.reason.as_str())
    }
}

fn bound(version: Option<&str>) -> Option<Version> {
    Version::parse(version?)
}

#[cfg(test)]
mod tests {
    use super::{Absences, Version};

    const LIST: &str = r#"
        [[absent]]
        tests = ["cookies::handed_over"]
        before = "6.9"
        reason = "bpf_sk_assign_tcp_reqsk"
    "#;

    #[test]
    fn an_absence_ends_with_its_kernel() {
        let list = Absences::parse(LIST).expect("valid");
        let on =
            |version| list.reason("cookies::handed_over", &Version::parse(version).expect("valid"));
        assert_eq!(on("6.1.192"), Some("bpf_sk_assign_tcp_reqsk"));
        assert_eq!(on("6.9.0"), None);
        assert_eq!(on("6.12.118"), None);
        assert_eq!(list.reason("cookies::other", &Version::parse("6.1").expect("valid")), None);
    }

    #[test]
    fn an_absence_without_a_reason_is_refused() {
        assert!(Absences::parse("[[absent]]\ntests = [\"a::b\"]\nreason = \"\"").is_err());
        assert!(
            Absences::parse("[[absent]]\ntests = [\"a::b\"]\nreason = \"x\"\nbefore = \"y\"")
                .is_err()
        );
        assert!(Absences::parse("[[absent]]\ntests = [\"a::b\"]").is_err());
    }
}
