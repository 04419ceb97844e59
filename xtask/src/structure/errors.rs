//! Which layers may name anyhow: below the command line, errors are types that callers can tell apart.

use anyhow::{Result, anyhow};
use proc_macro2::{TokenStream, TokenTree};

use super::{Source, layers::module};

/// What only the command line may name.
const ERASING: &str = "anyhow";

/// The layer that reports errors and branches on none, and the crate's roots: one lists the layers, the other is the command.
const REPORTING: [&str; 3] = ["cli", "main", "lib"];

/// Each place below the command line where anyhow is named, also in tests; a line each.
///
/// # Errors
///
/// Where a file cannot be read as Rust.
pub(super) fn check(sources: &[&Source], root: &str) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for source in sources {
        let module = module(&source.path, root);
        if module.first().is_none_or(|layer| REPORTING.contains(&layer.as_str())) {
            continue;
        }
        let tokens: Result<TokenStream, _> = source.text.parse();
        let tokens = tokens.map_err(|error| anyhow!("{}: {error}", source.path))?;
        for line in lines(tokens) {
            problems.push(format!(
                "{}:{line}: `{ERASING}` is named below the command line; errors there are `crate::model::error::Error`",
                source.path
            ));
        }
    }
    Ok(problems)
}

/// The lines where it is named; comments and strings are no names.
fn lines(tokens: TokenStream) -> Vec<usize> {
    tokens
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Group(group) => lines(group.stream()),
            TokenTree::Ident(name) if name == ERASING => vec![name.span().start().line],
            _ => Vec::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Result<Vec<String>> {
        check(&[&Source { path: format!("x/src/{path}.rs"), text: text.to_owned() }], "x/src")
    }

    #[test]
    fn below_the_command_line_it_is_found_wherever_it_is_named() -> Result<()> {
        for text in [
            "use anyhow::Result;",
            "use ::anyhow::{Context as _, bail};",
            "fn f() -> anyhow::Result<()> { Ok(()) }",
            "fn f() { g(|| anyhow::bail!(\"no\")) }",
            "m! { [anyhow] }",
            "#[cfg(test)] mod tests { use anyhow::anyhow; }",
        ] {
            for path in ["model/error", "kernel/mod", "client/listen", "agent/protect/keys"] {
                let problems = problems(path, text)?;
                let place = format!("x/src/{path}.rs:1: `anyhow` is named");
                assert!(problems.iter().all(|said| said.starts_with(&place)), "{problems:?}");
                assert!(!problems.is_empty(), "{path}: {text}");
            }
        }
        let second = problems("agent/run", "use std::fs;\nuse anyhow::Result;\n")?;
        assert!(second[0].starts_with("x/src/agent/run.rs:2: "), "{second:?}");
        Ok(())
    }

    #[test]
    fn elsewhere_it_is_not_and_words_are_no_names() -> Result<()> {
        for path in ["cli/flows", "cli/mod", "main", "lib"] {
            assert_eq!(problems(path, "use anyhow::Result;")?, [""; 0]);
        }
        let words = "//! As anyhow does.\n/// anyhow\nconst A: &str = \"anyhow\"; // anyhow\n";
        assert_eq!(problems("model/error", words)?, [""; 0]);
        Ok(())
    }

    #[test]
    fn what_is_no_rust_is_no_file_without_it() {
        assert!(problems("model/error", "fn f( {").is_err());
    }
}
