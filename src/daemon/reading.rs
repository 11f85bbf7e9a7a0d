//! This file lets a read wait for its position, be it in the read model or in the log.

use std::pin::pin;

use futures::StreamExt;

use super::AppState;
use super::problem::Problem;
use super::request::headers::ReadHeaders;
use crate::projections::Projection;
use crate::projections::read_model::View;
use crate::stream::GlobalPosition;

impl AppState {
    /// A read model that includes the position asked for; as it is now when none is.
    ///
    /// # Errors
    /// `read_timeout` when it is not there in time, `quarantined` when it is set aside.
    pub(crate) async fn read_model_at_least<P: Projection>(&self, headers: ReadHeaders) -> Result<View<P>, Problem> {
        let model = self.engine.read_model::<P>();
        let view = match headers.at_least {
            None => model.now(),
            Some(position) => model.at_least(position).within(headers.wait.unwrap_or(self.read_wait)).await,
        };
        view.map_err(Problem::from_read)
    }

    /// Returns once the log has the position asked for; at once when none is.
    ///
    /// # Errors
    /// `read_timeout` when it is not there in time.
    pub(crate) async fn log_at_least(&self, headers: ReadHeaders) -> Result<(), Problem> {
        let head = self.engine.head();
        let Some(wanted) = headers.at_least.filter(|wanted| *wanted > head) else { return Ok(()) };
        let mut arrivals = pin!(self.engine.subscribe(GlobalPosition(wanted.0 - 1)));
        let wait = headers.wait.unwrap_or(self.read_wait);
        match tokio::time::timeout(wait, arrivals.next()).await {
            Ok(Some(Ok(_))) => Ok(()),
            Ok(Some(Err(error))) => Err(Problem::from_store(&error)),
            Ok(None) | Err(_) => Err(Problem::lagging(self.engine.head(), wanted)),
        }
    }
}
