//! Metrics as a service tells them, and the difference between two looks.

use std::time::Duration;

use crate::http::Api;
use crate::poll::{Look, eventually};
use crate::run::Run;

/// A service may count a moment after it, or DataStorage, has answered.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

/// All samples of all replicas of a service at one moment.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<Sample>);

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

impl Metrics {
    /// Asks every replica.
    ///
    /// # Panics
    /// When one does not answer.
    #[must_use]
    #[track_caller]
    pub fn scrape(run: &Run, service: &str) -> Self {
        let deployed = run.service(service);
        let mut samples = Vec::new();
        for container in &deployed.containers {
            let answer =
                Api::of_container(run, service, container, "metrics", 9090).get("/metrics");
            samples.extend(answer.expect(200).body.lines().filter_map(parse));
        }
        Self(samples)
    }

    /// The sum of all samples of this name that carry all these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect();
        let matching = self.0.iter().filter(|sample| {
            sample.name == name && wanted.iter().all(|label| sample.labels.contains(label))
        });
        matching.map(|sample| sample.value).sum()
    }

    /// Waits until samples of this name have moved by exactly so much since this look: one count
    /// for each set of labels.
    ///
    /// # Panics
    /// When they have not in time, with what they have moved by, and the names that there are.
    #[track_caller]
    pub fn expect_moved(
        &self,
        run: &Run,
        service: &str,
        name: &str,
        expected: &[(&[(&str, &str)], u32)],
    ) {
        eventually("the counts", COUNTED_WITHIN, || {
            let now = Self::scrape(run, service);
            let moved: Vec<f64> = expected
                .iter()
                .map(|(labels, _)| now.sum(name, labels) - self.sum(name, labels))
                .collect();
            let equal = moved
                .iter()
                .zip(expected)
                .all(|(moved, (_, count))| (moved - f64::from(*count)).abs() < f64::EPSILON);
            if equal {
                return Look::Seen(());
            }
            Look::NotYet(format!(
                "{name} moved by {moved:?}, not by {expected:?}; there are {:?}",
                now.names()
            ))
        });
    }

    /// The names, each once.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|sample| sample.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn parse(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some(Sample {
        name: name.to_owned(),
        labels: labels.trim_end_matches('}').to_owned(),
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_labels() {
        let text = "# TYPE requests_total counter\n\
                    requests_total{method=\"GET\",status=\"200\"} 3\n\
                    requests_total{method=\"POST\",status=\"200\"} 4\n\
                    requests_total{method=\"POST\",status=\"409\"} 1\n\
                    up 1\n";
        let metrics = Metrics(text.lines().filter_map(parse).collect());
        let sum = |labels: &[(&str, &str)]| metrics.sum("requests_total", labels);
        assert!((sum(&[]) - 8.0).abs() < f64::EPSILON);
        assert!((sum(&[("status", "200")]) - 7.0).abs() < f64::EPSILON);
        assert!((sum(&[("status", "200"), ("method", "POST")]) - 4.0).abs() < f64::EPSILON);
        assert_eq!(metrics.names(), ["requests_total", "up"]);
    }
}
