//! What cargo sees of the world: nothing of the shell but an allowlist, and what the recipe says.

use std::collections::BTreeMap;
use std::sync::Once;

use camino::Utf8Path;

use super::recipe::{Recipe, Tools};
use crate::host;
use crate::report;

/// Taken from the shell as they are; none reaches the bytes of a binary.
const TAKEN: [&str; 4] = ["CARGO_BUILD_JOBS", "NO_COLOR", "TERM", "TMPDIR"];
/// Of the terminal that a build is watched on: how cargo draws there.
const OF_THE_TERMINAL: [&str; 3] = [
    "CARGO_TERM_COLOR",
    "CARGO_TERM_PROGRESS_WHEN",
    "CARGO_TERM_PROGRESS_WIDTH",
];
/// Below it cargo draws no bar that says anything.
const BAR_COLUMNS_MIN: usize = 40;
/// Taken from the shell besides, only where something is downloaded.
const TAKEN_FOR_DOWNLOADS: [&str; 10] = [
    "ALL_PROXY",
    "GIT_SSH_COMMAND",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSH_AUTH_SOCK",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "USER",
];
/// The same, by how they begin.
const TAKEN_FOR_DOWNLOADS_PREFIXES: [&str; 4] = [
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
];
/// Would change a build that a developer starts by hand, and are not passed.
const NOT_PASSED: [&str; 17] = [
    "AR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CC",
    "CFLAGS",
    "CPATH",
    "CPPFLAGS",
    "CXX",
    "CXXFLAGS",
    "C_INCLUDE_PATH",
    "LD",
    "LDFLAGS",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "RUSTC",
    "RUSTFLAGS",
    "SOURCE_DATE_EPOCH",
];
/// The same, by how they begin.
const NOT_PASSED_PREFIXES: [&str; 6] = [
    "CARGO_BUILD_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CFLAGS_",
    "RUSTC_",
    "CXXFLAGS_",
];
/// Begin like those, and reach no byte.
const NOT_WORTH_SAYING: [&str; 4] = [
    // cargo run sets it.
    "LD_LIBRARY_PATH",
    "CARGO_BUILD_JOBS",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_TARGET_DIR",
];

/// Folders whose paths are kept out of binaries, and what stands in their place.
#[derive(Clone, Debug)]
pub(super) struct Folders<'a> {
    /// What all mirrors lie in.
    pub(super) mirrors: &'a Utf8Path,
    /// What cargo builds in.
    pub(super) build: &'a Utf8Path,
    /// The state folder.
    pub(super) state: &'a Utf8Path,
}

impl Folders<'_> {
    /// Path and stand-in. The stand-ins are the same everywhere, so the bytes are.
    pub(super) fn remaps<'b>(&'b self, tools: &'b Tools) -> [(&'b Utf8Path, &'static str); 3] {
        [
            (self.mirrors, "/source"),
            (self.build, "/build"),
            (&tools.cargo_home, "/cargo"),
        ]
    }
}

/// What a build sees; `columns` are there for the bar of cargo, if somebody watches it.
pub(super) fn of_build(
    recipe: &Recipe,
    folders: &Folders<'_>,
    source_digest: &str,
    columns: Option<usize>,
) -> BTreeMap<String, String> {
    let tools = recipe.tools();
    let mut variables: BTreeMap<String, String> = taken(|name| TAKEN.contains(&name));
    let path = host::path();
    // git, started by a build script, must not find the repository around the mirror.
    let ceilings = [folders.state, folders.mirrors, folders.build].map(Utf8Path::as_str);
    let set = [
        // Build scripts that call rustc or cargo by name get this toolchain, too.
        ("PATH", format!("{}/bin:{path}", tools.sysroot)),
        ("LC_ALL", "C".to_owned()),
        ("CARGO_HOME", tools.cargo_home.to_string()),
        ("CARGO_TARGET_DIR", folders.build.to_string()),
        ("CARGO_BUILD_BUILD_DIR", folders.build.to_string()),
        ("CARGO_INCREMENTAL", "0".to_owned()),
        ("CARGO_ENCODED_RUSTFLAGS", encoded_flags(tools, folders)),
        ("RUSTC", tools.rustc.to_string()),
        // Empty: whatever configuration says, there is none.
        ("RUSTC_WRAPPER", String::new()),
        ("RUSTC_WORKSPACE_WRAPPER", String::new()),
        ("GIT_CEILING_DIRECTORIES", ceilings.join(":")),
        ("SOURCE_DATE_EPOCH", "0".to_owned()),
        ("E2E_SOURCE_DIGEST", source_digest.to_owned()),
        ("E2E_RUSTC", tools.rustc_version.clone()),
    ];
    let set = set.into_iter().chain(of_the_terminal(columns));
    variables.extend(set.map(|(name, value)| (name.to_owned(), value)));
    variables
}

/// No byte of a binary depends on them; what declares to read them is refused.
fn of_the_terminal(columns: Option<usize>) -> impl Iterator<Item = (&'static str, String)> {
    let (color, when) = match columns {
        Some(_) => ("always", "always"),
        None => ("never", "never"),
    };
    let values = [
        Some(color.to_owned()),
        Some(when.to_owned()),
        columns.map(|columns| columns.max(BAR_COLUMNS_MIN).to_string()),
    ];
    let both = OF_THE_TERMINAL.into_iter().zip(values);
    both.filter_map(|(name, value)| Some((name, value?)))
}

/// What a download sees besides.
pub(super) fn of_download() -> BTreeMap<String, String> {
    taken(|name| {
        let upper = name.to_ascii_uppercase();
        TAKEN_FOR_DOWNLOADS.contains(&upper.as_str())
            || begins_with(name, &TAKEN_FOR_DOWNLOADS_PREFIXES)
    })
}

/// Whether the value that a build sees of this variable is that of a shell or a terminal: in no
/// digest.
pub(super) fn comes_from_the_shell(name: &str) -> bool {
    name == "PATH" || TAKEN.contains(&name) || OF_THE_TERMINAL.contains(&name)
}

/// Says once which variables of the shell a build by hand would have seen.
pub(super) fn say_what_is_not_passed() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let names: Vec<String> = taken(|name| {
            (NOT_PASSED.contains(&name) || begins_with(name, &NOT_PASSED_PREFIXES))
                && !NOT_WORTH_SAYING.contains(&name)
        })
        .into_keys()
        .collect();
        if !names.is_empty() {
            report::note(&format!(
                "not passed to the build: {} (what reaches a build stands in files)",
                names.join(", ")
            ));
        }
    });
}

fn taken(wanted: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    // A variable that is not UTF-8 is none that we know.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| wanted(name) && !value.is_empty())
        .collect()
}

fn begins_with(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// One list for all packages, so that what they share is compiled once.
fn encoded_flags(tools: &Tools, folders: &Folders<'_>) -> String {
    let mut flags = tools.rustflags.clone();
    flags.push("-Ctarget-feature=+crt-static".to_owned());
    for (path, stand_in) in folders.remaps(tools) {
        flags.push(format!("--remap-path-prefix={path}={stand_in}"));
    }
    flags.join("\u{1f}")
}
