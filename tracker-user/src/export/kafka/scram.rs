//! SCRAM (RFC 5802, RFC 7677): a broker and a user prove to each other that they know the password, which is not sent.
//!
//! As Kafka's own clients, it takes the password as it is, and does not normalise it by SASLprep.

use std::num::NonZeroU32;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use crate::model::error::{Error, Result};

/// The hash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

/// What the client has said first.
#[derive(Debug)]
pub(super) struct First {
    hash: Hash,
    nonce: String,
    bare: String,
}

/// What the broker's last message must prove.
pub(super) struct Expected {
    key: hmac::Key,
    message: String,
}

impl First {
    /// Begins, with a nonce of visible ASCII letters without commas.
    pub(super) fn new(hash: Hash, user: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self { hash, bare: format!("n={user},r={nonce}"), nonce }
    }

    /// The first message.
    pub(super) fn message(&self) -> String {
        format!("{WITHOUT_BINDING}{}", self.bare)
    }

    /// The client's last message, which answers the broker's first one.
    pub(super) fn answer(&self, first: &[u8], password: &[u8]) -> Result<(String, Expected)> {
        let first = std::str::from_utf8(first).map_err(|_| malformed())?;
        let mut fields = first.split(',');
        let mut field = |name: &str| fields.next().and_then(|field| field.strip_prefix(name));
        let nonce =
            field("r=").filter(|it| it.len() > self.nonce.len() && it.starts_with(&self.nonce));
        let nonce = nonce.ok_or_else(malformed)?;
        let salt = field("s=").and_then(|salt| STANDARD.decode(salt).ok()).ok_or_else(malformed)?;
        let rounds = field("i=").and_then(|it| it.parse::<u32>().ok()).ok_or_else(malformed)?;
        if !(LEAST_ROUNDS..=MOST_ROUNDS).contains(&rounds) {
            return Err(Error::text(format!(
                "the broker wants {rounds} rounds of SCRAM, which are not {LEAST_ROUNDS} to {MOST_ROUNDS}"
            )));
        }
        let rounds = NonZeroU32::new(rounds).ok_or_else(malformed)?;
        let (pbkdf2, hmac, digest) = match self.hash {
            Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256),
            Hash::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, hmac::HMAC_SHA512, &digest::SHA512),
        };
        let mut salted = Zeroizing::new(vec![0; digest.output_len()]);
        pbkdf2::derive(pbkdf2, rounds, &salt, password, &mut salted);
        let salted = hmac::Key::new(hmac, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored = digest::digest(digest, client_key.as_ref());
        let last = format!("c={},r={nonce}", STANDARD.encode(WITHOUT_BINDING));
        let message = format!("{},{first},{last}", self.bare);
        let signature = hmac::sign(&hmac::Key::new(hmac, stored.as_ref()), message.as_bytes());
        let both = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = both.map(|(key, signature)| key ^ signature).collect();
        let server_key = hmac::sign(&salted, b"Server Key");
        let key = hmac::Key::new(hmac, server_key.as_ref());
        Ok((format!("{last},p={}", STANDARD.encode(proof)), Expected { key, message }))
    }
}

impl Expected {
    /// Checks the broker's last message.
    pub(super) fn check(&self, last: &[u8]) -> Result<()> {
        let last = std::str::from_utf8(last).map_err(|_| malformed())?;
        let proof = last.split(',').next().and_then(|field| field.strip_prefix("v="));
        let proof = proof.and_then(|it| STANDARD.decode(it).ok()).ok_or_else(malformed)?;
        hmac::verify(&self.key, self.message.as_bytes(), &proof)
            .map_err(|_| Error::text("the broker does not prove that it knows the password"))
    }
}

fn malformed() -> Error {
    Error::text("the broker's answer is none of SCRAM")
}

/// The client knows no channel binding, and acts as nobody else.
const WITHOUT_BINDING: &str = "n,,";

/// As RFC 7677 section 4 wants: fewer make it easy to guess passwords.
const LEAST_ROUNDS: u32 = 4096;

/// So that a broker cannot keep the agent busy. Kafka has 16,384 at most.
const MOST_ROUNDS: u32 = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677 section 3.
    #[test]
    fn sha_256() {
        let first = First::new(Hash::Sha256, "user", "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(first.message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, expected) = first.answer(server, b"pencil").expect("an answer");
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let proof = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert!(expected.check(proof).is_ok());
        let (_, expected) = first.answer(server, b"pen").expect("an answer");
        assert!(expected.check(proof).is_err());
    }

    #[test]
    fn what_is_no_answer() {
        let first = First::new(Hash::Sha512, "a,b=c", "nonce".to_owned());
        assert_eq!(first.message(), "n,,n=a=2Cb=3Dc,r=nonce");
        let answers = |text: &str| first.answer(text.as_bytes(), b"secret").is_ok();
        assert!(answers("r=nonce1,s=YQ==,i=4096") && answers("r=nonce1,s=YQ==,i=8192,x=y"));
        for text in [
            "",
            "r=nonce,s=YQ==,i=4096",
            "r=other,s=YQ==,i=4096",
            "r=nonce1,s=?,i=4096",
            "r=nonce1,s=YQ==,i=4095",
            "r=nonce1,s=YQ==,i=200001",
            "m=x,r=nonce1,s=YQ==,i=4096",
            "e=other-error",
        ] {
            assert!(!answers(text), "{text}");
        }
    }
}
