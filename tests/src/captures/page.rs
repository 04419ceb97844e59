//! The captures' section of `docs/conformance.md`.
