//! The layer around the S3 service through which every request and every reply passes.
//!
//! It counts, and it can withhold replies. It knows HTTP requests and operation names, not objects:
//! what it does to a request it can do to any, which makes it the place for injected faults.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use s3s::access::{S3Access, S3AccessContext};
use s3s::service::S3Service;
use s3s::{Body, HttpError, HttpRequest, S3Result, StdError, s3_error};
use tokio::sync::watch;

use crate::counters::Ledger;
use crate::stops::{Moment, Stops};

/// While it lives, requests are received and applied but their replies are withheld. Dropped, all
/// of them go out.
///
/// Several may live at once; replies go out when the last one is gone.
#[derive(Debug)]
#[must_use = "replies are withheld only while this lives"]
pub struct HeldReplies {
    holders: watch::Sender<usize>,
}

impl Drop for HeldReplies {
    fn drop(&mut self) {
        self.holders.send_modify(|holders| *holders -= 1);
    }
}

/// The service as the connections see it.
#[derive(Clone)]
pub(crate) struct Gate {
    service: S3Service,
    ledger: Arc<Ledger>,
    holders: watch::Sender<usize>,
    stops: Stops,
}

impl Gate {
    /// `service` must have been built with [`Turnstile`] as its access check.
    pub(crate) fn new(service: S3Service) -> Self {
        Self {
            service,
            ledger: Arc::default(),
            holders: watch::Sender::new(0),
            stops: Stops::default(),
        }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) fn stops(&self) -> &Stops {
        &self.stops
    }

    pub(crate) fn hold_replies(&self) -> HeldReplies {
        self.holders.send_modify(|holders| *holders += 1);
        HeldReplies {
            holders: self.holders.clone(),
        }
    }

    async fn pass(
        self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Metered<Body>>, HttpError> {
        let passage = Arc::new(Passage {
            ledger: Arc::clone(&self.ledger),
            operation: OnceLock::new(),
            path: request.uri().path().to_owned(),
            stops: self.stops.clone(),
        });
        let mut request = received(request, &passage);
        request.extensions_mut().insert(Arc::clone(&passage));

        let reply = self.service.call(request).await?;

        if passage.operation.get().is_none() {
            self.ledger.refuse();
        }
        if reply.status().is_success() {
            passage.is_stopped(Moment::Applied).await;
        }
        self.wait_until_replies_may_go().await;
        Ok(reply.map(|body| Metered {
            body,
            passage,
            direction: Ledger::send,
        }))
    }

    async fn wait_until_replies_may_go(&self) {
        // An error means that the sender is gone, and `self.holders` is one.
        let _ = self
            .holders
            .subscribe()
            .wait_for(|holders| *holders == 0)
            .await;
    }
}

impl hyper::service::Service<http::Request<Incoming>> for Gate {
    type Response = http::Response<Metered<Body>>;
    type Error = HttpError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        Box::pin(self.clone().pass(request))
    }
}

fn received(request: http::Request<Incoming>, passage: &Arc<Passage>) -> HttpRequest {
    request.map(|body| {
        Body::http_body(Metered {
            body,
            passage: Arc::clone(passage),
            direction: Ledger::receive,
        })
    })
}

/// One request on its way through. It is under way until the last holder, the reply's body, is
/// gone.
struct Passage {
    ledger: Arc<Ledger>,
    /// Known once the service has parsed the request and checked its signature.
    operation: OnceLock<String>,
    path: String,
    stops: Stops,
}

impl Passage {
    /// Waits while it is stopped at this moment; whether it was.
    async fn is_stopped(&self, moment: Moment) -> bool {
        match self.operation.get() {
            Some(operation) => self.stops.wait(moment, operation, &self.path).await,
            None => false,
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.get() {
            self.ledger.end(operation);
        }
    }
}

/// The access check: admits what is signed and tells the passage which operation it is, which only
/// the service can tell.
pub(crate) struct Turnstile;

#[async_trait::async_trait]
impl S3Access for Turnstile {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Signature is required"));
        }
        let operation = context.s3_op().name().to_owned();
        let passage = context.extensions_mut().get::<Arc<Passage>>().cloned();
        if let Some(passage) = passage {
            passage.ledger.begin(&operation);
            // A request is checked once; a second name would be the same one.
            let _ = passage.operation.set(operation);
            if passage.is_stopped(Moment::Arrived).await {
                return Err(s3_error!(
                    SlowDown,
                    "The request was stopped on its arrival"
                ));
            }
        }
        Ok(())
    }
}

/// A body whose bytes are counted as they pass, in the direction given.
pub(crate) struct Metered<B> {
    body: B,
    passage: Arc<Passage>,
    direction: fn(&Ledger, usize),
}

impl<B> HttpBody for Metered<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    StdError: From<B::Error>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context)?);
        if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
            (self.direction)(&self.passage.ledger, data.len());
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
