//! pgbench beside a load: rows like those that the service has stored, into the same tables of the same
//! server, as the service's own role, by as many clients and at the same pace. It runs in the
//! database's own container, where it comes from the image. Its rows are for nobody: who has measured
//! removes them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{Figures, Pace, Wanted, per_second};
use crate::cluster::Cluster;
use crate::run::{EngineCommand, Run};
use crate::unique;

/// How long it may take beyond the time that it is given.
const ENDED_WITHIN: Duration = Duration::from_secs(60);
/// Where it may write, in the database's container.
const LOGS: &str = "/tmp";
/// How many threads it has at the most; as many as what sends the load.
const THREADS_MAX: u32 = 2;

/// pgbench in the database's container.
#[derive(Debug)]
pub struct Pgbench {
    engine: EngineCommand,
    container: String,
    password: String,
    folder: PathBuf,
}

impl Pgbench {
    /// In the database of this run.
    ///
    /// # Panics
    /// Where it is not a container of an engine.
    #[must_use]
    #[track_caller]
    pub fn of(run: &Run) -> Self {
        let Cluster::Local(engine) = run.cluster() else {
            panic!("pgbench is run in a container of the engine: that is `--cluster local`");
        };
        let containers = &run.service("postgres").containers;
        Self {
            engine,
            container: containers.first().expect("a database").clone(),
            password: run.password("datastorage"),
            folder: run.run_directory.clone(),
        }
    }

    /// Runs this script at this pace over and over, as a transaction each time. What ran stays in the
    /// folder of the run, as `pgbench-<pace>.sql`.
    ///
    /// # Panics
    /// When it fails, or says what nobody understands.
    #[must_use]
    #[track_caller]
    pub fn run(&self, script: &str, wanted: &Wanted, pace: Pace) -> Figures {
        match self.try_run(script, wanted, pace) {
            Ok(figures) => figures,
            Err(error) => panic!("{error}"),
        }
    }

    fn try_run(&self, script: &str, wanted: &Wanted, pace: Pace) -> Result<Figures, String> {
        let name = match pace {
            Pace::FixedRate => "pgbench-fixed-rate.sql",
            Pace::Saturation => "pgbench-saturation.sql",
        };
        let path = self.folder.join(name);
        let shown = path.display();
        fs::write(&path, script).map_err(|error| format!("{shown}: {error}"))?;
        let script = File::open(&path).map_err(|error| format!("{shown}: {error}"))?;
        let prefix = format!("pgbench-{}", unique());
        let arguments = arguments(wanted, pace, &format!("{LOGS}/{prefix}"));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let within = wanted.lasts() + ENDED_WITHIN;
        let password = ("PGPASSWORD", self.password.as_str());
        let container = &self.container;
        let said = self
            .engine
            .exec(container, &arguments, password, script, within)?;
        // One file for each thread, named for a process that nobody knows.
        let find = |what: &[&str]| {
            let logs = ["exec", container, "/usr/bin/find", LOGS, "-maxdepth", "1"];
            let named = format!("{prefix}.*");
            self.engine
                .run(&[&logs[..], &["-name", &named], what].concat())
        };
        let log = find(&["-exec", "/usr/bin/cat", "{}", "+"])?;
        find(&["-delete"])?;
        figures(&said, &log)
    }
}

/// Its command line. Its statements are prepared once, as those of the service are.
fn arguments(wanted: &Wanted, pace: Pace, log_prefix: &str) -> Vec<String> {
    let threads = wanted.connections.min(THREADS_MAX);
    let mut arguments = vec![
        "/usr/lib/postgresql/15/bin/pgbench".to_owned(),
        "--no-vacuum".to_owned(),
        "--protocol=prepared".to_owned(),
        "--host=127.0.0.1".to_owned(),
        "--port=5432".to_owned(),
        "--username=datastorage".to_owned(),
        format!("--client={}", wanted.connections),
        format!("--jobs={threads}"),
        format!("--time={}", wanted.seconds),
        "--log".to_owned(),
        format!("--log-prefix={log_prefix}"),
        "--file=-".to_owned(),
    ];
    if pace == Pace::FixedRate {
        // A transaction counts from when it was due then, as a request does.
        arguments.push(format!("--rate={}", wanted.rate));
    }
    arguments.push("datastorage".to_owned());
    arguments
}

/// From what it said at its end, and the times of all transactions in its log.
fn figures(said: &str, log: &str) -> Result<Figures, String> {
    let rate = said
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
        .filter(|rate| *rate > 0.0)
        .ok_or_else(|| format!("pgbench does not tell its rate: {said}"))?;
    let took: Vec<Duration> = log.lines().map(time_of).collect::<Result<_, _>>()?;
    if took.is_empty() {
        return Err(format!("the log of pgbench is empty: {said}"));
    }
    let seconds = per_second(took.len(), rate);
    Ok(Figures {
        seconds,
        per_second: rate,
        ..Figures::of_times(took)
    })
}

/// `client transaction time script epoch microseconds [lag]`; the time is in microseconds, and has
/// the lag in it.
fn time_of(line: &str) -> Result<Duration, String> {
    let time = line.split_whitespace().nth(2);
    let time = time.and_then(|time| time.parse().ok());
    time.map(Duration::from_micros)
        .ok_or_else(|| format!("the log of pgbench has a line that tells no time: {line}"))
}

/// A statement that inserts a row like this one, an object of its columns; `instead` has expressions
/// for what must be another in each row. Columns without a value are left out.
///
/// # Panics
/// When the row is no object.
#[must_use]
#[track_caller]
pub fn insert(table: &str, row: &Value, instead: &[(&str, &str)]) -> String {
    let columns = row.as_object().expect("a row");
    let mut names = Vec::new();
    let mut values = Vec::new();
    for (name, value) in columns.iter().filter(|(_, value)| !value.is_null()) {
        let other = instead.iter().find(|(column, _)| column == name);
        names.push(name.as_str());
        values.push(match (other, value) {
            (Some((_, expression)), _) => (*expression).to_owned(),
            (None, Value::String(text)) => literal(text),
            (None, value) => literal(&value.to_string()),
        });
    }
    let (names, values) = (names.join(", "), values.join(", "));
    format!("INSERT INTO {table} ({names}) VALUES ({values})")
}

/// A statement that gives the row with this ID the values that `row` has in these columns, and sets
/// `always` to expressions besides.
#[must_use]
pub fn update(
    table: &str,
    row: &Value,
    columns: &[&str],
    always: &[(&str, &str)],
    id: &str,
) -> String {
    let value = |column: &&str| match &row[*column] {
        Value::Null => format!("{column} = NULL"),
        Value::String(text) => format!("{column} = {}", literal(text)),
        value => format!("{column} = {}", literal(&value.to_string())),
    };
    let always = always
        .iter()
        .map(|(column, expression)| format!("{column} = {expression}"));
    let set: Vec<String> = always.chain(columns.iter().map(value)).collect();
    format!("UPDATE {table} SET {} WHERE id = {id}", set.join(", "))
}

/// Text as PostgreSQL reads it. pgbench takes a colon for the beginning of a variable, in a literal as
/// well, so all but letters and digits is written as bytes.
#[must_use]
pub fn literal(text: &str) -> String {
    let mut literal = String::from("E'");
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b' ' | b'-' | b'.' => {
                literal.push(char::from(byte));
            }
            // Three digits: what follows is none of them.
            _ => literal.push_str(&format!("\\{byte:03o}")),
        }
    }
    literal.push('\'');
    literal
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SAID: &str = "transaction type: -\nscaling factor: 1\nquery mode: prepared\n\
        number of clients: 16\nnumber of threads: 2\nmaximum number of tries: 1\nduration: 10 s\n\
        number of transactions actually processed: 4\nnumber of failed transactions: 0 (0.000%)\n\
        latency average = 2.046 ms\nlatency stddev = 0.5 ms\ninitial connection time = 30.1 ms\n\
        tps = 8.000000 (without initial connection time)\n";
    const LOG: &str = "0 1 1500 0 1795651200 100\n1 1 2500 0 1795651200 200 12\n\
        0 2 9000 0 1795651200 300\n1 2 500 0 1795651200 400\n";

    #[test]
    fn figures_come_from_the_rate_and_the_log() {
        let figures = figures(SAID, LOG).expect("figures");
        assert_eq!((figures.offered, figures.accepted), (4, 4));
        let told = [
            (figures.per_second, 8.0),
            (figures.seconds, 0.5),
            (figures.p50_milliseconds, 1.5),
            (figures.p99_milliseconds, 9.0),
            (figures.max_milliseconds, 9.0),
        ];
        for (found, expected) in told {
            assert!((found - expected).abs() < 1e-9, "{found} and {expected}");
        }
    }

    #[test]
    fn what_nobody_understands_is_told() {
        let check = |said: &str, log: &str, words: &str| {
            let error = figures(said, log).expect_err("no figures");
            assert!(error.contains(words), "{error}");
        };
        check("pgbench (15.8)", LOG, "does not tell its rate: pgbench");
        check(&SAID.replace("8.0", "0.0"), LOG, "its rate");
        check(SAID, "", "the log of pgbench is empty");
        let failed = LOG.replace("9000", "failed");
        check(SAID, &failed, "tells no time: 0 2 failed");
    }

    #[test]
    fn a_fixed_rate_is_asked_for_and_no_rate_at_saturation() {
        let wanted = Wanted {
            rate: 70,
            seconds: 9,
            connections: 1,
        };
        let fixed = arguments(&wanted, Pace::FixedRate, "/tmp/x");
        for word in ["--rate=70", "--time=9", "--client=1", "--jobs=1"] {
            assert!(fixed.iter().any(|argument| argument == word), "{fixed:?}");
        }
        assert_eq!(fixed.last().map(String::as_str), Some("datastorage"));
        let saturated = arguments(&wanted, Pace::Saturation, "/tmp/x");
        assert_eq!(saturated.len(), fixed.len() - 1, "{saturated:?}");
    }

    #[test]
    fn a_row_becomes_a_statement_without_a_variable() {
        let row = json!({"id": "x", "at": "12:30 o'clock", "n": 7, "data": {"a": 1}, "no": null});
        let statement = insert("t", &row, &[("id", "gen_random_uuid()")]);
        let expected = "INSERT INTO t (at, data, id, n) VALUES \
            (E'12\\07230 o\\047clock', E'\\173\\042a\\042\\0721\\175', gen_random_uuid(), E'7')";
        assert_eq!(statement, expected);
        assert_eq!(literal("\u{e9}"), "E'\\303\\251'");
        let statement = update("t", &row, &["n", "data", "no"], &[("v", "v + 1")], ":id");
        let expected = "UPDATE t SET v = v + 1, n = E'7', \
            data = E'\\173\\042a\\042\\0721\\175', no = NULL WHERE id = :id";
        assert_eq!(statement, expected);
    }
}
