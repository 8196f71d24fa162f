//! `report.html`: a run to look at, and several in one page. Each is one file that needs nothing else:
//! no network, no script, nothing beside it. It shows what the receipt and the logs hold, and judges
//! nothing that they do not say. Reading is done here; everything below are pure functions.

use std::cmp::Reverse;
use std::fs;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use self::difference::Difference;
use self::facts::Facts;
use super::failure;
use crate::secrets::Blackout;

mod difference;
mod facts;
mod identity;
mod logs;
mod markup;
pub(crate) mod overview;
mod page;
mod results;
mod timeline;

/// Its name, in the folder of a run and elsewhere.
pub(crate) const FILE: &str = "report.html";

/// How many earlier runs are looked at for one to compare with.
const LOOKED_AT_MAX: usize = 100;

/// What an overview of several runs needs of one that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    facts: Facts,
    difference: Option<Difference>,
}

/// Writes the report of a run that has ended into its folder, from what lies there, compared with the
/// last run of its target in `runs`. No secret of `blackout` gets in, wherever it stands.
///
/// # Errors
/// When the receipt or a log cannot be read, or the report not be written.
pub(crate) fn write(
    directory: &Utf8Path,
    runs: &Utf8Path,
    suspects: &[&str],
    blackout: &Blackout,
) -> Result<Summary> {
    let facts = read_receipt(directory, blackout)?;
    let message = facts.failure.as_ref().map(|it| it.message.as_str());
    let guilty = message.and_then(|message| {
        let headline = message.lines().next().unwrap_or_default();
        failure::guilty_log(&directory.join("logs"), &[headline, message], suspects)
    });
    let logs = logs::read(directory, guilty.as_deref(), blackout)?;
    let last = last_run(directory, runs, &facts);
    let difference = last.map(|last| difference::between(&last, &facts));
    let text = page::of_run(&facts, &logs, difference.as_ref());
    write_whole(&directory.join(FILE), &text)?;
    Ok(Summary { facts, difference })
}

/// What an overview needs of a run that another process has ended and reported to this folder.
///
/// # Errors
/// When its receipt cannot be read.
pub(crate) fn read(directory: &Utf8Path, runs: &Utf8Path) -> Result<Summary> {
    let facts = read_receipt(directory, &Blackout::none())?;
    let last = last_run(&runs.join(&facts.run), runs, &facts);
    let difference = last.map(|last| difference::between(&last, &facts));
    Ok(Summary { facts, difference })
}

/// Writes it under its name at once: nobody ever looks at half of it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_whole(path: &Utf8Path, text: &str) -> Result<()> {
    let beside = path.with_extension("html.part");
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("cannot write {path}"))
}

fn read_receipt(directory: &Utf8Path, blackout: &Blackout) -> Result<Facts> {
    let path = directory.join("receipt.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Facts::read(&blackout.over(text)).with_context(|| format!("cannot read {path}"))
}

/// The newest run of the same target that went to its end before this one began: on the same kind of
/// cluster with the same tests if there is one. Of a watch, an earlier cycle is one. What cannot be
/// read is none.
fn last_run(directory: &Utf8Path, runs: &Utf8Path, now: &Facts) -> Option<Facts> {
    let prefix = format!("{}-", now.target);
    let other = |name: &str| name.starts_with(&prefix) && name != now.run;
    let mut earlier = folders(&directory.join("cycles"), |_| true);
    earlier.sort_by_key(|path| Reverse(path.file_name().and_then(|it| it.parse::<u32>().ok())));
    let mut others = folders(runs, other);
    // They end with the time at which they began.
    others.sort_by(|a, b| b.cmp(a));
    earlier.extend(others);
    let mut best: Option<(u8, Facts)> = None;
    let none = Blackout::none();
    for path in earlier.into_iter().take(LOOKED_AT_MAX) {
        let Ok(facts) = read_receipt(&path, &none) else {
            continue;
        };
        if facts.target != now.target || !facts.is_whole() || facts.begun_at >= now.begun_at {
            continue;
        }
        let same_cluster = facts.cluster == now.cluster;
        let alike = u8::from(same_cluster) * 2 + u8::from(facts.test_filters == now.test_filters);
        if best.as_ref().is_none_or(|(known, _)| alike > *known) {
            best = Some((alike, facts));
        }
        if alike == 3 {
            break;
        }
    }
    best.map(|(_, facts)| facts)
}

/// The entries of a folder whose names are wanted; none where there is no folder.
fn folders(folder: &Utf8Path, wanted: impl Fn(&str) -> bool) -> Vec<Utf8PathBuf> {
    let entries = folder.read_dir_utf8().into_iter().flatten().flatten();
    let wanted = entries.filter(|entry| wanted(entry.file_name()));
    wanted.map(|entry| entry.into_path()).collect()
}

#[cfg(test)]
mod tests;
