//! Prometheus metrics of the process: one recorder, and the text it gives.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Upper bounds of the request durations, in seconds.
const DURATION_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Installs the recorder of the process, once; later calls change nothing.
pub fn install() {
    RECORDER.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), DURATION_BUCKETS)
            .unwrap_or_else(|error| panic!("the buckets are not empty: {error}"))
            .build_recorder();
        let handle = recorder.handle();
        // Someone else's recorder can only be there when a test set one; ours is not in use then.
        let _ = metrics::set_global_recorder(recorder);
        describe();
        handle
    });
}

/// The text of `/metrics`; empty before [`install`].
#[must_use]
pub fn render() -> String {
    let Some(handle) = RECORDER.get() else {
        return String::new();
    };
    handle.run_upkeep();
    handle.render()
}

fn describe() {
    metrics::describe_counter!(
        "http_requests_total",
        "Answered requests of the API by method, route and status"
    );
    metrics::describe_histogram!(
        "http_request_duration_seconds",
        "Time from the head of the request to the head of the answer"
    );
    metrics::describe_gauge!(
        "dependency_up",
        "1 when what the service depends on answered last, else 0"
    );
}

/// Counts one answered request.
pub(crate) fn count_request(method: &'static str, route: &str, status: u16, took: Duration) {
    let route = route.to_owned();
    metrics::counter!("http_requests_total",
        "method" => method, "route" => route.clone(), "status" => status.to_string())
    .increment(1);
    metrics::histogram!("http_request_duration_seconds", "method" => method, "route" => route)
        .record(took.as_secs_f64());
}
