//! What this kernel's own type information (BTF) says.

use std::{fs, path::Path};

use btfparse::{ErrorKind, Offset, Readable, TypeInformation, TypeVariant};

use crate::model::error::{Context, Error, Result};

/// Where the kernel shows it.
pub const PATH: &str = "/sys/kernel/btf/vmlinux";

/// The types and functions of a kernel.
pub struct KernelTypes {
    types: TypeInformation,
}

/// A whole file in memory.
struct Bytes(Vec<u8>);

impl Readable for Bytes {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let wanted = usize::try_from(offset)
            .ok()
            .and_then(|start| self.0.get(start..start.checked_add(buffer.len())?))
            .ok_or_else(|| btfparse::Error::new(ErrorKind::EOF, "the file ends too early"))?;
        buffer.copy_from_slice(wanted);
        Ok(())
    }
}

impl KernelTypes {
    /// Those of the running kernel, from [`PATH`].
    ///
    /// # Errors
    ///
    /// Where the kernel has none, or they are not understood.
    pub fn of_this_kernel() -> Result<Self> {
        Self::read(Path::new(PATH))
    }

    /// Those in a file.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, or is not understood.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| {
            format!(
                "reading {}, the types of this kernel; use one built with CONFIG_DEBUG_INFO_BTF=y, as distributions \
                 ship it",
                path.display()
            )
        })?;
        let types = TypeInformation::new(&Bytes(bytes))
            .map_err(|error| Error::text(format!("{}: {}", path.display(), error.message())))?;
        Ok(Self { types })
    }

    /// The id of a function; `None` where the kernel has none of that name.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        self.id(name, |found| matches!(found, TypeVariant::Func(_)))
    }

    /// Bytes from the start of `struct NAME` to a member, which may be a member's member, as in `inet_conn.icsk_inet`.
    ///
    /// # Errors
    ///
    /// Where this kernel has no such member, or it is one of bits.
    pub fn offset(&self, name: &str, member: &str) -> Result<u32> {
        let id = self
            .id(name, |found| matches!(found, TypeVariant::Struct(_)))
            .with_context(|| format!("this kernel has no struct {name}"))?;
        match self.types.offset_of(id, member) {
            Ok((_, Offset::ByteOffset(bytes))) => Ok(bytes),
            Ok((_, Offset::BitOffsetAndSize(..))) => {
                Err(Error::text(format!("in this kernel, struct {name}'s {member} has no address")))
            }
            Err(error) => Err(Error::text(format!(
                "this kernel's struct {name} has no {member}: {}",
                error.message()
            ))),
        }
    }

    /// By name and kind: a struct and a function may have the same name.
    fn id(&self, name: &str, is_meant: impl Fn(&TypeVariant) -> bool) -> Option<u32> {
        self.types
            .get()
            .iter()
            .filter(|(_, found)| is_meant(found))
            .map(|(id, _)| *id)
            .find(|id| self.types.name_of(*id).is_some_and(|found| found == name))
    }
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::{Btf, BtfKind};

    use super::*;

    #[test]
    fn another_reader_finds_the_same_functions() {
        let ours = KernelTypes::of_this_kernel().expect("this kernel has types");
        let theirs = Btf::from_sys_fs().expect("this kernel has types");
        for name in ["bpf_sk_assign_tcp_reqsk", "tcp_conn_request", "tcp_v4_rcv", "no_such_thing"] {
            let expected = theirs.id_by_type_name_kind(name, BtfKind::Func).ok();
            assert_eq!(ours.function(name), expected, "{name}");
        }
        assert!(ours.function("tcp_v4_rcv").is_some());
        // A struct, and no function.
        assert_eq!(ours.function("tcp_sock"), None);
    }

    #[test]
    fn members_lie_where_the_kernel_says() {
        let types = KernelTypes::of_this_kernel().expect("this kernel has types");
        let offset = |name: &str, member: &str| types.offset(name, member).expect(member);
        // Part of what programs may rely on (include/uapi): known without BTF.
        assert_eq!(offset("tcphdr", "seq"), 4);
        assert_eq!(offset("tcphdr", "window"), 14);
        assert_eq!(offset("iphdr", "daddr"), 16);
        // A socket begins with what all sockets have, and that with what half-open ones have too.
        for nested in ["inet_conn", "inet_conn.icsk_inet", "inet_conn.icsk_inet.sk.__sk_common"] {
            assert_eq!(offset("tcp_sock", nested), 0, "{nested}");
        }
        assert_eq!(offset("sock_common", "skc_daddr"), 0);
        assert_eq!(offset("sock_common", "skc_rcv_saddr"), 4);
        // What is nested lies where its parts say.
        assert_eq!(
            offset("tcp_sock", "inet_conn.icsk_accept_queue.qlen"),
            offset("inet_connection_sock", "icsk_accept_queue")
                + offset("request_sock_queue", "qlen")
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let types = KernelTypes::of_this_kernel().expect("this kernel has types");
        let said = |result: Result<u32>| format!("{:#}", result.expect_err("nothing there"));
        assert!(said(types.offset("tcp_sack_sock", "x")).contains("no struct tcp_sack_sock"));
        assert!(
            said(types.offset("tcp_sock", "inet_conn.nowhere")).contains("no inet_conn.nowhere")
        );
        assert!(said(types.offset("tcphdr", "syn")).contains("has no address"));
        let missing = KernelTypes::read(Path::new("/nonexistent")).map(|_| 0);
        assert!(said(missing).contains("CONFIG_DEBUG_INFO_BTF"));
        let no_btf = KernelTypes::read(Path::new("/proc/version")).map(|_| 0);
        assert!(said(no_btf).starts_with("/proc/version: "));
    }
}
