//! What the main job needs of this machine, what is there, and what gives it. Looks at files only:
//! whether the engine works is the engine's own affair.

use camino::Utf8Path;

use super::{podman_helper, program};

/// Something that the main job uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// What it is called.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// The Debian packages that give it.
    pub packages: &'static [&'static str],
    /// Where it was found.
    pub found: Option<String>,
    /// Whose part it is.
    pub part: Part,
}

/// Which part of the main job a need belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Nothing is built without it.
    Build,
    /// The engine uses it; an engine that works without it does not need it.
    Engine,
    /// Third-party images are made with it where no registry answers.
    Images,
}

/// Everything, found or not.
#[must_use]
pub fn all(root: &Utf8Path) -> Vec<Need> {
    let need = |name, purpose, packages, found: Option<String>, part| Need {
        name,
        purpose,
        packages,
        found,
        part,
    };
    let path = |name: &str| program(name).map(camino::Utf8PathBuf::into_string);
    let helper = |name: &str| podman_helper(name).map(camino::Utf8PathBuf::into_string);
    let mut needs = vec![
        need(
            "cc",
            "links what is built",
            &["gcc", "libc6-dev"][..],
            path("cc"),
            Part::Build,
        ),
        need(
            "libc.a",
            "is linked into static binaries",
            &["libc6-dev"][..],
            static_libc(),
            Part::Build,
        ),
        need(
            "podman",
            "runs the containers",
            &["podman"][..],
            path("podman"),
            Part::Engine,
        ),
        need(
            "runc",
            "starts them, also where crun cannot",
            &["runc"][..],
            path("runc"),
            Part::Engine,
        ),
        need(
            "netavark",
            "makes private networks",
            &["netavark"][..],
            helper("netavark"),
            Part::Engine,
        ),
        need(
            "aardvark-dns",
            "knows the services by name",
            &["aardvark-dns"][..],
            helper("aardvark-dns"),
            Part::Engine,
        ),
        need(
            "iptables",
            "publishes ports",
            &["iptables"][..],
            path("iptables"),
            Part::Engine,
        ),
    ];
    if root.join(".git").exists() {
        needs.push(need(
            "git",
            "tells which files are sources",
            &["git"][..],
            path("git"),
            Part::Build,
        ));
    }
    if !rustix::process::getuid().is_root() {
        needs.extend([
            need(
                "newuidmap",
                "lets a user run containers",
                &["uidmap"][..],
                path("newuidmap"),
                Part::Engine,
            ),
            need(
                "slirp4netns",
                "lets a user have networks",
                &["slirp4netns"][..],
                path("slirp4netns").or_else(|| path("pasta")),
                Part::Engine,
            ),
            need(
                "fuse-overlayfs",
                "lets a user keep images",
                &["fuse-overlayfs"][..],
                path("fuse-overlayfs"),
                Part::Engine,
            ),
        ]);
    }
    needs.push(need(
        "mmdebstrap",
        "makes third-party images where no registry answers",
        &["mmdebstrap"][..],
        path("mmdebstrap"),
        Part::Images,
    ));
    needs
}

/// Where the compiler looks for it, by the usual places.
fn static_libc() -> Option<String> {
    let architecture = std::env::consts::ARCH;
    [
        format!("/usr/lib/{architecture}-linux-gnu/libc.a"),
        "/usr/lib64/libc.a".to_owned(),
        "/usr/lib/libc.a".to_owned(),
    ]
    .into_iter()
    .find(|path| Utf8Path::new(path).is_file())
}
