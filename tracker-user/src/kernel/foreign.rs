//! Errors of the libraries that ask the kernel, which `?` and contexts take.

use aya::{
    BtfError, EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};
use netlink_packet_core::DecodeError;

use crate::model::failure::foreign;

foreign!(
    BtfError,
    DecodeError,
    EbpfError,
    LinkError,
    MapError,
    PinError,
    ProgramError,
    object::Error,
    rtnetlink::Error,
);
