//! The lines at the bottom of a terminal that say what goes on now, for how long, and what is
//! waited for. They are drawn over and over and erased when it is done; what was said for good
//! scrolls by above them. Where standard error is no terminal, or `CI` or `NO_COLOR` is set, there
//! is none of it, and not one byte that steers a terminal.
//!
//! The cursor is never hidden and stands at the beginning of the line below the last one, so a
//! `^C` that the terminal itself writes there is erased with them, and a process that is killed
//! leaves nothing that a shell's prompt could not follow.

use std::cell::Cell;
use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use console::{Term, truncate_str};
use signal_hook::consts::SIGCONT;

/// How often they are drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(125);
/// What takes less is not shown: it would flicker.
const SHOWN_AFTER: Duration = Duration::from_millis(200);

/// Whether this process draws lines that move. Looked up once: a terminal does not become a file.
#[must_use]
pub fn is_on() -> bool {
    static ON: LazyLock<bool> = LazyLock::new(|| {
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let moves = env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        io::stderr().is_terminal() && moves && !is_set("CI") && !is_set("NO_COLOR")
    });
    *ON
}

/// Something that goes on until it is dropped.
#[derive(Debug)]
pub struct Activity {
    teller: Teller,
    begun: Begun,
}

/// Says how an activity stands, from wherever that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Teller(u64);

#[derive(Clone, Debug)]
struct Begun {
    verb: &'static str,
    object: String,
    at: Instant,
}

/// How an activity stands: as it was told, or asked for whenever it is drawn.
enum Status {
    Told(String),
    Asked(Box<dyn Fn() -> String + Send>),
}

struct Entry {
    teller: Teller,
    begun: Begun,
    status: Status,
}

/// What goes on, the oldest first. Never locked while something is written: a terminal that is
/// stopped (Ctrl-S) holds up who writes, and nobody else.
static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static CHANGED: Condvar = Condvar::new();

/// Begins one: a verb in its progressive form, and its object.
#[must_use]
pub fn begin(verb: &'static str, object: impl Into<String>) -> Activity {
    begin_with(verb, object.into(), Status::Told(String::new()))
}

/// The same, of which is asked how it stands whenever it is drawn.
#[must_use]
pub fn begin_asked(
    verb: &'static str,
    object: impl Into<String>,
    status: impl Fn() -> String + Send + 'static,
) -> Activity {
    begin_with(verb, object.into(), Status::Asked(Box::new(status)))
}

fn begin_with(verb: &'static str, object: String, status: Status) -> Activity {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let teller = Teller(NEXT.fetch_add(1, Ordering::Relaxed));
    let begun = Begun {
        verb,
        object,
        at: Instant::now(),
    };
    if is_on() {
        start_drawing();
        locked(&ENTRIES).push(Entry {
            teller,
            begun: begun.clone(),
            status,
        });
        CHANGED.notify_all();
    }
    Activity { teller, begun }
}

impl Activity {
    /// What is waited for now, or was heard last.
    pub fn say(&self, status: impl Into<String>) {
        self.teller.say(status);
    }

    /// For who outlives a borrow.
    #[must_use]
    pub const fn teller(&self) -> Teller {
        self.teller
    }

    /// How many columns there are for what it says; nothing where it is not shown.
    #[must_use]
    pub fn room(&self) -> Option<usize> {
        const SECONDS_COLUMNS: usize = "(1234.5 s): ".len();
        let (_, columns) = is_on().then(size)?;
        let before = head(&self.begun).chars().count() + SECONDS_COLUMNS;
        Some(columns.saturating_sub(before + 1))
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        locked(&ENTRIES).retain(|entry| entry.teller != self.teller);
        CHANGED.notify_all();
    }
}

impl Teller {
    /// As [`Activity::say`]; nothing when the activity has ended.
    pub fn say(self, status: impl Into<String>) {
        let mut entries = locked(&ENTRIES);
        if let Some(entry) = entries.iter_mut().find(|entry| entry.teller == self) {
            entry.status = Status::Told(status.into());
        }
    }
}

/// What stands on the terminal.
struct Screen {
    /// The width of each live line that is drawn now.
    drawn: Vec<usize>,
    /// What was written last did not end its line: nothing may be drawn behind it.
    in_a_line: bool,
    /// Who wants none of it now.
    stills: usize,
}

static SCREEN: Mutex<Screen> = Mutex::new(Screen {
    drawn: Vec::new(),
    in_a_line: false,
    stills: 0,
});

thread_local! {
    /// This thread holds the screen: should it panic, its own hook must not wait for it.
    static DRAWS: Cell<bool> = const { Cell::new(false) };
}

fn on_screen<T>(step: impl FnOnce(&mut Screen) -> T) -> T {
    let mut screen = locked(&SCREEN);
    DRAWS.set(true);
    let done = step(&mut screen);
    DRAWS.set(false);
    done
}

/// Writes something for good above the live lines; `ends_line` says whether it ends with a line's end.
pub(crate) fn above<T>(ends_line: bool, write: impl FnOnce() -> T) -> T {
    if !is_on() {
        return write();
    }
    on_screen(|screen| {
        screen.erase();
        let written = write();
        screen.in_a_line = !ends_line;
        screen.draw();
        written
    })
}

/// While it lives nothing is drawn: somebody types, or a panic is told.
#[derive(Debug)]
pub struct Still(());

/// Erases the live lines until the value is dropped.
#[must_use]
pub fn hold_still() -> Still {
    if is_on() {
        on_screen(|screen| {
            screen.stills += 1;
            screen.erase();
        });
    }
    Still(())
}

impl Drop for Still {
    fn drop(&mut self) {
        if is_on() {
            on_screen(|screen| screen.stills -= 1);
        }
    }
}

/// The words of a panic stand where they can be read, and nothing is drawn over them. Called once
/// by `main`; what it gives keeps the terminal clean from `main`'s end on.
#[must_use]
pub fn leave_a_clean_terminal() -> impl Drop {
    struct AtTheEnd;
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            std::mem::forget(hold_still());
        }
    }
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !DRAWS.get() {
            std::mem::forget(hold_still());
        }
        tell(panic);
    }));
    AtTheEnd
}

impl Screen {
    fn erase(&mut self) {
        let rows = rows(&self.drawn, size().1);
        if rows > 0 {
            put(&erased(rows));
        }
        self.drawn.clear();
    }

    fn draw(&mut self) {
        if self.in_a_line {
            return;
        }
        let (rows_count, columns) = size();
        let lines = match self.stills {
            0 => frame(&locked(&ENTRIES), Instant::now(), rows_count, columns),
            _ => Vec::new(),
        };
        if lines.is_empty() && self.drawn.is_empty() {
            return;
        }
        put(&drawn_over(rows(&self.drawn, columns), &lines));
        self.drawn = lines
            .iter()
            .map(|line| console::measure_text_width(line))
            .collect();
    }
}

/// How many rows the live lines take. A terminal that has become narrower has broken them.
fn rows(drawn: &[usize], columns: usize) -> usize {
    let broken = drawn.iter().map(|width| width.div_ceil(columns.max(1)));
    broken.map(|rows| rows.max(1)).sum()
}

/// Row by row: what erases a whole screen at once, some terminals put into their history first.
fn erased(rows: usize) -> String {
    format!("\r\u{1b}[K{}", "\u{1b}[1A\u{1b}[K".repeat(rows))
}

/// These lines over as many rows, each over an old one, so that nothing flickers.
fn drawn_over(rows: usize, lines: &[String]) -> String {
    let mut text = match rows {
        0 => String::new(),
        rows => format!("\r\u{1b}[K\u{1b}[{rows}A"),
    };
    for line in lines {
        text.push_str(line);
        text.push_str("\u{1b}[K\n");
    }
    let left = rows.saturating_sub(lines.len());
    if left > 0 {
        text.push_str(&"\u{1b}[K\n".repeat(left));
        let _ = write!(text, "\u{1b}[{left}A");
    }
    text
}

/// A terminal that has gone is told about elsewhere.
fn put(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Rows and columns.
fn size() -> (usize, usize) {
    let (rows, columns) = Term::stderr().size();
    (rows.into(), columns.into())
}

fn head(begun: &Begun) -> String {
    let space = if begun.object.is_empty() { "" } else { " " };
    format!("{:>12}{space}{} ", begun.verb, begun.object)
}

/// The lines as they stand at this moment: at most half of the terminal, none wider than it.
fn frame(entries: &[Entry], now: Instant, rows: usize, columns: usize) -> Vec<String> {
    let shown: Vec<&Entry> = entries
        .iter()
        .filter(|entry| now.duration_since(entry.begun.at) >= SHOWN_AFTER)
        .collect();
    let lines_max = (rows / 2).max(1);
    let fit = if shown.len() > lines_max {
        lines_max - 1
    } else {
        shown.len()
    };
    let mut lines: Vec<String> = shown[..fit]
        .iter()
        .map(|entry| line(entry, now, columns))
        .collect();
    if fit < shown.len() {
        lines.push(format!("{:>12} {} more", "and", shown.len() - fit));
    }
    lines
}

fn line(entry: &Entry, now: Instant, columns: usize) -> String {
    let status = match &entry.status {
        Status::Told(status) => status.clone(),
        Status::Asked(ask) => ask(),
    };
    let seconds = now.duration_since(entry.begun.at).as_secs_f64();
    let mut text = format!("{}({seconds:.1} s)", head(&entry.begun));
    if !status.is_empty() {
        let _ = write!(text, ": {status}");
    }
    fitted(&text, columns)
}

/// On one line of the terminal, whatever it holds.
fn fitted(text: &str, columns: usize) -> String {
    let plain: String = console::strip_ansi_codes(text)
        .chars()
        .map(|character| match character.is_control() {
            true => ' ',
            false => character,
        })
        .collect();
    truncate_str(&plain, columns.saturating_sub(1), "…").into_owned()
}

/// One thread for all of them, once there is something to draw.
fn start_drawing() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let awake = Arc::new(AtomicBool::new(false));
        // Without it a command that was stopped and goes on draws over what the shell has written.
        let _ = signal_hook::flag::register(SIGCONT, Arc::clone(&awake));
        // Without a thread they are drawn whenever something is said.
        let _ = thread::Builder::new()
            .name("live".to_owned())
            .spawn(move || draw_for_ever(&awake));
    });
}

fn draw_for_ever(awake: &AtomicBool) {
    loop {
        let is_clean = on_screen(|screen| {
            if awake.swap(false, Ordering::Relaxed) {
                screen.drawn.clear();
            }
            screen.draw();
            screen.drawn.is_empty()
        });
        let entries = locked(&ENTRIES);
        let waited = match entries.is_empty() && is_clean {
            true => CHANGED.wait(entries).map(drop).map_err(drop),
            false => CHANGED
                .wait_timeout(entries, DRAW_INTERVAL)
                .map(drop)
                .map_err(drop),
        };
        if waited.is_err() {
            return;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Begun, Entry, Status, Teller, drawn_over, frame, rows};

    fn entry(object: &str, begun: Instant, status: &str) -> Entry {
        Entry {
            teller: Teller(0),
            begun: Begun {
                verb: "building",
                object: object.to_owned(),
                at: begun,
            },
            status: Status::Told(status.to_owned()),
        }
    }

    #[test]
    fn a_line_says_what_how_long_and_what_is_waited_for() {
        let begun = Instant::now();
        let now = begun + Duration::from_millis(1500);
        let entries = [entry("gateway", begun, "3/7: hyper"), entry("", begun, "")];
        assert_eq!(
            frame(&entries, now, 24, 80),
            [
                "    building gateway (1.5 s): 3/7: hyper",
                "    building (1.5 s)"
            ]
        );
    }

    #[test]
    fn what_has_just_begun_does_not_flicker() {
        let begun = Instant::now();
        let now = begun + Duration::from_millis(50);
        assert!(frame(&[entry("gateway", begun, "")], now, 24, 80).is_empty());
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_or_steers_it() {
        let begun = Instant::now();
        let now = begun + Duration::from_secs(1);
        let said = "\u{1b}[31mred\u{1b}[0m\tand\nmuch 漢字漢字漢字漢字 more than fits in forty";
        let lines = frame(&[entry("a", begun, said)], now, 24, 40);
        // A wide character that would reach over the edge is left out.
        assert_eq!(lines, ["    building a (1.0 s): red and much …"]);
    }

    #[test]
    fn many_lines_leave_half_of_the_terminal() {
        let begun = Instant::now();
        let now = begun + Duration::from_secs(1);
        let entries: Vec<Entry> = (0..9).map(|_| entry("a", begun, "")).collect();
        let lines = frame(&entries, now, 10, 80);
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[4], "         and 5 more");
    }

    #[test]
    fn goes_back_over_lines_that_a_narrower_terminal_has_broken() {
        assert_eq!(rows(&[], 80), 0);
        assert_eq!(rows(&[30, 0, 79], 80), 3);
        assert_eq!(rows(&[30, 0, 79], 40), 4);
    }

    #[test]
    fn fewer_lines_leave_none_of_the_old_ones() {
        let line = "one".to_owned();
        assert_eq!(drawn_over(0, std::slice::from_ref(&line)), "one\u{1b}[K\n");
        assert_eq!(
            drawn_over(2, &[line]),
            "\r\u{1b}[K\u{1b}[2Aone\u{1b}[K\n\u{1b}[K\n\u{1b}[1A"
        );
    }
}
