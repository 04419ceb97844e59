//! What packaging and documentation say of elements is what is sent.

use std::{collections::BTreeSet, fs, path::Path};

use super::{
    element::{Element, Kind, OWN, Owner, REVERSE},
    template,
};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All elements that are sent, each once.
fn sent() -> Vec<Element> {
    let mut all = Vec::new();
    for has_own in [false, true] {
        for element in template::all(has_own).into_iter().flat_map(|(_, _, elements)| elements) {
            if !all.contains(&element) {
                all.push(element);
            }
        }
    }
    all
}

/// `trackerConnState` is `conn_state` in pmacct's files.
fn name_in_pmacct(name: &str) -> String {
    let name = name.strip_prefix("tracker").unwrap_or(name);
    name.char_indices().fold(String::new(), |text, (at, letter)| {
        let separator = if at > 0 && letter.is_ascii_uppercase() { "_" } else { "" };
        format!("{text}{separator}{}", letter.to_ascii_lowercase())
    })
}

#[test]
fn templates_have_each_element_once_and_lead_nowhere_else() {
    for (number, scopes, elements) in template::all(true) {
        let keys: BTreeSet<_> = elements.iter().map(|it| (it.number, it.owner as u8)).collect();
        assert_eq!(keys.len(), elements.len(), "{number}");
        assert!(number >= 256 && elements.len() > usize::from(scopes), "{number}");
    }
    assert!(template::elements(255).is_empty());
    for (at, element) in OWN.iter().enumerate() {
        assert_eq!(usize::from(element.number), 101 + at, "{}", element.name);
        assert!(sent().contains(element) && element.kind != Kind::U8, "{}", element.name);
    }
}

#[test]
fn pmacct_s_files_have_the_elements_that_are_sent() {
    let (list, config) =
        (file("packaging/ipfix/tracker.lst"), file("packaging/ipfix/nfacctd.conf"));
    let aggregate = config.lines().find_map(|line| line.strip_prefix("aggregate: "));
    let aggregate: Vec<_> = aggregate.expect("an aggregate").split(", ").collect();
    let mut found = Vec::new();
    for line in list.lines().filter(|line| !line.starts_with('!')) {
        let fields: Vec<_> = line.split(' ').filter_map(|field| field.split_once('=')).collect();
        let [("name", name), ("field_type", number), ("len", length), ("semantics", kind)] =
            fields[..]
        else {
            panic!("{line}")
        };
        let (owner, number) = match number.split_once(':') {
            None => (Owner::Iana, number),
            Some(("32473", number)) => (Owner::Enterprise, number),
            Some((reverse, number)) => {
                assert_eq!(reverse, REVERSE.to_string(), "{line}");
                (Owner::Reverse, number)
            }
        };
        let number: u16 = number.parse().expect("a number");
        let element = sent().into_iter().find(|it| it.owner == owner && it.number == number);
        let element = element.unwrap_or_else(|| panic!("{line}: it is not sent"));
        let bytes = element.kind.length().map_or("vlen".to_owned(), |bytes| bytes.to_string());
        assert_eq!((length, kind == "str"), (&*bytes, element.kind == Kind::Text), "{line}");
        if owner == Owner::Enterprise {
            assert_eq!(name, name_in_pmacct(element.name), "{line}");
        }
        assert!(aggregate.contains(&name), "nfacctd.conf has no {name}");
        found.push(element);
    }
    // Those of options are of no flow.
    let of_flows = OWN.iter().filter(|it| !["trackerAgent", "trackerBootId"].contains(&it.name));
    for element in of_flows {
        assert!(found.contains(element), "tracker.lst has no {}", element.name);
    }
}

#[test]
fn the_page_has_every_element() {
    let page = file("docs/fleet.md");
    for element in sent() {
        let number = match element.owner {
            Owner::Iana => element.number.to_string(),
            Owner::Reverse => format!("{REVERSE}/{}", element.number),
            Owner::Enterprise => format!("PEN/{}", element.number),
        };
        let kind = match element.kind {
            Kind::U8 => "unsigned8",
            Kind::U16 => "unsigned16",
            Kind::U32 => "unsigned32",
            Kind::U64 => "unsigned64",
            Kind::Milliseconds => "dateTimeMilliseconds",
            Kind::Ipv4 => "ipv4Address",
            Kind::Ipv6 => "ipv6Address",
            Kind::Text => "string",
        };
        let name = match element.owner {
            Owner::Reverse => {
                let (first, rest) = element.name.split_at(1);
                format!("reverse{}{rest}", first.to_ascii_uppercase())
            }
            _ => element.name.to_owned(),
        };
        let row = format!("| {number} | `{name}` | {kind} |");
        assert!(page.contains(&row), "docs/fleet.md has no {row}");
    }
}
