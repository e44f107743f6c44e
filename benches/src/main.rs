//! Measures ringback: whole workloads side by side with limits and peers, and chunk sizes.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::{Args, Parser, Subcommand};
use ringback_benches::{
    chunk_sizes::ChunkSizes,
    contender::{self, Contender},
    error::Error,
    measure::{machine::available_memory_bytes, process},
    raw::Raw,
    report,
    run::{Plan, check_target},
    sink::{self, Address, Wanted},
    table,
    units::MIB,
    volume::{Changes, Volume, Workload},
};
use tokio::runtime::Runtime;

/// Measures ringback: whole workloads side by side with limits and peers, and chunk sizes.
#[derive(Parser)]
#[command(name = "ringback-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(RunArgs),
    ChunkSizes(ChunkSizes),
    Volume(VolumeArgs),
    Change(ChangeArgs),
    /// The sink, as a process of its own; `run` starts it.
    #[command(hide = true)]
    Sink {
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// The raw limit, as a process of its own; `run` starts it.
    #[command(subcommand, hide = true)]
    Raw(Raw),
    /// Runs a program and writes down what it used; `run` starts it.
    #[command(hide = true)]
    Supervise {
        report: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<OsString>,
    },
}

/// Back a volume up and restore it with every contender, side by side, and show what it took.
///
/// Limits (fio where it is installed, and a client that only moves bytes), ringback, and the peers
/// that are installed take turns, each with all phases: a first backup, a second of the same
/// volume, a third after some blocks have changed, a restore. Every restored volume is compared
/// with what was backed up.
#[derive(Args)]
struct RunArgs {
    /// Size of the volume.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(16..))]
    size_mib: u64,
    /// What is in the volume.
    #[arg(long, value_enum, default_value_t = Workload::Mixed)]
    workload: Workload,
    /// How often each contender goes through all phases.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Which peers: all, none, or names with commas between.
    #[arg(long, value_name = "NAMES", default_value = "all")]
    peers: String,
    /// Parts and ranges under way at once, for ringback and the raw limit.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    transfers: u32,
    /// Write a page with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write everything that was measured.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where volumes are kept and restored to: the disk that is measured.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    work: PathBuf,
    /// Let our own sink keep its objects as files in this folder instead of in memory.
    #[arg(long, value_name = "DIR", conflicts_with = "endpoint")]
    sink_folder: Option<PathBuf>,
    /// A real S3 instead of our own sink; credentials from AWS_ACCESS_KEY_ID and its siblings.
    #[arg(long, value_name = "URL", requires = "bucket")]
    endpoint: Option<String>,
    /// The bucket of --endpoint. What is put there is removed again.
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// Back up this device as it is instead of a volume that is made. It is only read.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["size_mib", "workload"])]
    device: Option<PathBuf>,
    /// Restore to this device, at least as large, instead of files. WHAT IT HOLDS IS LOST.
    #[arg(long, value_name = "PATH", requires = "device")]
    overwrite_device: Option<PathBuf>,
    /// The ringback to measure; without it the one of this source tree, which is built if need be.
    #[arg(long, value_name = "PATH")]
    ringback: Option<PathBuf>,
}

/// Make a volume, as `run` does.
#[derive(Args)]
struct VolumeArgs {
    /// Where.
    path: PathBuf,
    /// What is in it.
    #[arg(long, value_enum, default_value_t = Workload::Mixed)]
    workload: Workload,
    /// Its size.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    size_mib: u64,
}

/// Write random bytes over some blocks of 4 KiB of a file.
#[derive(Args)]
struct ChangeArgs {
    /// The file.
    path: PathBuf,
    /// How many blocks.
    #[arg(long, value_name = "N")]
    blocks: u64,
    /// Which ones, and to what.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Verb::Supervise { report, program } => return process::supervise(&report, &program),
        Verb::Run(arguments) => arguments.run(),
        Verb::ChunkSizes(arguments) => arguments.run(),
        Verb::Volume(arguments) => arguments.workload.fill(arguments.size_mib, &arguments.path),
        Verb::Change(arguments) => arguments.run(),
        Verb::Raw(raw) => raw.run(),
        Verb::Sink { folder } => serve(folder),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringback-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(folder: Option<PathBuf>) -> Result<(), Error> {
    let runtime = Runtime::new().map_err(|source| start_failed("threads", source))?;
    let served = runtime.block_on(sink::serve(folder));
    // Standard input may still be read from.
    runtime.shutdown_background();
    served
}

impl ChangeArgs {
    fn run(&self) -> Result<(), Error> {
        let mut volume = Volume::given(&self.path)?;
        volume.may_change = true;
        Changes::apply(&volume, self.seed, self.blocks).map(drop)
    }
}

impl RunArgs {
    fn run(&self) -> Result<(), Error> {
        if let (Some(source), Some(target)) = (&self.device, &self.overwrite_device) {
            check_target(target, source)?;
        }
        let program = match &self.ringback {
            Some(program) => program.clone(),
            None => build_ringback()?,
        };
        let folder = self.work_folder()?;
        let _lock = lock(&folder)?;
        let volume = match &self.device {
            Some(device) => Volume::given(device)?,
            None => self.workload.volume(self.size_mib, &folder)?,
        };
        let sink = self.sink()?;
        check_memory(&sink, &volume)?;
        let transfers = usize::try_from(self.transfers).expect("at most 64");
        let mut contenders = contender::own(&program, transfers);
        let mut peers = contender::peers();
        // Others are removed from somebody's bucket again.
        peers.retain(|it| self.endpoint.is_none() || it.keeps_to_its_prefix());
        contenders.extend(choose(&self.peers, peers)?);
        let scratch = folder.join("scratch");
        fs::create_dir_all(&scratch).map_err(|source| file_error("make", &scratch, source))?;
        let results = Plan {
            volume,
            contenders,
            rounds: self.rounds,
            sink,
            scratch: scratch.clone(),
            device: self.overwrite_device.clone(),
            command: env::args().collect(),
            commit: commit(),
        }
        .run()?;
        let _ = fs::remove_dir_all(&scratch);
        println!("{}", table::render(&results));
        if let Some(path) = &self.json {
            let json = serde_json::to_vec(&results).expect("plain values");
            fs::write(path, json).map_err(|source| file_error("write", path, source))?;
        }
        if let Some(path) = &self.html {
            let page = report::page(&results);
            fs::write(path, page).map_err(|source| file_error("write", path, source))?;
            println!("\nplots: {}", path.display());
        }
        let failed = results.contenders.iter().find(|it| it.failure.is_some());
        failed.map_or(Ok(()), |it| {
            Err(Error::Other(format!("{} failed; see above", it.name)))
        })
    }

    fn work_folder(&self) -> Result<PathBuf, Error> {
        fs::create_dir_all(&self.work).map_err(|source| file_error("make", &self.work, source))?;
        fs::canonicalize(&self.work).map_err(|source| file_error("find", &self.work, source))
    }

    fn sink(&self) -> Result<Wanted, Error> {
        match (&self.endpoint, &self.bucket) {
            (Some(url), Some(bucket)) => Ok(Wanted::Given(Address::from_environment(url, bucket)?)),
            _ => Ok(Wanted::Own(self.sink_folder.clone())),
        }
    }
}

/// One run at a time in a folder: two would measure each other.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    let file = File::create(&path).map_err(|source| file_error("make", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Other(format!(
            "another run works in {}; wait for it",
            folder.display()
        ))),
        Err(TryLockError::Error(source)) => Err(file_error("lock", &path, source)),
    }
}

/// A contender that dedupes nothing stores the volume three times.
fn check_memory(sink: &Wanted, volume: &Volume) -> Result<(), Error> {
    let needed = volume.bytes * 3 + (1 << 30);
    match (sink, available_memory_bytes()) {
        (Wanted::Own(None), Some(available)) if available < needed => Err(Error::Other(format!(
            "the sink may take {} MiB of memory and {} are available; choose a smaller --size-mib, \
             or keep its objects in files with --sink-folder",
            needed / MIB,
            available / MIB
        ))),
        _ => Ok(()),
    }
}

fn choose(names: &str, peers: Vec<Box<dyn Contender>>) -> Result<Vec<Box<dyn Contender>>, Error> {
    match names {
        "all" => Ok(peers),
        "none" => Ok(Vec::new()),
        names => {
            let wanted: Vec<&str> = names.split(',').collect();
            let known: Vec<&str> = peers.iter().map(|it| it.name()).collect();
            if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
                return Err(Error::Other(format!(
                    "--peers has {unknown:?}; it should be all, none, or some of {}",
                    known.join(",")
                )));
            }
            let chosen = peers.into_iter().filter(|it| wanted.contains(&it.name()));
            Ok(chosen.collect())
        }
    }
}

/// The program beside this one, built from the same tree with the same profile.
fn build_ringback() -> Result<PathBuf, Error> {
    let this = env::current_exe().map_err(|source| start_failed("this program", source))?;
    let program = this.with_file_name("ringback");
    // `cargo run` names the cargo to build with.
    if let Some(cargo) = env::var_os("CARGO") {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let mut command = Command::new(cargo);
        command.args([
            "build",
            "--quiet",
            "--package",
            "ringback",
            "--manifest-path",
        ]);
        command.arg(manifest);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let built = command
            .status()
            .map_err(|source| start_failed("cargo", source))?;
        if !built.success() {
            return Err(Error::Other(
                "ringback does not build; see above".to_owned(),
            ));
        }
    }
    if program.exists() {
        return Ok(program);
    }
    Err(Error::Other(format!(
        "there is no {}; build it (cargo build --release), or name one with --ringback",
        program.display()
    )))
}

/// What the source tree is at, if git knows.
fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args([
        "-C",
        env!("CARGO_MANIFEST_DIR"),
        "describe",
        "--always",
        "--dirty",
    ]);
    let output = git.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned())
}

fn file_error(what: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File {
        what,
        path: path.to_owned(),
        source,
    }
}

fn start_failed(program: &str, source: std::io::Error) -> Error {
    Error::Start {
        program: program.to_owned(),
        source,
    }
}
