//! The exporter `clickhouse`: rows in JSONEachRow over HTTP.

mod row;

use std::{path::PathBuf, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, HeaderValue},
};
use zeroize::Zeroizing;

use crate::{
    export::{
        http::{Address, Answer, Client, Compression, Service},
        record::ExportRecord,
        relay::{Receipt, Receiver, Refusal, Stop},
    },
    model::error::{Error, Result},
};

/// Where rows go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The server.
    pub address: Address,
    /// The table.
    pub table: Table,
    /// The user, where there is one.
    pub user: Option<String>,
    /// The user's password, in a file.
    pub password: Option<PathBuf>,
    /// Certificates of authorities in PEM, which the server's is checked by.
    pub authorities: PathBuf,
}

/// A server that `--export-clickhouse` names.
pub const SERVICE: Service = Service {
    example: "https://clickhouse.example:8443",
    port: 8123,
    tls_port: 8443,
    path: None,
    secrets: "--export-clickhouse-user, and a password in a file",
    authorities: "--export-clickhouse-ca",
};

/// A table of a database, as in `tracker.records`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table(String);

impl Default for Table {
    fn default() -> Self {
        Self("tracker.records".to_owned())
    }
}

impl FromStr for Table {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        match text.split_once('.') {
            Some((database, table)) if is_name(database) && is_name(table) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(format!("`{text}` is no DATABASE.TABLE of letters, digits and `_`")),
        }
    }
}

/// Returns the user's password as it is now; `None` where none is needed.
pub type Password = Box<dyn Fn() -> Result<Option<Zeroizing<Vec<u8>>>> + Send + Sync>;

/// A server.
pub struct Server {
    settings: Settings,
    password: Password,
}

impl Server {
    /// The server of these settings.
    #[must_use]
    pub fn new(settings: Settings, password: Password) -> Self {
        Self { settings, password }
    }

    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        let password = (self.password)()?;
        if let Some(user) = &self.settings.user {
            let mut plain = Zeroizing::new(format!("{user}:").into_bytes());
            plain.extend_from_slice(password.as_ref().map_or(&[][..], |password| password));
            let encoded = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*plain)));
            let mut value = HeaderValue::from_str(&encoded)
                .map_err(|_| Error::text("the user's name or password cannot be sent"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

impl Receiver for Server {
    fn name(&self) -> &'static str {
        "--export-clickhouse"
    }

    fn check(&self) -> Result<()> {
        (self.password)()?;
        Client::new(&self.settings.address, &self.settings.authorities).map(drop)
    }

    fn encode(&self, record: &ExportRecord) -> Option<Vec<u8>> {
        row::of(record)
    }

    fn split<'a>(&self, records: &'a [u8]) -> Vec<&'a [u8]> {
        records.split_inclusive(|byte| *byte == b'\n').collect()
    }

    fn send(&self, records: &[u8], stop: &Stop) -> Result<Receipt, Refusal> {
        let Settings { address, table, authorities, .. } = &self.settings;
        let target = format!(
            "/?query=INSERT%20INTO%20{}%20FORMAT%20JSONEachRow&input_format_skip_unknown_fields=1",
            table.0
        );
        let client = Client::new(address, authorities)?;
        let answer = client.post(&target, self.headers()?, (records, Compression::Gzip), stop)?;
        let code = code(&answer);
        if answer.status.is_success() && code.is_none() {
            return Ok(Receipt::default());
        }
        let error = answer.error().context(address.to_string());
        if answer.status == StatusCode::PAYLOAD_TOO_LARGE || code.is_some_and(is_of_content) {
            return Err(Refusal::Content(error));
        }
        Err(Refusal::Later { error, after: answer.retry_after() })
    }
}

/// The code of an exception, which servers before version 20 have in the text alone. The status tells nothing: in version 18.16 a row
/// that is no JSON is 500, and one with a bad date 400.
fn code(answer: &Answer) -> Option<Code> {
    let text = String::from_utf8_lossy(&answer.body);
    let header = answer.headers.get("x-clickhouse-exception-code");
    let number = match header.and_then(|value| value.to_str().ok()) {
        Some(number) => number.trim(),
        None => text.strip_prefix("Code: ")?.split([',', '.']).next()?,
    };
    let names_value = text.contains("the value of key ") || text.contains("(at row ");
    let is_of_partitions = text.contains("single INSERT block");
    Some(Code { number: number.parse().ok()?, names_value, is_of_partitions })
}

/// An exception of a server.
#[derive(Clone, Copy, Debug)]
struct Code {
    number: u16,
    /// Its text names a row, or a field of one.
    names_value: bool,
    /// Its text is about the partitions of one request.
    is_of_partitions: bool,
}

/// Whether an exception is about the rows. All others, of tables, columns, access, memory and disks among them, are not: a row
/// that is the reason of one of those waits.
fn is_of_content(code: Code) -> bool {
    match code.number {
        // LOGICAL_ERROR, which 18.16 says of elements that an Enum lacks.
        49 => code.names_value,
        // TOO_MANY_PARTS: wait, or divide.
        252 => code.is_of_partitions,
        number => CONTENT.contains(&number),
    }
}

/// Exceptions about values (ClickHouse, src/Common/ErrorCodes.cpp).
const CONTENT: [u16; 27] = [
    6,   // CANNOT_PARSE_TEXT
    25,  // CANNOT_PARSE_ESCAPE_SEQUENCE
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    32,  // ATTEMPT_TO_READ_AFTER_EOF
    33,  // CANNOT_READ_ALL_DATA
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    53,  // TYPE_MISMATCH
    69,  // ARGUMENT_OUT_OF_BOUND
    70,  // CANNOT_CONVERT_TYPE
    72,  // CANNOT_PARSE_NUMBER
    117, // INCORRECT_DATA
    130, // CANNOT_READ_ARRAY_FROM_TEXT
    131, // TOO_LARGE_STRING_SIZE
    190, // SIZES_OF_ARRAYS_DOESNT_MATCH
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    376, // CANNOT_PARSE_UUID
    395, // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
    407, // DECIMAL_OVERFLOW
    441, // CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING
    467, // CANNOT_PARSE_BOOL
    469, // VIOLATED_CONSTRAINT
    675, // CANNOT_PARSE_IPV4
    676, // CANNOT_PARSE_IPV6
    691, // UNKNOWN_ELEMENT_OF_ENUM
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        assert!("tracker.records".parse::<Table>().is_ok());
        for text in ["records", "a.b.c", "a.b c", "a.", "1.b", "a.b%20", "a.`b`"] {
            assert!(text.parse::<Table>().is_err(), "{text}");
        }
    }

    /// As version 18.16 says them, and later ones.
    #[test]
    fn what_is_refused_because_of_a_row() {
        let is_content = |status: u16, text: &'static str, header: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(code) = header {
                headers.insert("x-clickhouse-exception-code", HeaderValue::from_static(code));
            }
            let status = StatusCode::from_u16(status).expect("a status");
            code(&Answer { status, headers, body: text.into() }).is_some_and(is_of_content)
        };
        for (status, text) in [
            (500, "Code: 27, e.displayText() = DB::Exception: Cannot parse input: (at row 2)"),
            (
                500,
                "Code: 49, e.displayText() = DB::Exception: Unknown element 'z' for type Enum8('x' = 1): (while read the value of key b)",
            ),
            (400, "Code: 72, e.displayText() = DB::Exception: Unsigned type must not contain '-'"),
            (400, "Code: 38, e.displayText() = DB::Exception: Cannot parse date"),
            (500, "Code: 131, e.displayText() = DB::Exception: Too large value for FixedString(4)"),
            (500, "Code: 469. DB::Exception: Constraint `c` for table t.r is violated"),
            (
                500,
                "Code: 252. DB::Exception: Too many partitions for single INSERT block (more than 100)",
            ),
        ] {
            assert!(is_content(status, text, None), "{text}");
        }
        for (status, text) in [
            (404, "Code: 60, e.displayText() = DB::Exception: Table t.none doesn't exist."),
            (404, "Code: 81, e.displayText() = DB::Exception: Database none doesn't exist"),
            (500, "Code: 164, e.displayText() = DB::Exception: Cannot override setting"),
            (500, "Code: 291, e.displayText() = DB::Exception: Access denied to database t"),
            (401, "Code: 193, e.displayText() = DB::Exception: Wrong password for user a"),
            (500, "Code: 252, e.displayText() = DB::Exception: Too many parts (300)."),
            (500, "Code: 241. DB::Exception: Memory limit (total) exceeded"),
            (500, "Code: 49, e.displayText() = DB::Exception: something is wrong"),
            (400, "Bad Request"),
        ] {
            assert!(!is_content(status, text, None), "{text}");
        }
        assert!(is_content(500, "", Some("27")) && !is_content(500, "Code: 27, ", Some("60")));
    }
}
