//! Faults on purpose: which request meets which trouble, drawn from a seed.
//!
//! What is drawn depends on the seed and on how many requests came before, on nothing else. The
//! gate carries it out.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request};

/// Trouble that a request can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The connection is reset; the request was not applied.
    ResetBefore,
    /// The connection is reset; the request was applied, its reply is lost.
    ResetAfter,
    /// 500 InternalError; the request was not applied.
    InternalError,
    /// 503 SlowDown; the request was not applied.
    SlowDown,
    /// The reply comes late.
    Delay,
    /// One bit of an object's bytes is another in the reply to a GET.
    FlippedDownload,
    /// The connection is reset in the midst of a GET's body.
    CutDownload,
    /// The reply to a GET has fewer bytes than asked for, and announces just these.
    ShortDownload,
    /// One bit of an uploaded body arrives as another.
    FlippedUpload,
    /// An uploaded body ends before its announced length.
    CutUpload,
    /// Status 200 to a CompleteMultipartUpload, with an error in the body; it was not applied.
    ErrorInCompletion,
    /// 403 AccessDenied; the request was not applied. Not among those that pass, for no client
    /// should try again.
    AccessDenied,
}

impl Fault {
    /// All that a client survives by trying again.
    pub const PASSING: [Self; 11] = [
        Self::ResetBefore,
        Self::ResetAfter,
        Self::InternalError,
        Self::SlowDown,
        Self::Delay,
        Self::FlippedDownload,
        Self::CutDownload,
        Self::ShortDownload,
        Self::FlippedUpload,
        Self::CutUpload,
        Self::ErrorInCompletion,
    ];

    /// What kind of request it can happen to; `None`: to any.
    fn only_for(self) -> Option<Shape> {
        match self {
            Self::FlippedDownload | Self::CutDownload | Self::ShortDownload => {
                Some(Shape::Download)
            }
            Self::FlippedUpload | Self::CutUpload => Some(Shape::Upload),
            Self::ErrorInCompletion => Some(Shape::Completion),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// Which faults there are, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultPlan {
    /// Decides which requests meet which fault.
    pub seed: u64,
    /// Of a thousand requests, so many meet one.
    pub per_mille: u64,
    /// What they meet: of those that can happen to the request, one. Half of the faults are of
    /// the kind that can happen to no other sort of request, where there is one, because such
    /// requests are rare.
    pub faults: Vec<Fault>,
    /// So many requests meet one; after them none does.
    pub requests_max: u64,
    /// How late a late reply is, at most.
    pub delay_max: Duration,
}

impl FaultPlan {
    /// All faults that pass, for so many of a thousand requests.
    #[must_use]
    pub fn mixed(seed: u64, per_mille: u64) -> Self {
        Self {
            seed,
            per_mille,
            faults: Fault::PASSING.to_vec(),
            requests_max: u64::MAX,
            delay_max: Duration::from_millis(200),
        }
    }

    /// This fault for every request that it can happen to.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self {
            faults: vec![fault],
            ..Self::mixed(0, 1000)
        }
    }
}

/// How a store is gone as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outage {
    /// Connections are reset, those that are open at once and new ones as they come.
    Reset,
    /// Connections stay, and nothing comes any more: a black hole. When it is lifted they are
    /// reset.
    Silence,
}

/// Sorts of requests, as far as HTTP shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// GET of an object.
    Download,
    /// PUT of an object or part.
    Upload,
    /// CompleteMultipartUpload.
    Completion,
    Other,
}

impl Shape {
    fn of<B>(request: &Request<B>) -> Self {
        let uri = request.uri();
        let names_object = uri
            .path()
            .trim_start_matches('/')
            .split_once('/')
            .is_some_and(|(_, key)| !key.is_empty());
        if !names_object {
            return Self::Other;
        }
        let asks_for = |name: &str| {
            let mut parameters = uri.query().unwrap_or_default().split('&');
            parameters.any(|parameter| parameter.split('=').next() == Some(name))
        };
        match *request.method() {
            Method::GET if !asks_for("uploadId") => Self::Download,
            Method::PUT => Self::Upload,
            Method::POST if asks_for("uploadId") => Self::Completion,
            _ => Self::Other,
        }
    }
}

/// A fault for one request, with random bits for its details.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawn {
    pub(crate) fault: Fault,
    pub(crate) random: u64,
    pub(crate) delay: Duration,
}

/// Draws.
#[derive(Debug, Default)]
pub(crate) struct Lots(Mutex<Option<Drawing>>);

#[derive(Debug)]
struct Drawing {
    plan: FaultPlan,
    /// Requests that came.
    requests: u64,
    /// Those among them that met a fault.
    met: u64,
}

impl Lots {
    /// Begins anew with this plan.
    pub(crate) fn set(&self, plan: Option<FaultPlan>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = plan.map(|plan| Drawing {
            plan,
            requests: 0,
            met: 0,
        });
    }

    /// What the next request meets.
    pub(crate) fn draw<B>(&self, request: &Request<B>) -> Option<Drawn> {
        let mut drawing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Drawing {
            plan,
            requests,
            met,
        } = drawing.as_mut()?;
        let mut random = SplitMix::at(plan.seed, *requests);
        *requests += 1;
        if *met == plan.requests_max {
            return None;
        }
        let drawn = draw(plan, Shape::of(request), &mut random)?;
        *met += 1;
        Some(drawn)
    }
}

fn draw(plan: &FaultPlan, shape: Shape, random: &mut SplitMix) -> Option<Drawn> {
    if random.below(1000) >= plan.per_mille {
        return None;
    }
    let (special, general): (Vec<Fault>, Vec<Fault>) = plan
        .faults
        .iter()
        .filter(|fault| fault.only_for().is_none_or(|only| only == shape))
        .partition(|fault| fault.only_for().is_some());
    let is_special = general.is_empty() || (!special.is_empty() && random.below(2) == 0);
    let among = if is_special { special } else { general };
    let chosen = usize::try_from(random.below(among.len().max(1) as u64)).unwrap_or(0);
    let delay_ms = u64::try_from(plan.delay_max.as_millis()).unwrap_or(u64::MAX);
    Some(Drawn {
        fault: *among.get(chosen)?,
        random: random.next(),
        delay: Duration::from_millis(random.below(delay_ms.saturating_add(1))),
    })
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a few good bits from any two numbers.
struct SplitMix(u64);

impl SplitMix {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

    /// A sequence of its own for each pair.
    fn at(seed: u64, ordinal: u64) -> Self {
        let mut seeds = Self(seed);
        let mut ordinals = Self(seeds.next() ^ ordinal);
        Self(ordinals.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::GAMMA);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn request(method: &Method, target: &str) -> Request<()> {
        Request::builder()
            .method(method)
            .uri(target)
            .body(())
            .expect("a request")
    }

    #[test]
    fn requests_are_told_apart_by_method_path_and_query() {
        for (method, target, shape) in [
            (Method::GET, "/bucket/a/key?x-id=GetObject", Shape::Download),
            (Method::GET, "/bucket/?list-type=2", Shape::Other),
            (Method::GET, "/bucket?uploads", Shape::Other),
            (Method::GET, "/bucket/key?uploadId=1", Shape::Other),
            (Method::HEAD, "/bucket/key", Shape::Other),
            (
                Method::PUT,
                "/bucket/key?partNumber=1&uploadId=1",
                Shape::Upload,
            ),
            (Method::PUT, "/bucket", Shape::Other),
            (Method::POST, "/bucket/key?uploadId=1", Shape::Completion),
            (Method::POST, "/bucket/key?uploads", Shape::Other),
            (Method::DELETE, "/bucket/key?uploadId=1", Shape::Other),
        ] {
            assert_eq!(
                Shape::of(&request(&method, target)),
                shape,
                "{method} {target}"
            );
        }
    }

    #[test]
    fn a_seed_draws_the_same_faults_every_time_and_another_seed_others() {
        let drawn = |seed| -> Vec<Option<Fault>> {
            let lots = Lots::default();
            lots.set(Some(FaultPlan::mixed(seed, 100)));
            let get = request(&Method::GET, "/bucket/key");
            (0..1000).map(|_| Some(lots.draw(&get)?.fault)).collect()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let faults = drawn(1).into_iter().flatten().count();
        assert!((70..130).contains(&faults), "{faults} of 1000");
    }

    #[test]
    fn no_more_requests_meet_a_fault_than_the_plan_has() {
        let lots = Lots::default();
        lots.set(Some(FaultPlan {
            requests_max: 3,
            ..FaultPlan::always(Fault::CutUpload)
        }));
        let (get, put) = (
            request(&Method::GET, "/bucket/key"),
            request(&Method::PUT, "/bucket/key"),
        );
        assert!(lots.draw(&get).is_none());
        let met = (0..10).filter_map(|_| lots.draw(&put)).count();
        assert_eq!(met, 3);
    }

    #[test]
    fn every_fault_is_drawn_and_only_for_requests_that_it_can_happen_to() {
        let mut seen = BTreeSet::new();
        for (method, target) in [
            (Method::GET, "/bucket/key"),
            (Method::PUT, "/bucket/key"),
            (Method::POST, "/bucket/key?uploadId=1"),
            (Method::HEAD, "/bucket/key"),
        ] {
            let lots = Lots::default();
            lots.set(Some(FaultPlan::mixed(7, 1000)));
            let request = request(&method, target);
            for _ in 0..200 {
                let fault = lots.draw(&request).expect("every request meets one").fault;
                let only_for = fault.only_for();
                assert!(
                    only_for.is_none_or(|only| only == Shape::of(&request)),
                    "{fault}"
                );
                seen.insert(fault);
            }
        }
        assert_eq!(seen, BTreeSet::from(Fault::PASSING));
    }
}
