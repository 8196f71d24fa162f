//! Room: whether disks and memory are enough for a run, told before anything is made, with the
//! sizes; and where it ended after all, which file system is full. Looks, and changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Error, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};

use crate::exit::{Exit, Failure};
use crate::report;

const KB: u64 = 1_000;
const MB: u64 = 1_000_000;

/// The fix where no port can be had.
pub const FIX_PORTS: &str = "end what listens there (`ss -Hltn`), or widen the range: as root, `sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"`";

/// How the error of a full disk begins, so that it is not explained twice.
const FULL: &str = "a disk is full";
/// A disk that takes fewer may be full for want of files.
const FEW_FILES: u64 = 1_000;

/// What somebody is about to write somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// What it is, for people: `a first build`.
    pub what: &'static str,
    /// Where; it need not be there yet.
    pub path: Utf8PathBuf,
    /// How much of it.
    pub bytes: u64,
    /// In how many files.
    pub files: u64,
    /// What to do where it does not fit.
    pub fix: &'static str,
}

/// A file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Tells it from others.
    pub device: u64,
    /// Where it begins.
    pub mount: Utf8PathBuf,
    /// What this user may still write.
    pub free_bytes: u64,
    /// How large it is.
    pub total_bytes: u64,
    /// How many files it still takes; `None` where it has no bound.
    pub free_files: Option<u64>,
}

/// Memory that processes could still have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What could still be had.
    pub free_bytes: u64,
    /// How much there is in all.
    pub total_bytes: u64,
}

/// Ports that the kernel gives to whoever asks for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// As many as were needed, or fewer.
    pub had: u64,
    /// How many there are in all, taken or not.
    pub total: u64,
}

/// What came of a look at one place.
#[derive(Debug)]
pub struct Verdict {
    /// Place, need and finding in one line.
    pub line: String,
    /// What to do, where it is not enough.
    pub fix: Option<&'static str>,
}

/// Sums up what is needed on each file system and compares it with what is there. A place that
/// cannot be looked at is left out: the engine may be on another machine.
pub fn judge_disks(needs: &[Need], look: impl Fn(&Utf8Path) -> io::Result<Space>) -> Vec<Verdict> {
    let mut places: BTreeMap<u64, (Space, Vec<&Need>)> = BTreeMap::new();
    for need in needs {
        if let Ok(space) = look(&need.path) {
            let place = places
                .entry(space.device)
                .or_insert_with(|| (space, Vec::new()));
            place.1.push(need);
        }
    }
    let judged = places.values();
    judged
        .map(|(space, needs)| judge_disk(space, needs))
        .collect()
}

fn judge_disk(space: &Space, needs: &[&Need]) -> Verdict {
    let needed_bytes: u64 = needs.iter().map(|need| need.bytes).sum();
    let needed_files: u64 = needs.iter().map(|need| need.files).sum();
    let short_of_files = space.free_files.is_some_and(|free| free < needed_files);
    let short = space.free_bytes < needed_bytes || short_of_files;
    let mut line = format!(
        "{}: {} are free of {}, {} are needed",
        space.mount,
        size(space.free_bytes),
        size(space.total_bytes),
        size(needed_bytes)
    );
    if let Some(free) = space.free_files.filter(|_| short_of_files) {
        let _ = write!(
            line,
            "; it takes {free} more files, and {needed_files} are to be made"
        );
    }
    let parts: Vec<String> = needs
        .iter()
        .map(|need| format!("{} {} in {}", need.what, size(need.bytes), need.path))
        .collect();
    let _ = write!(line, " ({})", parts.join(", "));
    // One fix: that of the part which would give back the most.
    let largest = needs.iter().max_by_key(|need| need.bytes);
    Verdict {
        line,
        fix: largest.filter(|_| short).map(|need| need.fix),
    }
}

/// Compares what containers ask for with what is there.
#[must_use]
pub fn judge_memory(needs: &[(&'static str, u64)], found: Memory) -> Verdict {
    let needed_bytes: u64 = needs.iter().map(|(_, bytes)| bytes).sum();
    let parts: Vec<String> = needs
        .iter()
        .map(|(what, bytes)| format!("{what} {}", size(*bytes)))
        .collect();
    Verdict {
        line: format!(
            "memory: {} are free of {}, {} are needed ({})",
            size(found.free_bytes),
            size(found.total_bytes),
            size(needed_bytes),
            parts.join(", ")
        ),
        fix: (found.free_bytes < needed_bytes)
            .then_some("end what else uses memory here (other runs: `cargo xtask status`)"),
    }
}

/// Compares how many ports are published with how many could be had.
#[must_use]
pub fn judge_ports(needed: u64, found: Ports) -> Verdict {
    let Ports { had, total } = found;
    if had >= needed {
        return Verdict {
            line: format!("ports of 127.0.0.1: containers publish {needed}, and so many are free"),
            fix: None,
        };
    }
    Verdict {
        line: format!(
            "ports of 127.0.0.1: containers publish {needed}, and only {had} of the kernel's {total} are free"
        ),
        fix: Some(FIX_PORTS),
    }
}

/// One error of all that is not enough.
///
/// # Errors
/// [`Exit::Host`], with the sizes and one fix.
pub fn demand(verdicts: &[Verdict]) -> Result<()> {
    let short: Vec<&Verdict> = verdicts
        .iter()
        .filter(|verdict| verdict.fix.is_some())
        .collect();
    let Some(fix) = short.first().and_then(|verdict| verdict.fix) else {
        return Ok(());
    };
    let lines: Vec<&str> = short.iter().map(|verdict| verdict.line.as_str()).collect();
    Err(Failure::new(
        Exit::Host,
        format!("there is not enough room here: {}", lines.join("\n  ")),
    )
    .hint(fix)
    .into())
}

/// The file system on which a path lies, or would lie.
///
/// # Errors
/// When it cannot be looked at.
pub fn space(path: &Utf8Path) -> io::Result<Space> {
    let mut ancestors = path.ancestors().peekable();
    let (there, device) = loop {
        let Some(path) = ancestors.peek() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        match fs::metadata(path) {
            Ok(found) => break (*path, found.dev()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        ancestors.next();
    };
    let real = there.canonicalize_utf8()?;
    let same = |folder: &&Utf8Path| fs::metadata(folder).is_ok_and(|found| found.dev() == device);
    let mount = real.ancestors().take_while(same).last().unwrap_or(&real);
    let found = rustix::fs::statvfs(there.as_str())?;
    Ok(Space {
        device,
        mount: mount.to_owned(),
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        free_files: (found.f_files > 0).then_some(found.f_favail),
    })
}

/// What the kernel and, in a container, its limit leave.
#[must_use]
pub fn memory() -> Option<Memory> {
    let host = of_host(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let read = |folder: &str, limit: &str, used: &str, reclaimable: &str| {
        let text = |name: &str| fs::read_to_string(format!("{folder}/{name}")).ok();
        of_limit(
            &text(limit)?,
            &text(used)?,
            &text("memory.stat")?,
            reclaimable,
        )
    };
    let limit = read(
        "/sys/fs/cgroup",
        "memory.max",
        "memory.current",
        "inactive_file",
    )
    .or_else(|| {
        read(
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        )
    });
    Some(match limit {
        Some(limit) if limit.free_bytes < host.free_bytes => limit,
        _ => host,
    })
}

/// The text of `/proc/meminfo`: what programs can have without swapping, and the free swap.
fn of_host(text: &str) -> Option<Memory> {
    let bytes = |name: &str| -> Option<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value
            .split_whitespace()
            .nth(1)?
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    Some(Memory {
        free_bytes: bytes("MemAvailable")? + bytes("SwapFree").unwrap_or(0),
        total_bytes: bytes("MemTotal")? + bytes("SwapTotal").unwrap_or(0),
    })
}

/// The files of a control group; pages of files that nobody uses are given back when needed.
fn of_limit(limit: &str, used: &str, stat: &str, reclaimable: &str) -> Option<Memory> {
    let limit: u64 = limit.trim().parse().ok()?;
    let used: u64 = used.trim().parse().ok()?;
    let given_back: u64 = stat
        .lines()
        .find_map(|line| line.strip_prefix(reclaimable)?.trim().parse().ok())
        .unwrap_or(0);
    Some(Memory {
        free_bytes: limit.saturating_sub(used.saturating_sub(given_back)),
        total_bytes: limit,
    })
}

/// Takes as many ports as are needed, all at the same time and for a moment: no table of the kernel
/// tells it as exactly, and reading those takes longer than all the rest.
#[must_use]
pub fn ports(needed: u64) -> Option<Ports> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let any = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let had: Vec<TcpListener> = (0..needed).map_while(|_| any().ok()).collect();
    Some(Ports {
        had: had.len() as u64,
        total: range_length(&range)?,
    })
}

fn range_length(range: &str) -> Option<u64> {
    let mut bounds = range.split_whitespace().map(str::parse::<u64>);
    let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

/// Whether these words say that a disk is full.
#[must_use]
pub fn says_disk_full(words: &str) -> bool {
    // As Rust, C, cargo, Go and PostgreSQL say it, and the same for a quota.
    const WORDS: [&str; 4] = [
        "no space left on device",
        "(os error 28)",
        "disk quota exceeded",
        "(os error 122)",
    ];
    let words = words.to_lowercase();
    WORDS.iter().any(|known| words.contains(known))
}

/// Whether these words say that memory was short.
#[must_use]
pub fn says_memory_full(words: &str) -> bool {
    const WORDS: [&str; 3] = ["cannot allocate memory", "(os error 12)", "out of memory"];
    let words = words.to_lowercase();
    WORDS.iter().any(|known| words.contains(known))
}

/// The error of something that ran out of room after all: names the fullest of the file systems on
/// which these places lie, with its sizes, or the memory. Any other error is given back as it is.
pub fn explain<'a>(error: Error, places: impl IntoIterator<Item = &'a Utf8Path>) -> Error {
    explain_with(error, places, space, memory)
}

/// As [`explain`], with what looks at disks and memory.
pub fn explain_with<'a>(
    error: Error,
    places: impl IntoIterator<Item = &'a Utf8Path>,
    look: impl Fn(&Utf8Path) -> io::Result<Space>,
    memory: impl Fn() -> Option<Memory>,
) -> Error {
    let words = format!("{error:#}");
    let message = if report::is_signal(&error) || words.starts_with(FULL) {
        None
    } else if says_disk_full(&words) {
        let found = places
            .into_iter()
            .filter_map(|path| Some((path, look(path).ok()?)));
        let fullest = found.min_by_key(|(_, space)| {
            // A file system without files left is as full as one without bytes.
            space
                .free_bytes
                .min(space.free_files.map_or(u64::MAX, |files| files * KB))
        });
        fullest.map(|(path, space)| full(path, &space))
    } else if says_memory_full(&words) {
        memory().map(|found| {
            let (free, total) = (size(found.free_bytes), size(found.total_bytes));
            (
                format!("the memory was not enough: {free} can be had of {total} now"),
                "end what else uses memory here, and run again".to_owned(),
            )
        })
    } else {
        None
    };
    match message {
        // As text: another hint further down must not be told in place of this one.
        Some((message, hint)) => Failure::new(Exit::Host, message)
            .hint(hint)
            .caused_by(anyhow!(words))
            .into(),
        None => error,
    }
}

fn full(path: &Utf8Path, space: &Space) -> (String, String) {
    let mut message = format!(
        "{FULL}: {} has {} free of {}",
        space.mount,
        size(space.free_bytes),
        size(space.total_bytes)
    );
    if let Some(files) = space.free_files.filter(|&files| files < FEW_FILES) {
        let _ = write!(message, ", and takes {files} more files");
    }
    let hint = format!(
        "free room on {} (here lies {path}), and run again",
        space.mount
    );
    (message, hint)
}

/// For people: `1.6 GB`, `12 MB`, `0 kB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..MB => format!("{} kB", bytes / KB),
        MB..1_000_000_000 => format!("{} MB", bytes / MB),
        _ => format!("{}.{} GB", bytes / (1000 * MB), bytes / (100 * MB) % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, of_host, of_limit, range_length, size};

    #[test]
    fn a_range_of_ports_has_both_its_ends() {
        assert_eq!(range_length("32768\t60999\n"), Some(28_232));
        assert_eq!(range_length("40000 40000"), Some(1));
        assert_eq!(range_length("40000"), None);
    }

    #[test]
    fn sizes_are_read_at_a_glance() {
        let sizes = [0, 999_999, 1_000_000, 999_999_999, 1_650_000_000].map(size);
        assert_eq!(sizes, ["0 kB", "999 kB", "1 MB", "999 MB", "1.6 GB"]);
    }

    #[test]
    fn memory_is_what_can_be_had() {
        let text = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\nSwapTotal: 200 kB\nSwapFree: 100 kB\n";
        let expected = Memory {
            free_bytes: 700 * 1024,
            total_bytes: 1200 * 1024,
        };
        assert_eq!(of_host(text), Some(expected));
        assert_eq!(of_host("MemTotal: 1000 kB\n"), None);
    }

    #[test]
    fn a_limit_counts_without_what_is_given_back() {
        let stat = "active_file 7\ninactive_file 300\n";
        let expected = Memory {
            free_bytes: 500,
            total_bytes: 1000,
        };
        assert_eq!(
            of_limit("1000\n", "800\n", stat, "inactive_file"),
            Some(expected)
        );
        assert_eq!(of_limit("max\n", "800\n", stat, "inactive_file"), None);
    }
}
