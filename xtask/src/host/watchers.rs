//! Instances of inotify, which watch files: the kernel gives each user so many, 128 by default. Where
//! they are used up, parts of Kubernetes end with "too many open files" again and again, and nothing
//! else says why.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use camino::Utf8Path;

use super::room::Verdict;

/// What one node of kind uses: kubelet 9, controller manager and API server 8 each, systemd, containerd,
/// kube-proxy and the name service a few.
const NODE: u64 = 30;

const FIX: &str = "end other clusters (`cargo xtask clean`, `kind get clusters`), or allow more: as root, `sysctl -w fs.inotify.max_user_instances=512`";

/// How many instances a user has, and may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchers {
    /// Of all processes of this user that can be looked at.
    pub used: u64,
    /// What the kernel allows.
    pub total: u64,
}

/// Looks at every process of this user; nothing where the kernel tells no limit.
#[must_use]
pub fn watchers() -> Option<Watchers> {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").ok()?;
    let user = rustix::process::getuid().as_raw();
    let processes = Utf8Path::new("/proc").read_dir_utf8().ok()?.flatten();
    let own = processes.filter(|entry| {
        let is_process = entry.file_name().bytes().all(|byte| byte.is_ascii_digit());
        is_process && fs::metadata(entry.path()).is_ok_and(|found| found.uid() == user)
    });
    Some(Watchers {
        used: own.map(|process| instances(process.path())).sum(),
        total: limit.trim().parse().ok()?,
    })
}

/// One that has ended meanwhile has none.
fn instances(process: &Utf8Path) -> u64 {
    let files = process.join("fd").read_dir_utf8().into_iter().flatten();
    let watchers = files.flatten().filter(|file| {
        let target = fs::read_link(file.path());
        target.is_ok_and(|target| target.as_os_str() == "anon_inode:inotify")
    });
    u64::try_from(watchers.count()).unwrap_or(u64::MAX)
}

/// Whether so many nodes of kind find what they need.
#[must_use]
pub fn judge(nodes_count: u64, found: Watchers) -> Verdict {
    let (needed, free) = (nodes_count * NODE, found.total.saturating_sub(found.used));
    Verdict {
        line: format!(
            "watches on files (inotify instances): {free} of {} are free, kind needs {needed} for {nodes_count} {}",
            found.total,
            match nodes_count {
                1 => "node",
                _ => "nodes",
            },
        ),
        fix: (free < needed).then_some(FIX),
    }
}

#[cfg(test)]
mod tests {
    use super::{NODE, Watchers, judge, watchers};

    #[test]
    fn a_node_wants_its_watches() {
        let found = |used| Watchers { used, total: 128 };
        assert!(judge(1, found(128 - NODE)).fix.is_none());
        assert!(judge(1, found(129 - NODE)).fix.is_some());
        assert!(judge(2, found(128 - NODE)).fix.is_some());
        let told = judge(1, found(200));
        assert!(told.line.contains("0 of 128 are free"), "{}", told.line);
    }

    #[test]
    fn an_instance_of_our_own_is_counted() {
        let own = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC);
        // Those of others come and go; the one that is held is among them. Where none can be had, all are.
        let used = watchers().unwrap().used;
        assert!(used >= 1, "{own:?}");
    }
}
