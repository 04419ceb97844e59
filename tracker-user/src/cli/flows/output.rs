//! A listing in each form, flow by flow.

use std::{
    cell::{Cell, RefCell},
    fmt::{self, Write as _},
    fs::File,
    io::{self, BufWriter, Write},
    os::fd::AsFd,
};

use anyhow::{Context, Result, anyhow};
use schemars::JsonSchema;
use serde::{
    Serialize,
    ser::{Error, SerializeSeq},
};
use serde_json::Serializer;

use super::{Form, Options, columns, listing::Listing, pretty::Pretty, screen};
use crate::{
    cli::terminal,
    model::{
        conntrack_line::ConntrackLine,
        format::{Format, Line},
        record::Record,
    },
};

/// Bytes that are written at once.
const BUFFER: usize = 1 << 16;

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Document")]
pub(crate) struct Document<F> {
    v: u32,
    flows: F,
}

/// Writes a listing to stdout after `head`, and returns how many flows there were.
///
/// # Errors
///
/// Where the flows cannot be read, or stdout cannot be written.
pub(super) fn write(listing: &Listing, options: &Options, head: &str) -> Result<u64> {
    // Not through std's stdout, which looks for lines to end its writes with.
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut out = BufWriter::with_capacity(BUFFER, stdout);
    out.write_all(head.as_bytes())?;
    let mut text = String::new();
    let mut line = |out: &mut BufWriter<File>, shown: &dyn fmt::Display| -> Result<()> {
        text.clear();
        // A string takes the many small pieces of a line faster than a writer.
        writeln!(text, "{shown}")?;
        Ok(out.write_all(text.as_bytes())?)
    };
    let mut count = 0;
    let mut each = |show: &mut dyn FnMut(&Record) -> Result<()>| {
        count = 0;
        listing.each(&mut |record| {
            count += 1;
            show(record)
        })
    };
    match options.output.format() {
        Format::Text if !options.columns.is_empty() => {
            count = columns::write(&mut out, listing, &options.columns, terminal::width())?;
        }
        Format::Text if options.output == Form::Conntrack => {
            each(&mut |record| line(&mut out, &ConntrackLine(record)))?;
        }
        Format::Text => match terminal::width().filter(|_| options.output == Form::Text) {
            Some(width) => {
                let mut widths = screen::widths();
                each(&mut |record| {
                    screen::add(&mut widths, record);
                    Ok(())
                })?;
                let grid = screen::grid(widths, width.into());
                grid.titles().iter().try_for_each(|line| writeln!(out, "{line}"))?;
                each(&mut |record| {
                    Ok(grid.lines(record).iter().try_for_each(|line| writeln!(out, "{line}"))?)
                })?;
            }
            None => each(&mut |record| line(&mut out, record))?,
        },
        Format::Json => {
            let list = List { listing, count: Cell::new(0), error: RefCell::new(None) };
            let mut serializer = Serializer::with_formatter(&mut out, Pretty::default());
            let written = Document { v: 1, flows: &list }.serialize(&mut serializer);
            if let Some(error) = list.error.take() {
                return Err(error);
            }
            written?;
            count = list.count.get();
            writeln!(out)?;
        }
        Format::Jsonl => each(&mut |record| {
            serde_json::to_writer(&mut out, &Line::new(record))?;
            Ok(writeln!(out)?)
        })?,
    }
    if options.watch.is_some() && options.output.format() == Format::Text {
        writeln!(out, "{count} flows")?;
    }
    out.flush().context("writing to stdout")?;
    Ok(count)
}

/// The list of a JSON document.
struct List<'a> {
    listing: &'a Listing,
    count: Cell<u64>,
    /// Why the flows could not be read.
    error: RefCell<Option<anyhow::Error>>,
}

impl Serialize for List<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let mut unwritten = None;
        let walked = self.listing.each(&mut |record| {
            self.count.set(self.count.get() + 1);
            list.serialize_element(record).map_err(|error| {
                unwritten = Some(error);
                anyhow!("the list ends here")
            })
        });
        match (unwritten, walked) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => {
                self.error.replace(Some(error));
                Err(S::Error::custom("the flows cannot be read"))
            }
            (None, Ok(())) => list.end(),
        }
    }
}
