//! What stands on a terminal of each size: nothing is cut, split or out of line.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tracker_tests::{
    lab::{Bench, address},
    segment::{
        Segment,
        flag::{ACK, PSH, RST, SYN},
    },
    terminal::Terminal,
};

/// Rows and columns.
const SIZES: [(u16, u16); 3] = [(24, 80), (40, 120), (50, 200)];

/// Columns whose numbers are others each time.
const VOLATILE: [&str; 5] = ["AGE", "LEFT", "RTT_US", "B/S", "PKT/S"];

/// The longest addresses that there are.
const LONG: [&str; 2] = [
    "[2001:db8:1111:2222:3333:4444:5555:6666]:50000",
    "[2001:db8:7777:8888:9999:aaaa:bbbb:cccc]:50443",
];

/// Two connections over IPv4, of which one waits for its SYN,ACK, one with long addresses, and one that was refused.
fn flows() -> Result<Bench> {
    let bench = Bench::new()?;
    let ends = |port: u16| {
        (SocketAddr::new(address::PEER[0], port), SocketAddr::new(address::HOST[0], 80))
    };
    let long: (SocketAddr, SocketAddr) = (LONG[0].parse()?, LONG[1].parse()?);
    for (client, server) in [ends(1001), long] {
        bench.arrive(&Segment::new(client, server, SYN, 1, 0).frame())?;
        bench.leave(&Segment::new(server, client, SYN | ACK, 500, 2).frame())?;
        bench.arrive(&Segment::new(client, server, PSH | ACK, 2, 501).data(100).frame())?;
    }
    for port in [1002, 1003] {
        let (client, server) = ends(port);
        bench.arrive(&Segment::new(client, server, SYN, 1, 0).frame())?;
    }
    let (client, server) = ends(1003);
    bench.leave(&Segment::new(server, client, RST | ACK, 0, 2).frame())?;
    bench.settle()?;
    Ok(bench)
}

/// A table of a screen from its titles on, with `_` for what is another each time.
fn table(screen: &str) -> Result<String> {
    let lines: Vec<_> = screen.lines().collect();
    let is_title = |line: &&str| line.contains("SRC") && line.contains("STATES");
    let start = lines.iter().position(is_title).context("titles")?;
    let ends: Vec<usize> = VOLATILE
        .iter()
        .filter_map(|title| Some(lines[start].find(&format!(" {title}"))? + 1 + title.len()))
        .collect();
    let masked = |line: &str| {
        let mut letters: Vec<char> = line.chars().collect();
        for end in ends.iter().copied() {
            if end > letters.len() {
                continue;
            }
            let is_number = letters[end - 1].is_alphanumeric() || letters[end - 1] == '-';
            if !is_number || letters.get(end).is_some_and(|next| *next != ' ') {
                continue;
            }
            let mut place = end;
            while place > 0 && letters[place - 1] != ' ' {
                place -= 1;
                letters[place] = ' ';
            }
            letters[end - 1] = '_';
        }
        letters.into_iter().collect::<String>().trim_end().to_owned()
    };
    let rows = lines[start + 1..].iter().take_while(|line| !line.starts_with("violations"));
    let rows = rows.map(|line| masked(line));
    let text =
        [lines[start].trim_end().to_owned()].into_iter().chain(rows).collect::<Vec<_>>().join("\n");
    Ok(text.trim_end().to_owned())
}

/// Every flow stands there whole.
fn is_whole(screen: &str) -> bool {
    let others =
        ["10.9.0.2:1001", "10.9.0.2:1002", "10.9.0.2:1003", "ESTAB/ESTAB", "SYN_SENT/LISTEN"];
    LONG.into_iter().chain(others).all(|word| screen.split_whitespace().any(|it| it == word))
}

#[test]
fn flows_on_every_terminal() -> Result<()> {
    let bench = flows()?;
    for size in SIZES {
        let mut terminal =
            Terminal::start(&bench.agent, size, true, &["flows", "--sort", "sport"])?;
        let screen = terminal.until("the footer", |screen| screen.contains("4 flows shown"))?;
        ensure!(is_whole(&screen), "{screen}");
        insta::assert_snapshot!(format!("flows-{}x{}", size.1, size.0), table(&screen)?);
        terminal.end()?;
    }
    let mut narrow =
        Terminal::start(&bench.agent, (24, 80), true, &["flows", "-4", "--sort", "sport"])?;
    let screen = narrow.until("the footer", |screen| screen.contains("3 flows shown"))?;
    insta::assert_snapshot!("flows-ipv4-80x24", table(&screen)?);
    narrow.end()?;
    let full = ["flows", "-o", "full", "--sport", "1001"];
    let mut terminal = Terminal::start(&bench.agent, (24, 200), true, &full)?;
    terminal
        .until("all of it", |screen| screen.contains("tcp 6") && screen.contains("history="))?;
    // A pipe has always had it.
    ensure!(bench.agent.ask(&["flows", "--sport", "1001"])?.starts_with("tcp 6 "));
    terminal.end()
}

#[test]
fn flows_again_and_again_on_every_terminal() -> Result<()> {
    let bench = flows()?;
    for size in SIZES {
        let line = ["flows", "--watch", "0.1", "--sort", "sport"];
        let mut terminal = Terminal::start(&bench.agent, size, true, &line)?;
        let screen = terminal.until("all", |screen| screen.contains("4 flows; q quits"))?;
        ensure!(is_whole(&screen), "{screen}");
        insta::assert_snapshot!(format!("watch-{}x{}", size.1, size.0), table(&screen)?);
        terminal.press("q")?;
        terminal.end()?;
    }
    // Four flows of two lines each are two pages here.
    let line = ["flows", "--watch", "0.1", "--sort", "sport"];
    let mut terminal = Terminal::start(&bench.agent, (8, 80), true, &line)?;
    terminal.until("the first page", |screen| screen.contains("1-2 of 4 flows"))?;
    terminal.press(" ")?;
    let screen = terminal.until("the second one", |screen| screen.contains("3-4 of 4 flows"))?;
    ensure!(screen.contains(LONG[0]) && !screen.contains(":1001"), "{screen}");
    terminal.press("b")?;
    terminal.until("the first one", |screen| screen.contains("1-2 of 4 flows"))?;
    terminal.press("q")?;
    terminal.end()
}

#[test]
fn top_on_every_terminal() -> Result<()> {
    let bench = flows()?;
    for size in SIZES {
        let line = ["top", "--every", "0.1", "--sort", "newest", "--reverse"];
        let mut terminal = Terminal::start(&bench.agent, size, true, &line)?;
        // The second look has rates.
        let screen =
            terminal.until("all", |screen| is_whole(screen) && screen.contains("new/s 0"))?;
        // The refused one is not half-open.
        for said in
            ["flows 4  half-open 1  ESTABLISHED 2", "half-open 1, most 1", "4 flows by newest"]
        {
            ensure!(screen.contains(said), "{said}:\n{screen}");
        }
        insta::assert_snapshot!(format!("top-{}x{}", size.1, size.0), table(&screen)?);
        terminal.press("?")?;
        // Nothing is left of the screen before: its last line is longer.
        let is_drawn = |screen: &str| {
            screen.lines().any(|line| line.trim_end() == "any key goes back  q quit")
        };
        let help = terminal.until("help", is_drawn)?;
        insta::assert_snapshot!(format!("help-{}x{}", size.1, size.0), help_of(&help));
        // It quits from everywhere.
        terminal.press("q")?;
        terminal.end()?;
    }
    Ok(())
}

/// The help, without what stands above.
fn help_of(screen: &str) -> String {
    let lines = screen.lines().skip_while(|line| !line.starts_with("q, Ctrl-C"));
    lines.map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn letters_only_where_there_is_no_unicode() -> Result<()> {
    let bench = flows()?;
    let top = |environment: &[(&str, &str)]| -> Result<String> {
        let line = ["top", "--every", "0.1"];
        let mut terminal = Terminal::start_in(&bench.agent, (24, 80), environment, &line)?;
        let screen = terminal.until("all", is_whole)?;
        terminal.press("q")?;
        terminal.end()?;
        Ok(screen)
    };
    for (term, locale, expected) in [
        ("xterm", "C.UTF-8", false),
        ("xterm", "en_US.utf8", false),
        ("xterm", "C", true),
        ("xterm", "de_DE.ISO-8859-1", true),
        ("vt100", "C.UTF-8", true),
        ("linux", "C.UTF-8", true),
    ] {
        let screen = top(&[("TERM", term), ("LC_ALL", locale)])?;
        ensure!(screen.is_ascii() == expected, "{term} {locale}:\n{screen}");
    }
    Ok(())
}
