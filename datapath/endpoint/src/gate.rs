//! The layer around the S3 service through which every request and every reply passes.
//!
//! It counts, it can withhold replies, and it carries out the faults that are drawn. It knows HTTP
//! requests and operation names, not objects: what it does to a request it can do to any.

use std::future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::CONTENT_LENGTH;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use s3s::access::{S3Access, S3AccessContext};
use s3s::service::S3Service;
use s3s::{Body, HttpError, HttpRequest, S3Result, StdError, s3_error};
use tokio::sync::watch;

use crate::counters::Ledger;
use crate::faults::{Drawn, Fault, FaultPlan, Lots, Outage};
use crate::stops::{Moment, Stops};
use crate::tamper::{Tampered, Tampering, drain};
use crate::tokens::Tokens;

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
    lots: Arc<Lots>,
    outage: watch::Sender<Option<Outage>>,
    stops: Stops,
}

/// A reply as the connection sends it.
type Reply = http::Response<Metered<Tampered<Body>>>;

impl Gate {
    /// `service` must have been built with [`Turnstile`] as its access check.
    pub(crate) fn new(service: S3Service) -> Self {
        Self {
            service,
            ledger: Arc::default(),
            holders: watch::Sender::new(0),
            lots: Arc::default(),
            outage: watch::Sender::new(None),
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

    pub(crate) fn set_faults(&self, plan: Option<FaultPlan>) {
        self.lots.set(plan);
    }

    pub(crate) fn set_outage(&self, outage: Option<Outage>) {
        self.outage.send_replace(outage);
    }

    /// Waits until there is an outage.
    pub(crate) async fn wait_for_outage(&self) {
        // An error means that the sender is gone, and `self.outage` is one.
        let _ = self.outage.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until a silence, if there is one, is lifted.
    pub(crate) async fn wait_through_silence(&self) {
        let is_over = |outage: &Option<Outage>| *outage != Some(Outage::Silence);
        // As above.
        let _ = self.outage.subscribe().wait_for(is_over).await;
    }

    async fn pass(self, request: http::Request<Incoming>) -> Result<Reply, HttpError> {
        if self.outage.borrow().is_some() {
            // The connection, which hears of the outage when it is polled next, drops this future.
            future::pending::<()>().await;
        }
        let passage = Arc::new(Passage {
            ledger: Arc::clone(&self.ledger),
            operation: OnceLock::new(),
            path: request.uri().path().to_owned(),
            stops: self.stops.clone(),
        });
        let reply = match self.lots.draw(&request) {
            None => self.serve(request, &passage, Tampering::None).await?,
            Some(drawn) => self.trouble(request, &passage, drawn).await?,
        };
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

    async fn serve(
        &self,
        request: http::Request<Incoming>,
        passage: &Arc<Passage>,
        tampering: Tampering,
    ) -> Result<http::Response<Tampered<Body>>, HttpError> {
        let mut request = received(request, passage, tampering);
        request.extensions_mut().insert(Arc::clone(passage));
        let reply = self.service.call(request).await?;
        if passage.operation.get().is_none() {
            self.ledger.refuse();
        }
        Ok(reply.map(|body| Tampered::new(body, Tampering::None)))
    }

    /// Carries a fault out. It counts when it really happened: a body of no bytes, say, cannot
    /// be cut.
    async fn trouble(
        &self,
        request: http::Request<Incoming>,
        passage: &Arc<Passage>,
        drawn: Drawn,
    ) -> Result<http::Response<Tampered<Body>>, HttpError> {
        let Drawn { fault, random, .. } = drawn;
        tracing::debug!(%fault, method = %request.method(), uri = %request.uri(), "on purpose");
        let tampering = match fault {
            Fault::FlippedUpload => flip(content_length(request.headers()), random),
            Fault::CutUpload => end(content_length(request.headers()), random),
            _ => Tampering::None,
        };
        match fault {
            Fault::FlippedUpload | Fault::CutUpload if tampering == Tampering::None => {
                return self.serve(request, passage, tampering).await;
            }
            Fault::FlippedDownload | Fault::CutDownload | Fault::ShortDownload => {
                let reply = self.serve(request, passage, tampering).await?;
                return Ok(self.spoil(reply, fault, random));
            }
            _ => self.ledger.injected(fault),
        }
        match fault {
            Fault::ResetBefore => Err(reset()),
            Fault::ResetAfter => {
                self.serve(request, passage, tampering).await?;
                Err(reset())
            }
            Fault::Delay => {
                let reply = self.serve(request, passage, tampering).await;
                tokio::time::sleep(drawn.delay).await;
                reply
            }
            Fault::InternalError => refuse(request, 500, "InternalError").await,
            Fault::SlowDown => refuse(request, 503, "SlowDown").await,
            Fault::AccessDenied => refuse(request, 403, "AccessDenied").await,
            Fault::ErrorInCompletion => refuse(request, 200, "InternalError").await,
            _ => self.serve(request, passage, tampering).await,
        }
    }

    /// Does something to the bytes of an object on their way out.
    fn spoil(
        &self,
        mut reply: http::Response<Tampered<Body>>,
        fault: Fault,
        random: u64,
    ) -> http::Response<Tampered<Body>> {
        let len = content_length(reply.headers());
        let tampering = match (fault, end(len, random)) {
            _ if !reply.status().is_success() => Tampering::None,
            (Fault::FlippedDownload, _) => flip(len, random),
            (Fault::CutDownload, Tampering::End { at }) => Tampering::Break { at },
            (_, tampering) => tampering,
        };
        if tampering == Tampering::None {
            return reply;
        }
        self.ledger.injected(fault);
        if let Tampering::End { at } = tampering {
            reply.headers_mut().insert(CONTENT_LENGTH, at.into());
        }
        reply.map(|body| body.tamper(tampering))
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
    type Response = http::Response<Metered<Tampered<Body>>>;
    type Error = HttpError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        Box::pin(self.clone().pass(request))
    }
}

fn received(
    request: http::Request<Incoming>,
    passage: &Arc<Passage>,
    tampering: Tampering,
) -> HttpRequest {
    request.map(|body| {
        Body::http_body(Metered {
            body: Tampered::new(body, tampering),
            passage: Arc::clone(passage),
            direction: Ledger::receive,
        })
    })
}

/// What makes the server drop the connection; it resets it then.
fn reset() -> HttpError {
    HttpError::new("reset on purpose".into())
}

/// An answer in S3's words, without asking the service.
async fn refuse(
    request: http::Request<Incoming>,
    status: u16,
    code: &str,
) -> Result<http::Response<Tampered<Body>>, HttpError> {
    drain(request.into_body()).await;
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>Injected on purpose</Message></Error>"
    );
    let mut reply = http::Response::new(Tampered::new(Body::from(xml), Tampering::None));
    *reply.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    Ok(reply)
}

fn content_length(headers: &http::HeaderMap) -> u64 {
    let header = headers.get(CONTENT_LENGTH);
    let len = header.and_then(|value| value.to_str().ok()?.parse().ok());
    len.unwrap_or(0)
}

/// One bit of a body of `len` bytes.
fn flip(len: u64, random: u64) -> Tampering {
    match len {
        0 => Tampering::None,
        _ => Tampering::Flip {
            at: (random >> 3) % len,
            bit: u32::try_from(random % 8).expect("below 8"),
        },
    }
}

/// An end before that of a body of `len` bytes, of which one at least arrives.
fn end(len: u64, random: u64) -> Tampering {
    match len {
        0 | 1 => Tampering::None,
        _ => Tampering::End {
            at: 1 + random % (len - 1),
        },
    }
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
pub(crate) struct Turnstile(pub(crate) Tokens);

#[async_trait::async_trait]
impl S3Access for Turnstile {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Signature is required"));
        }
        let token = context.headers().get("x-amz-security-token");
        self.0.check(token.and_then(|token| token.to_str().ok()))?;
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
