//! This file records metrics and shows them at `/metrics` in Prometheus' text format.
//!
//! The engine counts through the `metrics` facade and knows nothing of Prometheus. Labels are bounded: route
//! templates, methods, status classes; never ids.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, header};
use axum::routing::get;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::Instant;

/// Upper bounds of latency buckets in seconds: from a memory look-up to the longest wait that is allowed.
const SECONDS: [f64; 18] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];
/// The histograms are folded this often, so that they stay small when nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// What is being recorded in this process.
#[derive(Clone)]
pub(crate) struct Recorder {
    prometheus: PrometheusHandle,
    process: metrics_process::Collector,
    since: Instant,
}

impl Recorder {
    /// Records everything that the process counts from now on. A second one in the same process would see nothing.
    ///
    /// # Errors
    /// When another recorder is installed already.
    pub(crate) fn install() -> Result<Self, String> {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .map_err(|error| error.to_string())?;
        let recorder = Self {
            prometheus: builder.install_recorder().map_err(|error| error.to_string())?,
            process: metrics_process::Collector::default(),
            since: Instant::now(),
        };
        recorder.process.describe();
        describe();
        gauge!("essaim_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(recorder)
    }

    /// Folds what was recorded, again and again; never returns.
    pub(crate) async fn keep_up(self) {
        let mut ticks = tokio::time::interval(UPKEEP_EVERY);
        loop {
            ticks.tick().await;
            self.prometheus.run_upkeep();
        }
    }

    /// `/metrics`.
    pub(crate) fn routes(self) -> Router {
        Router::new().route("/metrics", get(show)).with_state(self)
    }
}

/// The metrics of requests, found once and then kept: looking one up costs more than answering from memory.
pub(crate) struct Requests {
    in_flight: Gauge,
    routes: RwLock<HashMap<Box<str>, Arc<Route>>>,
}

/// A route's metrics, by method and by class of status; each is there from its first answer on.
type Route = [[OnceLock<(Counter, Histogram)>; CLASSES.len()]; METHODS.len()];

impl Default for Requests {
    fn default() -> Self {
        Self { in_flight: gauge!("essaim_http_requests_in_flight"), routes: RwLock::default() }
    }
}

impl Requests {
    /// A request has arrived.
    pub(crate) fn begin(&self) -> RequestCount<'_> {
        self.in_flight.increment(1.0);
        RequestCount(self)
    }

    fn route(&self, route: &str) -> Arc<Route> {
        if let Some(found) = self.routes.read().unwrap_or_else(PoisonError::into_inner).get(route) {
            return Arc::clone(found);
        }
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry(route.into()).or_default())
    }
}

/// Counts a request from its arrival; tells the whole story only when it was answered.
pub(crate) struct RequestCount<'a>(&'a Requests);

impl RequestCount<'_> {
    /// The request was answered, `took` after its arrival.
    pub(crate) fn answered(self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        let (method, class) = (known(method), class(status));
        let counts = self.0.route(route);
        let (answers, seconds) = counts[method][class].get_or_init(|| {
            let route = route.to_owned();
            let labels = [("route", route), ("method", METHODS[method].into()), ("status", CLASSES[class].into())];
            (
                counter!("essaim_http_requests_total", &labels),
                histogram!("essaim_http_request_duration_seconds", &labels),
            )
        });
        answers.increment(1);
        seconds.record(took.as_secs_f64());
    }
}

impl Drop for RequestCount<'_> {
    fn drop(&mut self) {
        self.0.in_flight.decrement(1.0);
    }
}

/// Counters and gauges as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "operation",
    responses((status = 200, body = String, description = "Prometheus's text format", content_type = "text/plain")))]
pub(crate) async fn show(State(recorder): State<Recorder>) -> ([(header::HeaderName, &'static str); 1], String) {
    recorder.process.collect();
    tell_processor_time();
    gauge!("essaim_uptime_seconds").set(recorder.since.elapsed().as_secs_f64());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], recorder.prometheus.render())
}

/// The collector's own counter has whole seconds only, which is nothing to tell one second from the next by.
fn tell_processor_time() {
    if let Some(seconds) = metrics_process::collector::collect().cpu_seconds_total {
        gauge!("essaim_process_cpu_seconds").set(seconds);
    }
}

fn describe() {
    metrics::describe_gauge!("essaim_process_cpu_seconds", "Processor time used, in fractions of a second too.");
    metrics::describe_gauge!("essaim_uptime_seconds", "Seconds since the daemon began to count.");
    metrics::describe_gauge!("essaim_build_info", "Always 1; the label says which version runs.");
    metrics::describe_counter!("essaim_http_requests_total", "Requests answered.");
    metrics::describe_histogram!("essaim_http_request_duration_seconds", "Time from a request's head to its answer's.");
    metrics::describe_gauge!("essaim_http_requests_in_flight", "Requests being answered.");
    metrics::describe_gauge!(
        "essaim_synchroniser_pending",
        "Subjects not yet outside as wanted, without dead letters."
    );
    metrics::describe_gauge!("essaim_synchroniser_dead_letters", "Subjects set aside.");
    metrics::describe_gauge!("essaim_synchroniser_calls_in_flight", "Calls of the outside under way.");
    metrics::describe_gauge!("essaim_synchroniser_breaker_open", "1 while the outside is only probed.");
    metrics::describe_counter!("essaim_synchroniser_calls_total", "Calls of the outside, by outcome.");
    metrics::describe_gauge!("essaim_http_connections", "Open connections.");
    metrics::describe_counter!("essaim_http_connections_refused_total", "Connections refused over max_connections.");
}

/// A client may invent methods; labels must stay few.
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn known(method: &Method) -> usize {
    let other = METHODS.len() - 1;
    METHODS[..other].iter().position(|known| *known == method.as_str()).unwrap_or(other)
}

fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_told_in_fractions_of_a_second() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let told = || {
            metrics::with_local_recorder(&recorder, tell_processor_time);
            let text = recorder.handle().render();
            let line = text.lines().find_map(|line| line.strip_prefix("essaim_process_cpu_seconds "));
            line.map(|value| value.parse::<f64>().unwrap())
        };
        // Where the system does not tell it there is nothing to hold.
        let Some(before) = told() else { return };

        let mut after = before;
        while after <= before {
            after = told().unwrap();
        }

        assert!(after - before < 0.5, "from {before} to {after}");
    }

    #[test]
    fn an_invented_method_makes_no_label_of_its_own() {
        assert_eq!(METHODS[known(&Method::from_bytes(b"BREW").unwrap())], "other");
        assert_eq!(METHODS[known(&Method::from_bytes(b"other").unwrap())], "other");
        assert_eq!(METHODS[known(&Method::POST)], "POST");
    }

    #[test]
    fn a_status_is_labelled_by_its_class_only() {
        assert_eq!(CLASSES[class(StatusCode::CREATED)], "2xx");
        assert_eq!(CLASSES[class(StatusCode::CONTINUE)], "1xx");
        assert_eq!(CLASSES[class(StatusCode::from_u16(700).unwrap())], "5xx");
        assert_eq!(CLASSES[class(StatusCode::from_u16(599).unwrap())], "5xx");
    }
}
