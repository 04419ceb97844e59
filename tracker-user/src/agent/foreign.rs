//! Errors of the libraries that the agent is built with, which `?` and contexts take.

use std::{fmt, str::Utf8Error, sync::mpsc};

use caps::errors::CapsError;
use rustls::pki_types::pem;
use tokio::{
    io::unix::AsyncFdRegisterError,
    sync::{AcquireError, oneshot},
    task::JoinError,
    time::error::Elapsed,
};

use crate::model::failure::{Failure, foreign};

foreign!(
    AcquireError,
    CapsError,
    Elapsed,
    JoinError,
    Utf8Error,
    aya_log::Error,
    fmt::Error,
    jiff::Error,
    mpsc::RecvError,
    oneshot::error::RecvError,
    pem::Error,
    rustls::Error,
);

impl<T: Send + Sync + 'static> From<AsyncFdRegisterError<T>> for Failure {
    fn from(error: AsyncFdRegisterError<T>) -> Self {
        Self::foreign(error)
    }
}
