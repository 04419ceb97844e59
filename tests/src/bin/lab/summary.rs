//! What was to be seen, and whether it was.

use crate::screen::Screen;

/// One line of the summary.
#[derive(Clone, Debug)]
struct Check {
    what: String,
    tracker: String,
    truth: String,
    ok: bool,
}

/// Everything that was to be seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    checks: Vec<Check>,
}

impl Summary {
    /// What tracker said and what is true, which must be the same.
    pub(crate) fn compare(
        &mut self,
        what: &str,
        tracker: &dyn ToString,
        truth: &dyn ToString,
    ) -> bool {
        let (tracker, truth) = (tracker.to_string(), truth.to_string());
        let ok = tracker == truth;
        self.checks.push(Check { what: what.to_owned(), tracker, truth, ok });
        ok
    }

    /// Something that could not be shown.
    pub(crate) fn missing(&mut self, what: &str) {
        self.checks.push(Check {
            what: what.to_owned(),
            tracker: "-".to_owned(),
            truth: "was to be seen".to_owned(),
            ok: false,
        });
    }

    /// What was to be seen and was not.
    pub(crate) fn gaps(&self) -> Vec<&str> {
        self.checks.iter().filter(|check| !check.ok).map(|check| check.what.as_str()).collect()
    }

    /// Shows the table.
    pub(crate) fn print(&self, screen: Screen) {
        const TITLES: [&str; 3] = ["what", "tracker", "known"];
        let cells =
            |check: &Check| [check.what.clone(), check.tracker.clone(), check.truth.clone()];
        screen.say("`known` is what was done here, or what the kernel says about it.");
        let mut widths = TITLES.map(str::len);
        for check in &self.checks {
            for (width, cell) in widths.iter_mut().zip(cells(check)) {
                *width = (*width).max(cell.len());
            }
        }
        let row = |[a, b, c]: [String; 3], mark: &str| {
            let [x, y, z] = widths;
            screen.line(&format!("  {a:x$}  {b:>y$}  {c:>z$}  {mark}"));
        };
        row(TITLES.map(str::to_owned), "");
        for check in &self.checks {
            row(cells(check), if check.ok { "ok" } else { "MISSING" });
        }
    }
}
