//! JSON laid out as serde_json's `PrettyFormatter` does, with two writes a field in place of one for each step of its indent.

use std::io::{self, Write};

use serde_json::ser::Formatter;

/// A new line, and more indent than a record of this program has.
const LINE: &[u8] = b"\n                                ";

/// Indents by two spaces.
#[derive(Debug, Default)]
pub(super) struct Pretty {
    depth: usize,
    /// Whether what is closed next has something in it.
    is_filled: bool,
}

impl Pretty {
    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        let indent = self.depth * 2;
        let (line, more) = LINE.split_at(LINE.len().min(1 + indent));
        writer.write_all(line)?;
        if more.is_empty() {
            (line.len() - 1..indent).try_for_each(|_| writer.write_all(b" "))?;
        }
        Ok(())
    }

    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: u8) -> io::Result<()> {
        self.depth += 1;
        self.is_filled = false;
        writer.write_all(&[bracket])
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: u8) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        if self.is_filled {
            self.line(writer)?;
        }
        writer.write_all(&[bracket])
    }

    fn next<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        self.line(writer)
    }
}

impl Formatter for Pretty {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b'[')
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b']')
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.next(to, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b'{')
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b'}')
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.next(to, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_filled = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde_json::{Serializer, Value, json};

    use super::*;

    #[test]
    fn as_serde_json_lays_it_out() {
        let mut deep = json!({"a": []});
        for _ in 0..20 {
            deep = json!([deep, {}]);
        }
        for value in [
            Value::Null,
            json!([]),
            json!({}),
            json!([[], {}, [1], "two"]),
            json!({"v": 1, "flows": [{"a": null, "b": {"c": {}, "d": [1.5, true]}}, {}]}),
            deep,
        ] {
            let mut text = Vec::new();
            let mut serializer = Serializer::with_formatter(&mut text, Pretty::default());
            value.serialize(&mut serializer).expect("JSON");
            let expected = serde_json::to_string_pretty(&value).expect("JSON");
            assert_eq!(String::from_utf8(text).expect("text"), expected);
        }
    }
}
