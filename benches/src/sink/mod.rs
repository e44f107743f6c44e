//! Where the bytes go: one S3 for all contenders.
//!
//! By default the strict endpoint of the tests, as a process of its own, so that its CPU and
//! memory are nobody's but the sink's: a fresh one for every contender in every round. Or a real
//! S3 that is given; then nobody counts requests.

mod bucket;
mod server;

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::{Deserialize, Serialize};

pub use self::{bucket::Bucket, server::serve};
use crate::{
    error::{Error, Located},
    measure::process::cpu_seconds,
    results::Wire,
};

/// The bucket in a sink of ours.
pub const OWN_BUCKET: &str = "bench";
/// The region that a sink of ours takes.
const OWN_REGION: &str = "us-east-1";

/// How to reach an S3 and a place in it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Address {
    /// `http(s)://host:port`.
    pub url: String,
    /// The bucket, which exists.
    pub bucket: String,
    /// For signatures.
    pub region: String,
    /// Who asks.
    pub access_key_id: String,
    /// With which secret.
    pub secret_access_key: String,
}

/// Which sink is wanted.
#[derive(Clone)]
pub enum Wanted {
    /// Our endpoint; with a folder its objects are files there, otherwise in its memory.
    Own(Option<PathBuf>),
    /// Somebody's.
    Given(Address),
}

/// A sink that takes requests.
pub enum Sink {
    /// Ours, which ends when this is dropped.
    Own(OwnSink),
    /// Somebody's.
    Given(Address),
}

/// An endpoint in a process of its own. It ends when its standard input does.
pub struct OwnSink {
    address: Address,
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Of this sink alone: it goes with it.
    folder: Option<PathBuf>,
}

impl Wanted {
    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Own(None) => {
                "ringback's own endpoint in a process of its own, objects in memory".to_owned()
            }
            Self::Own(Some(_)) => {
                "ringback's own endpoint in a process of its own, objects as files".to_owned()
            }
            Self::Given(_) => "an S3 that was given".to_owned(),
        }
    }

    /// Starts one of ours, or takes the one that is given.
    pub fn start(&self) -> Result<Sink, Error> {
        match self {
            Self::Own(folder) => Ok(Sink::Own(OwnSink::start(folder.as_deref())?)),
            Self::Given(address) => Ok(Sink::Given(address.clone())),
        }
    }
}

impl Address {
    /// The environment that AWS tools, and those that follow them, take credentials from.
    pub fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("AWS_ACCESS_KEY_ID", &self.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", &self.secret_access_key),
            ("AWS_REGION", &self.region),
            ("AWS_DEFAULT_REGION", &self.region),
        ]
    }

    /// The other way round: from the environment, as AWS tools do it.
    pub fn from_environment(url: &str, bucket: &str) -> Result<Self, Error> {
        let variable = |name: &str| {
            env::var(name).map_err(|_| Error::Other(format!("{name} is not set; {url} needs it")))
        };
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            bucket: bucket.to_owned(),
            region: variable("AWS_REGION").unwrap_or_else(|_| OWN_REGION.to_owned()),
            access_key_id: variable("AWS_ACCESS_KEY_ID")?,
            secret_access_key: variable("AWS_SECRET_ACCESS_KEY")?,
        })
    }
}

impl Sink {
    /// How to reach it.
    pub fn address(&self) -> &Address {
        match self {
            Self::Own(sink) => &sink.address,
            Self::Given(address) => address,
        }
    }

    /// What has passed so far, if it counts.
    pub fn wire(&mut self) -> Result<Option<Wire>, Error> {
        match self {
            Self::Own(sink) => sink.ask().map(Some),
            Self::Given(_) => Ok(None),
        }
    }

    /// CPU that it has used so far, if it is ours.
    pub fn cpu_seconds(&self) -> f64 {
        match self {
            Self::Own(sink) => cpu_seconds(sink.child.id()),
            Self::Given(_) => 0.0,
        }
    }

    /// Whether what was put there goes away by itself.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }
}

impl OwnSink {
    fn start(folder: Option<&Path>) -> Result<Self, Error> {
        let this = env::current_exe().at("find", Path::new("/proc/self/exe"))?;
        let mut command = Command::new(this);
        command
            .arg("sink")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let folder = folder.map(|folder| folder.join(format!("sink-{}", std::process::id())));
        if let Some(folder) = &folder {
            command.arg("--folder").arg(folder);
        }
        let mut child = command.spawn().map_err(|source| Error::Start {
            program: "the sink".to_owned(),
            source,
        })?;
        let questions = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let address = match read_answer(&mut answers) {
            Ok(address) => address,
            Err(error) => {
                drop(questions);
                let _ = child.wait();
                return Err(error);
            }
        };
        Ok(Self {
            address,
            child,
            questions,
            answers,
            folder,
        })
    }

    fn ask(&mut self) -> Result<Wire, Error> {
        let asked = self
            .questions
            .as_mut()
            .map(|questions| questions.write_all(b"wire\n"));
        if !matches!(asked, Some(Ok(()))) {
            return Err(gone());
        }
        read_answer(&mut self.answers)
    }
}

fn read_answer<T: for<'a> Deserialize<'a>>(answers: &mut impl BufRead) -> Result<T, Error> {
    let mut line = String::new();
    let read = answers.read_line(&mut line);
    let _ = read.map_err(|_| gone())?;
    serde_json::from_str(&line).map_err(|_| gone())
}

fn gone() -> Error {
    Error::Store("the sink's process has ended; what it said is above".to_owned())
}

impl Drop for OwnSink {
    fn drop(&mut self) {
        drop(self.questions.take());
        let _ = self.child.wait();
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}
