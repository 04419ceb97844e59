//! The bearer token of `/metrics` (RFC 6750): a file with one line.

use std::{fmt, path::Path};

use hyper::header::HeaderValue;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    agent::secret_file,
    model::{
        error::{Context, Error, Result},
        failure::Failure,
    },
};

/// A token. It is wiped when dropped, and never shown.
pub struct Token(Zeroizing<Vec<u8>>);

impl fmt::Debug for Token {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

impl Token {
    /// Reads it from a file that only its owner may read. White space around it is left out.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, others may read it, or it is none that a header can have.
    pub fn read(path: &Path) -> Result<Self> {
        secret_file::read(path, MOST, "make a new token, because this one may be known")
            .and_then(|text| Self::parse(&text))
            .with_context(|| format!("the token in {}", path.display()))
            .map_err(|error| Failure::BadInput(format!("{error:#}")).into())
    }

    fn parse(text: &[u8]) -> Result<Self> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(Error::text("there is none: `openssl rand -hex 32` makes one"));
        }
        if !text.iter().all(u8::is_ascii_graphic) {
            return Err(Error::text(
                "it has other characters than letters, digits and signs of ASCII, or more than one line",
            ));
        }
        Ok(Self(Zeroizing::new(text.to_vec())))
    }

    /// Whether an Authorization header has this token. How long that takes does not depend on how much of it is right.
    #[must_use]
    pub fn is_in(&self, header: &HeaderValue) -> bool {
        let header = header.as_bytes();
        let Some((scheme, given)) = header.split_at_checked(SCHEME.len()) else { return false };
        scheme.eq_ignore_ascii_case(SCHEME) && bool::from(given.trim_ascii().ct_eq(&self.0))
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// What comes before the token.
const SCHEME: &[u8] = b"Bearer ";

/// Bytes that a file has at most.
const MOST: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_token_is_right() {
        let token = Token::parse(b"  s3cret+/=\n\n").expect("a token");
        for (header, expected) in [
            ("Bearer s3cret+/=", true),
            ("bearer s3cret+/=", true),
            ("Bearer  s3cret+/= ", true),
            ("Bearer s3cret+/", false),
            ("Bearer s3cret+/==", false),
            ("Bearer S3cret+/=", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic s3cret+/=", false),
            ("s3cret+/=", false),
            ("", false),
        ] {
            assert_eq!(token.is_in(&HeaderValue::from_static(header)), expected, "{header}");
        }
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_no_token() {
        for text in [&b""[..], b" \n", b"two words", b"two\nlines", b"\xc3\xa4", b"a\0"] {
            let error = Token::parse(text).expect_err("no token").to_string();
            assert!(!error.contains("two"), "{error}");
        }
    }
}
