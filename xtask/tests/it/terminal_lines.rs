//! What moves on a terminal, and that nothing moves elsewhere: the tool itself on a terminal of its
//! own, in a small workspace whose build another one holds up.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::source_tree::Tree;

const AMPLE: Duration = Duration::from_secs(120);
/// Many times what lies between two drawings.
const A_WHILE: Duration = Duration::from_secs(1);
const COLUMNS: u16 = 70;
const WAITS: &str = "waiting for another build in this checkout";

const ROOT: &str = r#"
[workspace]
resolver = "3"
members = ["gate", "test-e2e"]

[workspace.metadata.e2e]
against = "gate"

[profile.e2e]
inherits = "dev"
"#;

const LOCK: &str = r#"
version = 4

[[package]]
name = "gate"
version = "0.1.0"

[[package]]
name = "test-e2e"
version = "0.1.0"
"#;

pub(crate) fn tree() -> Tree {
    let tree = Tree::bare();
    let manifest = |name: &str, rest: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{rest}")
    };
    tree.write("Cargo.toml", ROOT);
    tree.write("Cargo.lock", LOCK);
    let gate = manifest("gate", "[package.metadata.e2e]\n");
    tree.write("gate/Cargo.toml", &gate);
    tree.write(
        "gate/src/main.rs",
        "fn main() { println!(\"{:?}\", option_env!(\"E2E_SOURCE_DIGEST\")); }\n",
    );
    tree.write("test-e2e/Cargo.toml", &manifest("test-e2e", ""));
    tree.write("test-e2e/tests/gate.rs", "");
    tree
}

/// Another build in this checkout: it goes on until this is dropped.
fn held_up(tree: &Tree) -> File {
    let state = tree.path("target/e2e");
    fs::create_dir_all(&state).unwrap();
    let lock = File::create(state.join("build.lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}

/// Our end of what the tool takes for a terminal, or of a pipe.
struct Reader {
    from: File,
    read: Vec<u8>,
}

impl Reader {
    /// More of it; not when nothing comes within that time, or all has come.
    fn more(&mut self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut polled = [PollFd::new(&self.from, PollFlags::IN)];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap();
            match rustix::event::poll(&mut polled, Some(&left)) {
                // Other tests of this process send it signals.
                Err(Errno::INTR) => {}
                ready if ready.unwrap() == 0 => return false,
                _ => break,
            }
        }
        let mut buffer = [0; 4096];
        match self.from.read(&mut buffer) {
            // A terminal that nobody writes to any more.
            Err(error) if error.raw_os_error() == Some(5) => false,
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            read => {
                let length = read.unwrap();
                self.read.extend_from_slice(&buffer[..length]);
                length > 0
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    #[track_caller]
    fn until(&mut self, words: &str) {
        let begun = Instant::now();
        while !self.text().contains(words) {
            let more = self.more(AMPLE) && begun.elapsed() < AMPLE;
            assert!(more, "no `{words}` in: {:?}", self.text());
        }
    }

    fn rest(mut self) -> String {
        while self.more(AMPLE) {}
        self.text()
    }
}

fn terminal() -> (File, OwnedFd) {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&ours).unwrap();
    rustix::pty::unlockpt(&ours).unwrap();
    let path = rustix::pty::ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(path.to_str().unwrap())
        .unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: COLUMNS,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&theirs, size).unwrap();
    (File::from(ours), OwnedFd::from(theirs))
}

fn pipe() -> (File, OwnedFd) {
    let (ours, theirs) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(ours)), OwnedFd::from(theirs))
}

/// `xtask build` with these arguments, and both streams on one end of a terminal or a pipe.
fn build(
    tree: &Tree,
    arguments: &[&str],
    (ours, theirs): (File, OwnedFd),
    variables: &[(&str, &str)],
) -> (Child, Reader) {
    let child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("build")
        .args(arguments)
        .current_dir(tree.path(""))
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CI")
        .env_remove("NO_COLOR")
        .env("TERM", "xterm-256color")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(theirs.try_clone().unwrap())
        .stderr(theirs)
        .spawn()
        .unwrap();
    let read = Vec::new();
    (child, Reader { from: ours, read })
}

/// The lines that a terminal shows after these bytes. It knows what the tool may write, and
/// nothing else.
fn shown(bytes: &str) -> Vec<String> {
    let mut lines = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut rest = bytes.chars();
    while let Some(character) = rest.next() {
        match character {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(Vec::new());
                }
            }
            '\u{1b}' => {
                assert_eq!(rest.next(), Some('['), "{bytes:?}");
                let order: String = rest
                    .by_ref()
                    .take_while_inclusive(|one| !one.is_ascii_alphabetic());
                let (number, kind) = order.split_at(order.len() - 1);
                match kind {
                    "A" => row = usize::checked_sub(row, number.parse().unwrap()).unwrap(),
                    "K" => lines[row].truncate(column),
                    "m" => {}
                    _ => panic!("{order:?} in {bytes:?}"),
                }
            }
            character => {
                lines[row].resize(column, ' ');
                lines[row].push(character);
                column += 1;
            }
        }
    }
    let lines = lines.into_iter().map(String::from_iter);
    lines.filter(|line: &String| !line.is_empty()).collect()
}

trait TakeWhileInclusive: Iterator<Item = char> + Sized {
    fn take_while_inclusive(mut self, more: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        for one in self.by_ref() {
            taken.push(one);
            if !more(one) {
                break;
            }
        }
        taken
    }
}
impl<I: Iterator<Item = char>> TakeWhileInclusive for I {}

/// Without what takes another time in each run, and the path of the tree.
fn without_seconds(line: &str) -> &str {
    line.rsplit_once(" (").map_or(line, |(before, _)| before)
}

#[test]
fn lines_move_on_a_terminal_and_leave_only_what_was_said_for_good() {
    let tree = tree();
    let lock = held_up(&tree);
    let (mut child, mut reader) = build(&tree, &["gate"], terminal(), &[]);
    // The note is for good; the second time it is drawn, with the time that it has taken.
    reader.until(&format!("{WAITS} ("));
    let live = shown(&reader.text());
    assert!(live.iter().any(|line| line.contains(&format!("{WAITS} ("))));
    drop(lock);
    let bytes = reader.rest();
    assert!(child.wait().unwrap().success(), "{bytes}");
    assert!(bytes.contains("building gate ("), "{bytes:?}");
    assert!(!bytes.contains("\u{1b}[?25l"), "the cursor was hidden");

    let screen = shown(&bytes);
    let said: Vec<&str> = screen.iter().map(|line| without_seconds(line)).collect();
    let image = said.last().unwrap();
    assert!(image.starts_with("localhost/gate:gate-"), "{said:?}");
    let before = [
        format!("        note {WAITS}"),
        "   Compiling gate v0.1.0".to_owned(),
        "    Finished `e2e` profile [unoptimized + debuginfo] target(s) in".to_owned(),
        "    compiled gate".to_owned(),
    ];
    assert_eq!(said.len(), before.len() + 1, "{said:?}");
    for (line, begins) in said.iter().zip(&before) {
        assert!(line.starts_with(begins), "{said:?}");
    }
    let log = fs::read_to_string(tree.path("target/e2e/build.log")).unwrap();
    assert!(log.starts_with("   Compiling gate v0.1.0"), "{log:?}");
    assert!(!log.contains(['\u{1b}', '\r']), "{log:?}");

    // Watched or not, the bytes are the same: this one is compared with what is kept.
    let (mut child, reader) = build(&tree, &["gate", "--no-cache"], pipe(), &[]);
    let unwatched = reader.rest();
    assert!(child.wait().unwrap().success(), "{unwatched}");
    assert!(unwatched.contains("    compiled gate"), "{unwatched}");
}

/// What is written while another build goes on: nothing steers a terminal, and nothing moves.
#[track_caller]
fn check_plain(to: (File, OwnedFd), variables: &[(&str, &str)]) {
    let tree = tree();
    let _lock = held_up(&tree);
    let (mut child, mut reader) = build(&tree, &["gate"], to, variables);
    reader.until(WAITS);
    reader.until("\n");
    let moved = reader.more(A_WHILE);
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let bytes = reader.rest();
    assert_eq!(child.wait().unwrap().code(), Some(143), "{bytes}");
    assert!(!moved, "{bytes:?}");
    assert!(!bytes.contains('\u{1b}'), "{bytes:?}");
    let lines: Vec<&str> = bytes.lines().collect();
    assert_eq!(
        lines,
        [
            &format!("        note {WAITS}"),
            "      ending SIGTERM: ending what runs",
            "error: ended by SIGTERM"
        ]
    );
}

#[test]
fn nothing_moves_where_there_is_no_terminal() {
    check_plain(pipe(), &[]);
}

#[test]
fn nothing_moves_where_it_is_not_wanted() {
    for variable in [("NO_COLOR", "1"), ("CI", "true"), ("TERM", "dumb")] {
        check_plain(terminal(), &[variable]);
    }
}

#[test]
fn a_wrong_command_line_is_told_in_plain_words_too() {
    let tree = tree();
    let told = |variables: &[(&str, &str)]| {
        let (mut child, reader) = build(&tree, &["--fly"], terminal(), variables);
        let bytes = reader.rest();
        assert_eq!(child.wait().unwrap().code(), Some(2), "{bytes}");
        assert!(bytes.contains("--fly"), "{bytes}");
        bytes
    };
    assert!(told(&[]).contains('\u{1b}'));
    assert!(!told(&[("CI", "true")]).contains('\u{1b}'));
}
