//! The file with headers of requests: `Name: value`, one a line. Empty lines and those that begin with `#` mean nothing.

use hyper::{
    HeaderMap,
    header::{
        CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
        TRANSFER_ENCODING,
    },
};

use crate::model::error::{Error, Result};

/// The headers of a file.
///
/// # Errors
///
/// Where a line is none, or one that requests have already. The message has the line's number, and nothing of its value.
pub(super) fn parse(text: &[u8]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong = |what: &str| Error::text(format!("line {}: {what}", at + 1));
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = colon
            .and_then(|colon| line.split_at_checked(colon))
            .ok_or_else(|| wrong("no `Name: value`"))?;
        let name = HeaderName::from_bytes(name.trim_ascii())
            .map_err(|_| wrong("no name of a header is before the colon"))?;
        if OWN.contains(&name) {
            return Err(wrong("requests have their own header of this name"));
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let mut value = HeaderValue::from_bytes(value)
            .map_err(|_| wrong("the value has characters that a header cannot have"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// Headers that every request has.
const OWN: [HeaderName; 6] =
    [CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_header() {
        let text =
            b"# of the collector\nAuthorization: Bearer a:b=\r\n\nX-Scope-OrgID:  7 \nX-None:\n";
        let headers = parse(text).expect("three headers");
        let get = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
        assert_eq!(get("authorization"), Some(&b"Bearer a:b="[..]));
        assert_eq!(get("x-scope-orgid"), Some(&b"7"[..]));
        assert_eq!(get("x-none"), Some(&b""[..]));
        assert_eq!(headers.len(), 3);
        assert!(!format!("{headers:?}").contains("Bearer"), "it would be printed");
        assert!(parse(b"").is_ok_and(|headers| headers.is_empty()));
    }

    #[test]
    fn what_is_none_is_refused_without_its_value() {
        for (text, said) in [
            (&b"A: b\nsecret"[..], "line 2: no `Name: value`"),
            (b"a secret: b", "line 1: no name"),
            (b": secret", "no name"),
            (b"Content-Type: secret", "their own header"),
            (b"host: secret", "their own header"),
            (b"A: sec\x01ret", "characters"),
        ] {
            let error = parse(text).expect_err("it is wrong").to_string();
            assert!(error.contains(said) && !error.contains("secret"), "{error}");
        }
    }
}
