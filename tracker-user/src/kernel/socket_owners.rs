//! Who has the sockets of a network namespace: the kernel's sock_diag says which sockets there are, and /proc who has them open.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
};

use netlink_packet_sock_diag::inet::{ExtensionFlags, StateFlags};
use nix::unistd::{Uid, User};

use crate::{
    kernel::{net_namespace, sock_diag::each_socket},
    model::{
        error::Result,
        owner::{Owner, Pod, Process, container, pod},
        record::{Ends, Record},
    },
};

/// Where the kubelet keeps logs: a directory `NAMESPACE_NAME_UID` for each pod of this host.
const POD_LOGS: &str = "/var/log/pods";

/// Sockets of connections by their ends, this host's first. One that has no process any more has no inode.
struct Sockets(HashMap<Ends, Socket>);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Socket {
    inode: u32,
    uid: u32,
}

impl Sockets {
    fn of_this_namespace() -> Result<Self> {
        let mut found = HashMap::new();
        let states = StateFlags::all() - StateFlags::LISTEN;
        each_socket(&states, &ExtensionFlags::empty(), |socket| {
            let header = &socket.header;
            let id = &header.socket_id;
            let ends = Ends {
                src: id.source_address.to_canonical(),
                dst: id.destination_address.to_canonical(),
                sport: id.source_port,
                dport: id.destination_port,
            };
            if header.inode != 0 {
                found.insert(ends, Socket { inode: header.inode, uid: header.uid });
            }
        })?;
        Ok(Self(found))
    }
}

/// Whose sockets the ends of connections are, in one network namespace at one moment.
pub struct Owners {
    sockets: Sockets,
    /// Read when the first record comes that has a socket here.
    holders: Option<Holders>,
    is_blind: bool,
}

/// Who has sockets, as far as /proc and others say.
struct Holders {
    processes: HashMap<u32, Vec<Process>>,
    /// Whether every process could be looked at.
    sees_all: bool,
    pods: Pods,
    users: HashMap<u32, Option<String>>,
    cgroups: HashMap<u32, Option<String>>,
}

impl Owners {
    /// The sockets of the network namespace of the agent with this number.
    ///
    /// # Errors
    ///
    /// What the kernel says, or without `CAP_SYS_ADMIN` where that is another namespace.
    pub fn around(agent: Option<&str>) -> Result<Self> {
        let sockets = net_namespace::within(agent, Sockets::of_this_namespace)?;
        Ok(Self { sockets, holders: None, is_blind: false })
    }

    /// Adds the owners of its ends to a record, where this host has the socket.
    ///
    /// # Errors
    ///
    /// Where /proc cannot be read.
    pub fn complete(&mut self, record: &mut Record) -> io::Result<()> {
        let ends = record.ends();
        let [orig, reply] = [ends, ends.reversed()].map(|ends| self.sockets.0.get(&ends).copied());
        record.orig.owner = orig.map(|socket| self.owner(socket)).transpose()?;
        record.reply.owner = reply.map(|socket| self.owner(socket)).transpose()?;
        Ok(())
    }

    /// Whether the process of some record's socket is missing because this user may not look at all of them.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        self.is_blind
    }

    fn owner(&mut self, socket: Socket) -> io::Result<Owner> {
        let holders = match &mut self.holders {
            Some(holders) => holders,
            none => none.insert(Holders::of(&self.sockets)?),
        };
        let processes = holders.processes.get(&socket.inode).cloned();
        self.is_blind |= processes.is_none() && !holders.sees_all;
        Ok(holders.owner(socket, processes.unwrap_or_default()))
    }
}

impl Holders {
    fn of(sockets: &Sockets) -> io::Result<Self> {
        let wanted = sockets.0.values().map(|socket| socket.inode).collect();
        let (processes, sees_all) = processes(&wanted)?;
        Ok(Self {
            processes,
            sees_all,
            pods: Pods::read(Path::new(POD_LOGS)),
            users: HashMap::new(),
            cgroups: HashMap::new(),
        })
    }

    fn owner(&mut self, socket: Socket, processes: Vec<Process>) -> Owner {
        let user = self.users.entry(socket.uid).or_insert_with(|| {
            User::from_uid(Uid::from_raw(socket.uid)).ok().flatten().map(|user| user.name)
        });
        let cgroup = processes.first().and_then(|process| {
            self.cgroups.entry(process.pid).or_insert_with_key(|pid| cgroup(*pid)).clone()
        });
        let container = cgroup.as_deref().and_then(container).map(str::to_owned);
        let pod = cgroup.as_deref().and_then(pod).map(|uid| self.pods.find(uid));
        Owner { processes, uid: socket.uid, user: user.clone(), cgroup, container, pod }
    }
}

/// The processes that have these sockets open, by the sockets' inodes; false where some may not be looked at.
fn processes(wanted: &HashSet<u32>) -> io::Result<(HashMap<u32, Vec<Process>>, bool)> {
    let mut found = HashMap::<u32, Vec<Process>>::new();
    let mut sees_all = true;
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let sockets = match sockets_of(&entry.path().join("fd"), wanted) {
            Ok(sockets) => sockets,
            Err(error) => {
                // Another one has just ended.
                sees_all &= error.kind() != io::ErrorKind::PermissionDenied;
                continue;
            }
        };
        if sockets.is_empty() {
            continue;
        }
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else { continue };
        for inode in sockets {
            let process = Process { pid, name: name.trim_end().to_owned() };
            found.entry(inode).or_default().push(process);
        }
    }
    found.values_mut().for_each(|processes| processes.sort_by_key(|process| process.pid));
    Ok((found, sees_all))
}

/// Those of the wanted sockets that a process has open, by the directory of its descriptors.
fn sockets_of(descriptors: &Path, wanted: &HashSet<u32>) -> io::Result<HashSet<u32>> {
    let mut found = HashSet::new();
    for open in fs::read_dir(descriptors)? {
        match fs::read_link(open?.path()) {
            Ok(target) => {
                let inode = target.to_str().and_then(inode);
                found.extend(inode.filter(|inode| wanted.contains(inode)));
            }
            // Root may read the directory, and without CAP_SYS_PTRACE not what is in it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // Closed meanwhile.
            Err(_) => {}
        }
    }
    Ok(found)
}

/// The inode in `socket:[N]`.
fn inode(target: &str) -> Option<u32> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A process's control group: that of the unified hierarchy, or else of systemd's.
fn cgroup(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    cgroup_of(&text)
}

fn cgroup_of(text: &str) -> Option<String> {
    let named = |prefix: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(_, rest)| rest.strip_prefix(prefix)).map(str::to_owned)
    };
    let unified = named(":");
    // Where both are mounted, the unified one may hold nothing.
    match unified.as_deref() {
        None | Some("/") => named("name=systemd:").or(unified),
        Some(_) => unified,
    }
}

/// The pods of this host by their identifiers: namespace and name.
struct Pods(HashMap<String, (String, String)>);

impl Pods {
    /// As the kubelet's logs say; none where there is no kubelet.
    fn read(logs: &Path) -> Self {
        let names = fs::read_dir(logs).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        Self(names.filter_map(|name| Self::entry(&name)).collect())
    }

    /// None of the three parts has an underscore.
    fn entry(name: &str) -> Option<(String, (String, String))> {
        let mut parts = name.split('_').map(str::to_owned);
        let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then_some((uid, (namespace, name)))
    }

    fn find(&self, uid: String) -> Pod {
        let (namespace, name) = self.0.get(&uid).cloned().unzip();
        Pod { uid, namespace, name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_sockets() {
        assert_eq!(inode("socket:[1234]"), Some(1234));
        for other in ["pipe:[1234]", "/dev/null", "socket:[]", "socket:[99999999999]"] {
            assert_eq!(inode(other), None, "{other}");
        }
    }

    #[test]
    fn control_groups_of_either_hierarchy() {
        for (text, wanted) in [
            ("0::/user.slice\n", Some("/user.slice")),
            ("0::/\n", Some("/")),
            ("12:cpu:/a\n1:name=systemd:/b\n0::/\n", Some("/b")),
            ("1:name=systemd:/b\n0::/c\n", Some("/c")),
            ("12:cpu:/a\n", None),
            ("", None),
        ] {
            assert_eq!(cgroup_of(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn pods_by_their_logs() {
        let entry = Pods::entry("shop_web-1_6e1d2f4a-1111-2222-3333-444455556666").expect("a pod");
        assert_eq!(entry.1, ("shop".to_owned(), "web-1".to_owned()));
        let pods = Pods([entry].into());
        let found = pods.find("6e1d2f4a-1111-2222-3333-444455556666".to_owned());
        assert_eq!(found.to_string(), "shop/web-1");
        assert_eq!(pods.find("other".to_owned()).to_string(), "other");
        assert_eq!(Pods::entry("one_two"), None);
        assert_eq!(Pods::entry("a_b_c_d"), None);
    }
}
