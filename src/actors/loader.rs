//! This file reads streams for aggregates that are cold: many in one statement, in pages where they are long.

use std::sync::Arc;
use std::time::Duration;

use super::batcher::Batcher;
use crate::event::RecordedEvent;
use crate::store::{LoadRequest, LoadedStream, SharedStore, Snapshot, StoreError};
use crate::stream::{StreamId, Version};

/// Part of a stream on its way to its aggregate.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// The next events, after the snapshot if there is one.
    Page { snapshot: Option<Snapshot>, events: Vec<RecordedEvent>, last: bool },
    /// The store did not answer.
    Failed(Arc<StoreError>),
}

/// Loads streams.
#[derive(Clone)]
pub(crate) struct Loader {
    store: SharedStore,
    batcher: Batcher<LoadRequest, LoadedStream>,
}

/// Streams that are read in one statement.
const MAX_STREAMS: usize = 256;
/// Events of one stream that are read in one statement; the rest follows in pages of as many.
const PAGE_EVENTS: usize = 512;
/// Pauses before a load that failed is tried again; a connection that died since its last use costs one try.
const RETRIES: [Duration; 3] = [Duration::from_millis(10), Duration::from_millis(100), Duration::from_millis(400)];

impl Loader {
    pub(crate) fn start(store: SharedStore, max_loads: usize) -> Self {
        let reading = Arc::clone(&store);
        let batcher = Batcher::start(MAX_STREAMS, max_loads, move |requests: Vec<LoadRequest>| {
            let store = Arc::clone(&reading);
            async move { retried(|| store.load_streams(&requests, PAGE_EVENTS)).await }
        });
        Self { store, batcher }
    }

    /// Reads one stream and hands it to `deliver`, page by page.
    pub(crate) fn load(&self, request: LoadRequest, deliver: impl Fn(Loaded) + Send + Sync + 'static) {
        let loader = self.clone();
        tokio::spawn(async move {
            let stream = request.stream.clone();
            match loader.batcher.ask(request).await {
                Err(error) => deliver(Loaded::Failed(error)),
                Ok(LoadedStream { snapshot, events, more }) => {
                    let reached = events.last().map(|event| event.version);
                    deliver(Loaded::Page { snapshot, events, last: !more });
                    if let (true, Some(reached)) = (more, reached) {
                        loader.read_on(&stream, reached, deliver).await;
                    }
                }
            }
        });
    }

    async fn read_on(&self, stream: &StreamId, mut reached: Version, deliver: impl Fn(Loaded)) {
        loop {
            match retried(|| self.store.read_stream(stream, reached, PAGE_EVENTS)).await {
                Err(error) => return deliver(Loaded::Failed(Arc::new(error))),
                Ok(events) => {
                    let last = events.len() < PAGE_EVENTS;
                    reached = events.last().map_or(reached, |event| event.version);
                    deliver(Loaded::Page { snapshot: None, events, last });
                    if last {
                        return;
                    }
                }
            }
        }
    }
}

/// Asks the store again while it is only unavailable.
pub(crate) async fn retried<T, F: Future<Output = Result<T, StoreError>>>(
    ask: impl Fn() -> F,
) -> Result<T, StoreError> {
    for pause in RETRIES {
        match ask().await {
            Err(error) if error.is_transient() => tokio::time::sleep(pause).await,
            answer => return answer,
        }
    }
    ask().await
}
