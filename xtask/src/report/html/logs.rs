//! The logs of a run, each folded and none longer than a reader can use: their ends, for the whole
//! lies beside the report. Lines of JSON are told as sentences, as on the terminal.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use super::facts::count;
use super::identity::short_name;
use super::markup::{Element, Html, Tag, cut, new};
use crate::report::failure::for_people;
use crate::secrets::Blackout;

/// How much of one log is shown.
const LOG_BYTES_MAX: usize = 64 * 1024;
/// How much of all of them.
const ALL_BYTES_MAX: usize = 1024 * 1024;
/// More logs are only named.
const LOGS_MAX: usize = 200;
/// How long a line may be.
const LINE_LETTERS_MAX: usize = 2000;

/// The end of a log.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// Where it lies in the folder of the run.
    pub(super) path: String,
    /// Its last lines.
    pub(super) end: String,
    /// How long the whole is.
    pub(super) bytes: u64,
    /// How much of that comes before.
    pub(super) left_out: u64,
    /// It is that of what an error is about.
    pub(super) guilty: bool,
}

/// Reads the ends of all logs of a run: of every container, of the tests and of the build.
///
/// # Errors
/// When a log that is there cannot be read.
pub(super) fn read(
    directory: &Utf8Path,
    guilty: Option<&Utf8Path>,
    blackout: &Blackout,
) -> Result<Vec<Log>> {
    let folder = directory.join("logs");
    let entries = folder.read_dir_utf8().into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().extension() == Some("log"));
    let mut paths: Vec<_> = names.map(|entry| entry.into_path()).collect();
    paths.sort();
    paths.extend(["tests.log", "build.log"].map(|name| directory.join(name)));
    paths.truncate(LOGS_MAX);
    let each = (ALL_BYTES_MAX / paths.len().max(1)).min(LOG_BYTES_MAX);
    let mut logs = Vec::new();
    for path in paths {
        let Some((end, bytes)) = end_of(&path, each)? else {
            continue;
        };
        // In whole lines, so that no secret is cut in two.
        let left_out = bytes.saturating_sub(end.len() as u64);
        let end = String::from_utf8_lossy(&end).into_owned();
        logs.push(Log {
            path: path.strip_prefix(directory).unwrap_or(&path).to_string(),
            end: blackout.over(end),
            bytes,
            left_out,
            guilty: guilty == Some(path.as_path()),
        });
    }
    Ok(logs)
}

/// The last whole lines of a file, of so many bytes at most, and how long it is; nothing where there
/// is no file.
fn end_of(path: &Utf8Path, bytes_max: usize) -> Result<Option<(Vec<u8>, u64)>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
    };
    let read = || -> std::io::Result<(Vec<u8>, u64)> {
        let bytes = file.metadata()?.len();
        let from = bytes.saturating_sub(bytes_max as u64);
        file.seek(SeekFrom::Start(from))?;
        let mut end = Vec::new();
        file.take(bytes_max as u64).read_to_end(&mut end)?;
        if from > 0 {
            let begun = end.iter().position(|&byte| byte == b'\n');
            end.drain(..begun.map_or(end.len(), |index| index + 1));
        }
        Ok((end, bytes))
    };
    let read = read().with_context(|| format!("cannot read {path}"))?;
    Ok(Some(read))
}

/// The section's content.
pub(super) fn render(run: &str, logs: &[Log]) -> Html {
    if logs.is_empty() {
        let text = "There is no log: no container had begun.";
        return new(Tag::P).class("quiet").with(text).into();
    }
    logs.iter().map(|log| render_one(run, log)).collect()
}

fn render_one(run: &str, log: &Log) -> Element {
    let lines: Vec<Line> = log.end.lines().map(Line::of).collect();
    let of = |level: Level| lines.iter().filter(|line| line.level == level).count();
    let (errors, warnings) = (of(Level::Error), of(Level::Warning));
    let name = log.path.strip_prefix("logs/").unwrap_or(&log.path);
    let mut head = new(Tag::Summary)
        .with(new(Tag::Span).class("name").with(short_name(run, name)))
        .with(new(Tag::Small).with(format!(
            "{}, {}",
            count(lines.len(), "line"),
            size(log.bytes)
        )));
    if errors > 0 {
        let text = count(errors, "error");
        head = head.with(new(Tag::Span).class("chip bad").with(text));
    }
    if warnings > 0 {
        let text = count(warnings, "warning");
        head = head.with(new(Tag::Span).class("chip open").with(text));
    }
    if log.guilty {
        let text = "what the failure is about";
        head = head.with(new(Tag::Span).class("chip bad").with(text));
    }
    let left_out = (log.left_out > 0).then(|| {
        let text = format!(
            "The last lines; {} before them: {}",
            size(log.left_out),
            log.path
        );
        new(Tag::P).class("quiet").with(text)
    });
    let shown: Html = lines.iter().map(Line::render).collect();
    let shown = match lines.is_empty() {
        true => new(Tag::P).class("quiet").with(match log.left_out {
            0 => "It is empty.",
            _ => "Its last line is longer than what is shown of a log.",
        }),
        false => new(Tag::Pre).with(shown),
    };
    new(Tag::Details)
        .class("log")
        .open(log.guilty)
        .with(head)
        .with(left_out)
        .with(shown)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Error,
    Warning,
    Other,
}

/// A line as it is shown.
struct Line {
    time: Option<String>,
    level: Level,
    text: String,
}

impl Line {
    fn of(line: &str) -> Self {
        let plain = console::strip_ansi_codes(line);
        let text = cut(&for_people(&plain), LINE_LETTERS_MAX);
        let json = serde_json::from_str::<serde_json::Value>(&plain).ok();
        let time = json.as_ref().and_then(|it| it.get("timestamp")?.as_str());
        // `2026-11-25T17:50:16.123456Z`: the day is that of the run.
        let time = time.and_then(|time| time.get(11..23)).map(str::to_owned);
        let level = match text.split_whitespace().next() {
            _ if json.is_none() => Level::Other,
            Some("ERROR") => Level::Error,
            Some("WARN") => Level::Warning,
            _ => Level::Other,
        };
        Self { time, level, text }
    }

    fn render(&self) -> Html {
        let time = self.time.as_ref().map(|time| {
            let time = new(Tag::Span).class("time").with(time.as_str());
            Html::from_iter([Html::from(time), " ".into()])
        });
        let class = match self.level {
            Level::Error => Some("error"),
            Level::Warning => Some("warning"),
            Level::Other => None,
        };
        let text = match class {
            Some(class) => new(Tag::Span).class(class).with(self.text.as_str()).into(),
            None => Html::text(&self.text),
        };
        let mut html = Html::default();
        html.add(time);
        html.add(text);
        html.add("\n");
        html
    }
}

/// `674 bytes`, `58 kB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} bytes"),
        1000..1_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
