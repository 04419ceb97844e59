//! Who has the socket of a connection's end: processes, their user and control group, and what its name tells of container and pod.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who has a socket. What cannot be seen is absent.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, JsonSchema)]
pub struct Owner {
    /// Processes that have it open.
    pub processes: Vec<Process>,
    /// The user that made it, by number.
    pub uid: u32,
    /// The same by name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// The control group of the first process, from the root of the hierarchy on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cgroup: Option<String>,
    /// The container that this is, by its runtime's identifier of 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<String>,
    /// The pod of Kubernetes that the container belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Pod>,
}

/// A process.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, JsonSchema)]
pub struct Process {
    /// Its number, as the command that asks sees it.
    pub pid: u32,
    /// Its name, of 15 bytes at most (`/proc/PID/comm`).
    pub name: String,
}

/// A pod.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, JsonSchema)]
pub struct Pod {
    /// Its identifier.
    pub uid: String,
    /// Its namespace; absent where the kubelet keeps no log of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<String>,
    /// Its name; absent where the kubelet keeps no log of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.pid)
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, "{namespace}/{name}"),
            _ => f.write_str(&self.uid),
        }
    }
}

impl Owner {
    /// Its processes in one word.
    #[must_use]
    pub fn process_text(&self) -> Option<String> {
        let all: Vec<_> = self.processes.iter().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| all.join(","))
    }

    /// The user's name, or else number.
    #[must_use]
    pub fn user_text(&self) -> String {
        self.user.clone().unwrap_or_else(|| self.uid.to_string())
    }

    /// The container as runtimes show it: the first twelve digits.
    #[must_use]
    pub fn container_text(&self) -> Option<String> {
        self.container.as_deref().map(|id| id.chars().take(12).collect())
    }
}

/// The container that a control group is, by the names that Docker, containerd, CRI-O and Podman give: an identifier of 64 hexadecimal
/// digits, alone or behind a word, as a directory or as a scope of systemd.
#[must_use]
pub fn container(cgroup: &str) -> Option<&str> {
    const DIGITS: usize = 64;
    let id = |part: &str| {
        let at = part.len().checked_sub(DIGITS)?;
        let is_id = part.is_char_boundary(at)
            && part[at..].bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && (at == 0 || matches!(part.as_bytes()[at - 1], b'-' | b':'));
        is_id.then_some(at)
    };
    cgroup.rsplit('/').find_map(|part| {
        let part = part.strip_suffix(".scope").or(part.strip_suffix(".service")).unwrap_or(part);
        id(part).map(|at| &part[at..])
    })
}

/// The identifier of the pod that a control group belongs to, by the names that the kubelet gives: `podUID` below `kubepods`, with
/// underscores where systemd has slices.
#[must_use]
pub fn pod(cgroup: &str) -> Option<String> {
    let mut parts = cgroup.split('/').skip_while(|part| !part.starts_with("kubepods"));
    parts.find_map(|part| {
        let part = part.strip_suffix(".slice").unwrap_or(part);
        let (before, uid) = part.rsplit_once("pod")?;
        // That of `kubepods` itself.
        let is_own = before.is_empty() || before.ends_with('-');
        let is_uid = matches!(uid.len(), 32 | 36)
            && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
        (is_own && is_uid).then(|| uid.replace('_', "-"))
    })
}

/// The filter for owners.
#[derive(Clone, Debug, Default, Eq, PartialEq, clap::Args)]
#[command(next_help_heading = "Filters")]
pub struct OwnerFilter {
    /// Connections of a process with this name, or this number
    #[arg(long, value_name = "NAME|PID")]
    pub process: Option<String>,
    /// Connections of this user, by name or number
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Connections of this control group, and of those in it: `/system.slice/nginx.service`
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// Connections of the container whose identifier begins so
    #[arg(long, value_name = "ID")]
    pub container: Option<String>,
    /// Connections of a pod, by name or identifier
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub pod: Option<String>,
}

impl OwnerFilter {
    /// Whether anything is asked for.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether it is this owner that is asked for.
    #[must_use]
    pub fn matches(&self, owner: &Owner) -> bool {
        let process = |wanted: &String| {
            owner.processes.iter().any(|process| {
                process.name == *wanted || wanted.parse().is_ok_and(|pid: u32| pid == process.pid)
            })
        };
        let user = |wanted: &String| {
            owner.user.as_ref() == Some(wanted)
                || wanted.parse().is_ok_and(|uid: u32| uid == owner.uid)
        };
        let cgroup = |wanted: &String| {
            let wanted = wanted.trim_end_matches('/');
            let inside = owner.cgroup.as_deref().and_then(|cgroup| cgroup.strip_prefix(wanted));
            inside.is_some_and(|inside| inside.is_empty() || inside.starts_with('/'))
        };
        let container = |wanted: &String| {
            owner.container.as_ref().is_some_and(|id| id.starts_with(wanted.as_str()))
        };
        let pod = |wanted: &String| owner.pod.as_ref().is_some_and(|pod| pod.is_called(wanted));
        self.process.as_ref().is_none_or(process)
            && self.user.as_ref().is_none_or(user)
            && self.cgroup.as_ref().is_none_or(cgroup)
            && self.container.as_ref().is_none_or(container)
            && self.pod.as_ref().is_none_or(pod)
    }
}

impl Pod {
    fn is_called(&self, wanted: &str) -> bool {
        let name = self.name.as_deref();
        self.uid == wanted
            || match wanted.split_once('/') {
                Some((namespace, wanted)) => {
                    self.namespace.as_deref() == Some(namespace) && name == Some(wanted)
                }
                None => name == Some(wanted),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn containers_by_the_names_that_runtimes_give() {
        for (cgroup, is_one) in [
            (format!("/system.slice/docker-{ID}.scope"), true),
            (format!("/docker/{ID}"), true),
            (format!("/machine.slice/libpod-{ID}.scope/container"), true),
            (format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"), true),
            (format!("/kubepods.slice/crio-{ID}.scope"), true),
            (
                format!("/system.slice/containerd.service/kubepods-x.slice:cri-containerd:{ID}"),
                true,
            ),
            (format!("/docker/{}", &ID[1..]), false),
            (format!("/docker/x{ID}"), false),
            (format!("/docker/{}", ID.to_uppercase()), false),
            ("/system.slice/nginx.service".to_owned(), false),
            ("/".to_owned(), false),
            ("/é".to_owned(), false),
        ] {
            assert_eq!(container(&cgroup), is_one.then_some(ID), "{cgroup}");
        }
    }

    #[test]
    fn pods_by_the_names_that_the_kubelet_gives() {
        const UID: &str = "6e1d2f4a-1111-2222-3333-444455556666";
        let slice = UID.replace('-', "_");
        for (cgroup, wanted) in [
            (format!("/kubepods/burstable/pod{UID}/{ID}"), Some(UID)),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/x.scope"
                ),
                Some(UID),
            ),
            (format!("/kubepods.slice/kubepods-pod{slice}.slice"), Some(UID)),
            // A static pod's is a hash of its file.
            (format!("/kubepods/pod{}", &ID[..32]), Some(&ID[..32])),
            ("/kubepods/besteffort".to_owned(), None),
            (format!("/user.slice/pod{UID}"), None),
        ] {
            assert_eq!(pod(&cgroup).as_deref(), wanted, "{cgroup}");
        }
    }

    #[test]
    fn filters() {
        let owner = Owner {
            processes: vec![Process { pid: 42, name: "nginx".to_owned() }],
            uid: 33,
            user: Some("www-data".to_owned()),
            cgroup: Some("/system.slice/nginx.service".to_owned()),
            container: Some(ID.to_owned()),
            pod: Some(Pod {
                uid: "u".to_owned(),
                namespace: Some("shop".to_owned()),
                name: Some("web-1".to_owned()),
            }),
        };
        type Set = fn(&mut OwnerFilter) -> &mut Option<String>;
        let cases: [(Set, &[&str], &[&str]); 5] = [
            (|filter| &mut filter.process, &["nginx", "42"], &["ngin", "43", "33"]),
            (|filter| &mut filter.user, &["www-data", "33"], &["www", "42"]),
            (
                |filter| &mut filter.cgroup,
                &["/system.slice", "/system.slice/", "/system.slice/nginx.service", "/"],
                &["/system", "/system.slice/nginx", "nginx.service"],
            ),
            (|filter| &mut filter.container, &[&ID[..12], ID], &["1"]),
            (
                |filter| &mut filter.pod,
                &["web-1", "shop/web-1", "u"],
                &["web", "other/web-1", "shop"],
            ),
        ];
        for (set, right, wrong) in cases {
            for (wanted, is_right) in right
                .iter()
                .map(|wanted| (wanted, true))
                .chain(wrong.iter().map(|wanted| (wanted, false)))
            {
                let mut filter = OwnerFilter::default();
                assert!(!filter.is_any());
                *set(&mut filter) = Some((*wanted).to_owned());
                assert!(filter.is_any());
                assert_eq!(filter.matches(&owner), is_right, "{filter:?}");
                let nobody = Owner { uid: 7, ..Owner::default() };
                assert!(!filter.matches(&nobody), "{filter:?}");
            }
        }
    }
}
