//! What commands say on an agent's socket, and what the agent answers: one line of JSON each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::scope::Scope;

/// What a command says that wants to read the agent's maps.
#[derive(Debug, Deserialize, Serialize)]
pub struct MapRequest {
    /// Version of this form: 1.
    pub v: u32,
    /// Always true.
    pub lend: bool,
    /// Instead of the tables, what the programs of each interface remember of broken rules.
    #[serde(default)]
    pub repeated: bool,
}

/// What `tracker delete` says.
#[derive(Debug, Deserialize, Serialize)]
pub struct DeleteRequest {
    /// Version of this form: 1.
    pub v: u32,
    /// Which flows, in the words of [`crate::model::filter::words`].
    pub delete: String,
}

/// The answer to every other user than root and the agent's own.
pub const DELETE_NEEDS_ROOT: &str = "deleting flows needs root: run this with sudo";

/// The answer to `tracker delete`, in one line.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub struct DeleteAnswer {
    /// Version of this form: 1.
    pub v: u32,
    /// How many flows were deleted, or why none was.
    #[serde(flatten)]
    pub result: DeleteResult,
}

/// See [`DeleteAnswer`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeleteResult {
    /// How many.
    Deleted(u64),
    /// Why not.
    Error(String),
}

/// What a listener says first, in one line.
#[derive(Debug, Deserialize, Serialize)]
pub struct EventRequest {
    /// Version of this form: 1.
    pub v: u32,
    /// The kinds of events that are wanted.
    pub events: Vec<String>,
    /// Whose, in words of few bits: the kernel sends SEGMENT events of others only if somebody else wants them, and
    /// the agent sends no event of theirs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace: Option<Scope>,
}
