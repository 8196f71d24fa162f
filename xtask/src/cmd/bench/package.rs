//! Package and load: from a static executable of 20 MB to an image that the engine lists. The floor
//! is the engine's own way to the same: build, save, load.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::{Figure, rounds, temporary};
use crate::engine::{Archive, Choice, Engine, smallest_executable};
use crate::image::{self, Contents};
use crate::process::{self, Invocation};
use crate::source::workspace::Workspace;

const BINARY_BYTES: usize = 20_000_000;
const DEADLINE: Duration = Duration::from_secs(120);
/// None of any target: it is removed at once.
const NAME: &str = "localhost/phase-zero-bench";

/// An archive of this measurement.
struct Written(Utf8PathBuf);

impl Archive for Written {
    fn path(&self) -> &Utf8Path {
        &self.0
    }
}

pub(super) fn measure(workspace: &Workspace, choice: Choice, count: usize) -> Result<Figure> {
    let (_folder, folder) = temporary()?;
    let engine = Engine::find(&workspace.state_directory(), choice)?;
    let mut packaging = Vec::new();
    let mut seed = 0;
    let mut other_seed = u64::MAX / 2;
    let (seconds, floor_seconds) = rounds(
        count,
        || {
            seed += 1;
            let binary = executable(&engine, seed)?;
            let (packaged, all) = package_and_load(&engine, &folder, &binary, seed)?;
            packaging.push(packaged);
            Ok(all)
        },
        || {
            other_seed += 1;
            let binary = executable(&engine, other_seed)?;
            by_the_engine(&engine, &folder, &binary, other_seed)
        },
    )?;
    Ok(Figure {
        subject: "package",
        what: format!(
            "an image of {} MB assembled ({:.3} s) and loaded",
            BINARY_BYTES / 1_000_000,
            super::median(packaging)?
        ),
        seconds,
        floor: "build, save and load by the engine itself, of the same size",
        floor_seconds,
        ratio: seconds / floor_seconds,
        ratio_max: 1.0 / 3.0,
    })
}

/// An executable that no engine has seen yet: the smallest, and bytes that differ by `seed`.
fn executable(engine: &Engine, seed: u64) -> Result<Vec<u8>> {
    let mut binary = smallest_executable(&engine.platform)?;
    // xorshift, see Marsaglia 2003: nothing compresses or shares it.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while binary.len() < BINARY_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        binary.extend_from_slice(&state.to_le_bytes());
    }
    Ok(binary)
}

fn package_and_load(
    engine: &Engine,
    folder: &Utf8Path,
    binary: &[u8],
    seed: u64,
) -> Result<(Duration, Duration)> {
    let reference = format!("{NAME}:{seed:x}");
    let begun = Instant::now();
    let image = image::assemble(&Contents {
        reference: &reference,
        binary_name: "/bench",
        binary,
        platform: &engine.platform,
        labels: BTreeMap::new(),
    })?;
    let archive = Written(folder.join("ours.tar"));
    let file = File::create(archive.path()).context("cannot make an archive")?;
    image.write_archive(file)?;
    let packaged = begun.elapsed();
    engine.load(&archive)?;
    let all = begun.elapsed();
    remove(engine, &reference)?;
    Ok((packaged, all))
}

fn by_the_engine(engine: &Engine, folder: &Utf8Path, binary: &[u8], seed: u64) -> Result<Duration> {
    let reference = format!("{NAME}:{seed:x}");
    let context = folder.join("context");
    fs::create_dir_all(&context).with_context(|| format!("cannot make {context}"))?;
    let program = context.join("bench");
    fs::write(&program, binary).with_context(|| format!("cannot write {program}"))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let recipe = "FROM scratch\nCOPY bench /bench\nENTRYPOINT [\"/bench\"]\n";
    fs::write(context.join("Dockerfile"), recipe)?;
    let archive = folder.join("theirs.tar");
    let call = |arguments: &[&str]| -> Result<()> {
        let invocation: Invocation = engine.invocation().args(arguments.iter().copied());
        process::capture(&invocation, DEADLINE)?;
        Ok(())
    };
    let begun = Instant::now();
    call(&["build", "--quiet", "-t", &reference, context.as_str()])?;
    call(&["save", "--output", archive.as_str(), &reference])?;
    let saved = begun.elapsed();
    // Ours is loaded into a store that has never seen it; a layer that is there would be skipped.
    remove(engine, &reference)?;
    let begun = Instant::now();
    call(&["load", "--quiet", "--input", archive.as_str()])?;
    let took = saved + begun.elapsed();
    remove(engine, &reference)?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {archive}"))?;
    Ok(took)
}

fn remove(engine: &Engine, reference: &str) -> Result<()> {
    let removal = engine.invocation().args(["rmi", "--force", reference]);
    process::capture(&removal, DEADLINE)?;
    Ok(())
}
