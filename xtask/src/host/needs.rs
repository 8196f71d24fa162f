//! What the main job needs of this machine, what is there, and what gives it. Looks at files only:
//! whether the engine works is the engine's own affair.

use camino::{Utf8Path, Utf8PathBuf};

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
    /// The archives of an offline bundle are unpacked with it.
    Bundle,
    /// Images go to a registry and come from one with it.
    Registry,
    /// docker is used with it, by `ci` or where it is asked for; the main job does without.
    SecondEngine,
}

/// Who needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Everyone,
    /// Whoever is not root.
    Users,
    /// A tree that git keeps.
    Repositories,
}

/// A line of the list.
struct Line {
    name: &'static str,
    purpose: &'static str,
    packages: &'static [&'static str],
    part: Part,
    who: Who,
}

const fn line(
    part: Part,
    who: Who,
    name: &'static str,
    packages: &'static [&'static str],
    purpose: &'static str,
) -> Line {
    Line {
        name,
        purpose,
        packages,
        part,
        who,
    }
}

#[rustfmt::skip]
const LIST: [Line; 13] = [
    line(Part::Build, Who::Everyone, "cc", &["gcc", "libc6-dev"], "links what is built"),
    line(Part::Build, Who::Everyone, "libc.a", &["libc6-dev"], "is linked into static binaries"),
    line(Part::Build, Who::Repositories, "git", &["git"], "tells which files are sources"),
    line(Part::Engine, Who::Everyone, "podman", &["podman"], "runs the containers"),
    line(Part::Engine, Who::Everyone, "runc", &["runc"], "starts them, also where crun cannot"),
    line(Part::Engine, Who::Everyone, "netavark", &["netavark"], "makes private networks"),
    line(Part::Engine, Who::Everyone, "aardvark-dns", &["aardvark-dns"], "knows the services by name"),
    line(Part::Engine, Who::Everyone, "iptables", &["iptables"], "publishes ports"),
    line(Part::Engine, Who::Users, "newuidmap", &["uidmap"], "lets a user run containers"),
    line(Part::Engine, Who::Users, "slirp4netns", &["slirp4netns"], "lets a user have networks"),
    line(Part::Engine, Who::Users, "fuse-overlayfs", &["fuse-overlayfs"], "lets a user keep images"),
    line(Part::SecondEngine, Who::Everyone, "dockerd", &["docker.io"], "serves docker: for `--engine docker`, and for `ci`, which proves both"),
    line(Part::Images, Who::Everyone, "mmdebstrap", &["mmdebstrap"], "makes third-party images where no registry answers"),
];

/// Everything, found or not.
#[must_use]
pub fn all(root: &Utf8Path) -> Vec<Need> {
    let is_root = rustix::process::getuid().is_root();
    let has_git = root.join(".git").exists();
    LIST.iter()
        .filter(|line| match line.who {
            Who::Everyone => true,
            Who::Users => !is_root,
            Who::Repositories => has_git,
        })
        .map(|line| Need {
            name: line.name,
            purpose: line.purpose,
            packages: line.packages,
            found: found(line.name),
            part: line.part,
        })
        .collect()
}

/// What a bundle with packed archives needs.
#[must_use]
pub fn zstd() -> Need {
    Need {
        name: "zstd",
        purpose: "unpacks the images of the bundle",
        packages: &["zstd"],
        found: found("zstd"),
        part: Part::Bundle,
    }
}

/// What pushes images and takes them back.
#[must_use]
pub fn skopeo() -> Need {
    Need {
        name: "skopeo",
        purpose: "pushes images to a registry, and fetches them",
        packages: &["skopeo"],
        found: found("skopeo"),
        part: Part::Registry,
    }
}

/// The registry that the tests of pushing and fetching start for themselves.
#[must_use]
pub fn registry_of_tests() -> Need {
    Need {
        name: "docker-registry",
        purpose: "is the registry of tests",
        packages: &["docker-registry"],
        found: found("docker-registry"),
        part: Part::Registry,
    }
}

fn found(name: &str) -> Option<String> {
    match name {
        "libc.a" => static_libc(),
        "netavark" | "aardvark-dns" => podman_helper(name).map(Utf8PathBuf::into_string),
        // Its successor does as well.
        "slirp4netns" => program(name)
            .or_else(|| program("pasta"))
            .map(Utf8PathBuf::into_string),
        name => program(name).map(Utf8PathBuf::into_string),
    }
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
