//! The picture in README.md: what draws it works, and draws what is on the screen.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use roxmltree::{Document, Node};
use tracker_tests::agent::tracker;

const SVG: &str = "http://www.w3.org/2000/svg";

/// The texts of a picture, by lines from top to bottom, and whether any is in a colour of its own.
fn texts(svg: &str) -> Result<(Vec<String>, bool)> {
    let document = Document::parse(svg).context("the picture is no XML")?;
    let root = document.root_element();
    ensure!(root.has_tag_name((SVG, "svg")) && root.attribute("viewBox").is_some(), "no SVG");
    let is_text = |node: &Node<'_, '_>| node.has_tag_name((SVG, "text"));
    let mut rows: Vec<(&str, String)> = Vec::new();
    for text in document.descendants().filter(is_text) {
        let (y, words) = (text.attribute("y").context("y")?, text.text().context("words")?);
        match rows.last_mut() {
            Some((row, line)) if *row == y => *line = format!("{line}  {words}"),
            _ => rows.push((y, words.to_owned())),
        }
    }
    let is_coloured =
        document.descendants().any(|node| is_text(&node) && node.attribute("fill").is_some());
    Ok((rows.into_iter().map(|(_, line)| line).collect(), is_coloured))
}

/// Whether what README.md says about `tracker top` is in the picture.
fn check(svg: &str) -> Result<()> {
    let (lines, is_coloured) = texts(svg)?;
    let all = lines.join("\n");
    ensure!(is_coloured, "no colours: {all}");
    for words in [
        "tracker top",
        "packets/s in",
        "cookies 10.9.0.1:443  mode=auto",
        "half-open",
        "TIME_WAIT",
        "ESTAB / ESTAB",
        "FIN_W2 / CLOSE_W",
        "violations, the newest first",
        "seq_out_of_window",
        "q quit",
    ] {
        // Both states of a flow have a colour each.
        let found = all.replace("  /  ", " / ").contains(words);
        ensure!(found, "`{words}` is missing:\n{all}");
    }
    Ok(())
}

#[test]
fn it_shows_the_screen() -> Result<()> {
    let file = std::env::temp_dir().join(format!("tracker-top-{}.svg", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_picture"))
        .arg(&file)
        .arg("8")
        .env("TRACKER_BIN", tracker()?)
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let svg = fs::read_to_string(&file)?;
    fs::remove_file(&file)?;
    check(&svg)
}

#[test]
fn the_committed_one_is_such_a_picture() -> Result<()> {
    check(include_str!("../../docs/top.svg"))
}
