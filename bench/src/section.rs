//! Sections of a page that a command writes, between markers.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context, Result, bail};

/// What a page begins with that is not there yet.
const PAGE: &str = "# Performance\n";

/// Puts a section into a page, in place of its former self or at the end.
///
/// # Errors
///
/// Where the page cannot be read or written, or has only one of the section's markers.
pub(crate) fn write(page: &Path, name: &str, command: &str, body: &str) -> Result<()> {
    let text = match fs::read_to_string(page) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => PAGE.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", page.display())),
    };
    let text = replaced(&text, name, command, body).with_context(|| page.display().to_string())?;
    fs::write(page, text).with_context(|| format!("writing {}", page.display()))
}

fn replaced(page: &str, name: &str, command: &str, body: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {name}: begin"), format!("<!-- {name}: end -->"));
    let section = format!("{begin}, written by `{command}` -->\n{}\n{end}", body.trim_end());
    match (page.find(&begin), page.find(&end)) {
        (None, None) => Ok(format!("{}\n\n{section}\n", page.trim_end())),
        (Some(from), Some(to)) if from < to => {
            Ok(format!("{}{section}{}", &page[..from], &page[to + end.len()..]))
        }
        _ => bail!("the markers of the section `{name}` are not a pair: take both out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_added_once_and_replaced_then() -> Result<()> {
        let once = replaced("# Page\n", "flood", "make", "one\n")?;
        let expected =
            "# Page\n\n<!-- flood: begin, written by `make` -->\none\n<!-- flood: end -->\n";
        assert_eq!(once, expected);
        let other = replaced(&once, "other", "make", "else")?;
        let twice = replaced(&other, "flood", "make", "two\nthree")?;
        assert_eq!(twice, other.replace("one", "two\nthree"));
        Ok(())
    }

    #[test]
    fn half_a_pair_is_refused() {
        assert!(replaced("<!-- flood: begin -->", "flood", "make", "").is_err());
        assert!(replaced("<!-- flood: end --><!-- flood: begin -->", "flood", "make", "").is_err());
    }
}
