//! Which modules of its own crate a file names: in `use`, in paths, and in what macros and attributes are given.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::{
    Attribute, File, ItemMod, ItemUse, Macro, Meta, Path, UseTree,
    visit::{self, Visit},
};

/// A path into the crate, from its root, and the line that it stands on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Import {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// Every path that begins with `crate`, `self` or `super` in the file of `module`, which is a path from the root.
pub(super) fn imports(file: &File, module: &[String]) -> Vec<Import> {
    let mut visitor = Visitor { module: module.to_vec(), found: Vec::new() };
    visitor.visit_file(file);
    visitor.found
}

/// The names that a `use` brings in, each with the path that it stands for, as written; `*` for all.
pub(super) fn leaves(tree: &UseTree) -> Vec<(String, Vec<String>)> {
    fn walk(tree: &UseTree, before: &[String], found: &mut Vec<(String, Vec<String>)>) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => walk(&path.tree, &with(path.ident.to_string()), found),
            UseTree::Group(group) => group.items.iter().for_each(|tree| walk(tree, before, found)),
            // `a::{self}` is `a`.
            UseTree::Name(name) if name.ident == "self" => {
                found.push((before.last().cloned().unwrap_or_default(), before.to_vec()));
            }
            UseTree::Name(name) => {
                found.push((name.ident.to_string(), with(name.ident.to_string())));
            }
            UseTree::Rename(rename) if rename.ident == "self" => {
                found.push((rename.rename.to_string(), before.to_vec()));
            }
            UseTree::Rename(rename) => {
                found.push((rename.rename.to_string(), with(rename.ident.to_string())));
            }
            UseTree::Glob(_) => found.push(("*".to_owned(), with("*".to_owned()))),
        }
    }
    let mut found = Vec::new();
    walk(tree, &[], &mut found);
    found
}

struct Visitor {
    /// Where we are: inline modules too.
    module: Vec<String>,
    found: Vec<Import>,
}

impl Visitor {
    /// Notes a path as it is written, if it says where it begins in this crate.
    fn add(&mut self, written: &[String], span: Span) {
        let mut path = match written.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        for part in written {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => {
                    path.pop();
                }
                part => path.push(part.to_owned()),
            }
        }
        // `crate` by itself is a visibility.
        if written.len() > 1 {
            self.found.push(Import { path, line: span.start().line });
        }
    }

    /// Finds paths where there is no syntax yet.
    fn scan(&mut self, tokens: TokenStream, before: &[String]) {
        let mut path = before.to_vec();
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            let span = token.span();
            match token {
                TokenTree::Ident(ident) => {
                    path.push(ident.to_string());
                    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ':');
                    let colons =
                        tokens.next_if(is_colon).is_some() && tokens.next_if(is_colon).is_some();
                    match (colons, tokens.peek()) {
                        (true, Some(TokenTree::Ident(_))) => continue,
                        (true, Some(TokenTree::Group(group)))
                            if group.delimiter() == Delimiter::Brace =>
                        {
                            let group = group.stream();
                            tokens.next();
                            self.scan(group, &path);
                        }
                        _ => self.add(&path, span),
                    }
                }
                TokenTree::Group(group) => self.scan(group.stream(), &[]),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            path = before.to_vec();
        }
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for (_, path) in leaves(&item.tree) {
            self.add(&path, item.use_token.span);
        }
        visit::visit_item_use(self, item);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let parts: Vec<_> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if let Some(first) = path.segments.first() {
            self.add(&parts, first.ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.scan(call.tokens.clone(), &[]);
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone(), &[]);
        }
        visit::visit_attribute(self, attribute);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let file = syn::parse_file(text).expect(text);
        let module = ["cli", "top"].map(str::to_owned);
        imports(&file, &module).iter().map(|import| import.path.join("::")).collect()
    }

    #[test]
    fn every_way_to_name_a_module() {
        assert_eq!(found("use crate::{a::{self, B as C}, d::*};"), ["a", "a::B", "d::*"]);
        assert_eq!(found("use super::{other, super::agent::run};"), ["cli::other", "agent::run"]);
        assert_eq!(found("pub use self::rows::Row;"), ["cli::top::rows::Row"]);
        assert_eq!(
            found("fn f() -> crate::a::B<crate::c::D> { crate::e::f() }"),
            ["a::B", "c::D", "e::f"]
        );
        assert_eq!(found("mod tests { use super::*; use crate::a::B; }"), ["cli::top::*", "a::B"]);
        assert_eq!(found("impl crate::a::T for X {}"), ["a::T"]);
    }

    #[test]
    fn what_macros_and_attributes_are_given() {
        assert_eq!(found("fn f() { println!(\"{}\", crate::a::B); }"), ["a::B"]);
        assert_eq!(
            found("fn f() { m!({ let x = [crate::a::b(super::c::D)]; }); }"),
            ["a::b", "cli::c::D"]
        );
        assert_eq!(
            found("#[arg(value_parser = crate::flows::seconds)] struct S;"),
            ["flows::seconds"]
        );
        assert_eq!(
            found("macro_rules! m { () => { use crate::{a::B, c}; $crate::d::e() } }"),
            ["a::B", "c", "d::e"]
        );
    }

    #[test]
    fn what_leads_nowhere() {
        let nothing: [&str; 0] = [];
        assert_eq!(
            found("pub(crate) fn f(self) {} pub(super) struct S; use std::fs; // crate::a\n"),
            nothing
        );
        assert_eq!(found("/// [`crate::a::B`]\nfn f() { \"crate::a::B\"; }"), nothing);
        assert_eq!(found("pub(in crate::cli) fn f() {}"), ["cli"]);
    }

    #[test]
    fn lines() {
        let file =
            syn::parse_file("\n\nuse crate::a;\nfn f() {\n  crate::b::c();\n}").expect("it parses");
        let lines: Vec<_> = imports(&file, &[]).iter().map(|import| import.line).collect();
        assert_eq!(lines, [3, 5]);
    }
}
