//! What the machine is prepared for.

use crate::plan::Missing;

/// What the machine is prepared for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Building and running, the tests or the demonstration.
    Run,
    /// The benchmarks.
    Bench,
    /// Virtual machines with other kernels.
    Vm,
    /// Every test, here and in virtual machines.
    Test,
    /// Fuzzing.
    Fuzz,
    /// `cargo xtask lint`.
    Lint,
    /// All of it, but a missing piece that only lint needs is not an error.
    Everything,
}

impl Purpose {
    /// Whether something is going to be run that sets up networks.
    pub(crate) fn runs(self) -> bool {
        !matches!(self, Self::Lint | Self::Fuzz)
    }

    /// Whether fuzz targets are going to be built or checked.
    pub(crate) fn fuzzes(self) -> bool {
        matches!(self, Self::Fuzz | Self::Test | Self::Lint | Self::Everything)
    }

    /// Whether kernels are going to be booted.
    pub(crate) fn boots(self) -> bool {
        matches!(self, Self::Vm | Self::Test | Self::Everything)
    }

    /// Whether servers of others are going to receive records.
    pub(crate) fn exports(self) -> bool {
        matches!(self, Self::Test | Self::Everything)
    }

    /// Whether something is going to be checked.
    pub(crate) fn lints(self) -> bool {
        matches!(self, Self::Lint | Self::Everything)
    }

    /// Whether something is going to be measured.
    pub(crate) fn measures(self) -> bool {
        matches!(self, Self::Bench | Self::Everything)
    }

    /// Whether it comes to nothing without that piece.
    pub(crate) fn needs(self, missing: &Missing) -> bool {
        let is_extra = matches!(
            missing,
            Missing::BpfClippy(_)
                | Missing::Component(_)
                | Missing::Receiver(_)
                | Missing::Environment(_)
        );
        self == Self::Lint || !is_extra
    }
}
