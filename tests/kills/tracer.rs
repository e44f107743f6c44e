//! The daemon seen by a debugger: each system call by which it changes its volumes can be the last.
//!
//! A traced thread stops before the kernel carries a call out. Killed there, the call never
//! happens, and everything before it has happened: so the moments between two changes can all be
//! hit, on the program as it is shipped.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};

const LOOP_GET_STATUS64: u64 = 0x4c05;
const FS_IOC_FIEMAP: u64 = 0xc020_660b;
/// What the kernel gives for a path's length.
const PATH_BYTES_MAX: usize = 4096;

/// A call that changes files or devices, or submits I/O to a ring; about to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// As strace names it.
    pub(crate) name: &'static str,
    /// What it concerns; `None` for a ring.
    pub(crate) path: Option<PathBuf>,
    /// Where a rename or a link leads to.
    pub(crate) to: Option<PathBuf>,
    /// For a ring: what the process has open for writing.
    pub(crate) open_for_writing: Vec<PathBuf>,
}

/// A process that is being traced by a thread of its own.
pub(crate) struct Traced(JoinHandle<Trace>);

/// What a process did until its end.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// Those that concern the group or a loop device, in their order.
    pub(crate) calls: Vec<Call>,
    /// The call that it was killed at, if it was.
    pub(crate) killed_at: Option<Call>,
}

impl Traced {
    /// Traces `process` and kills it at the first call that `is_it` picks of those that concern
    /// the files below `group`, or a loop device, or a ring. Returns once every thread is traced.
    pub(crate) fn kill_at(
        process: u32,
        group: &Path,
        is_it: impl FnMut(&Call) -> bool + Send + 'static,
    ) -> Self {
        let (attached, is_attached) = mpsc::channel();
        let group = group.to_owned();
        // ptrace(2) knows tracers by thread: all of it happens on this one.
        let thread = thread::spawn(move || {
            let mut tracer = Tracer::attach(process, group, is_it);
            attached.send(()).expect("somebody waits");
            tracer.run()
        });
        is_attached.recv().expect("the process can be traced");
        Self(thread)
    }

    /// Whether the process has ended or was killed.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the end of the process.
    pub(crate) fn trace(self) -> Trace {
        self.0.join().expect("the tracer works")
    }
}

struct Tracer<F> {
    process: Pid,
    group: PathBuf,
    is_it: F,
    trace: Trace,
}

impl<F: FnMut(&Call) -> bool> Tracer<F> {
    fn attach(process: u32, group: PathBuf, is_it: F) -> Self {
        let process = Pid::from_raw(i32::try_from(process).expect("a process id"));
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_EXITKILL;
        let mut seized = Vec::new();
        loop {
            let new: Vec<Pid> = threads_of(process)
                .into_iter()
                .filter(|thread| !seized.contains(thread))
                .collect();
            if new.is_empty() {
                break;
            }
            for thread in new {
                match ptrace::seize(thread, options) {
                    Ok(()) => ptrace::interrupt(thread).expect("a traced thread can be stopped"),
                    // It has ended, it was seized as another's child, or it is the kernel's.
                    Err(Errno::ESRCH | Errno::EPERM) if thread != process => {}
                    Err(error) => panic!(
                        "cannot trace the daemon: {error}; this test needs a host that lets a \
                         process ptrace(2) its own children"
                    ),
                }
                seized.push(thread);
            }
        }
        Self {
            process,
            group,
            is_it,
            trace: Trace::default(),
        }
    }

    fn run(&mut self) -> Trace {
        let of_this_thread = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let any_event = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        // An error: nobody is traced any more.
        while let Ok(event) = waitid(Id::All, any_event | of_this_thread) {
            let thread = event.pid().expect("an event of a thread");
            let is_end = matches!(event, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
            if is_end && thread == self.process {
                break; // left to whoever started it
            }
            let Ok(event) = waitpid(thread, Some(of_this_thread)) else {
                continue;
            };
            if self.is_the_last_call(event) {
                kill(self.process, Signal::SIGKILL).expect("the daemon can be killed");
                break; // with this thread the kernel's tracing ends
            }
        }
        std::mem::take(&mut self.trace)
    }

    fn concerns(&self, call: &Call) -> bool {
        let path = call.path.as_ref();
        path.is_none_or(|path| {
            path.starts_with(&self.group) || path.to_string_lossy().starts_with("/dev/loop")
        })
    }

    /// Lets a stopped thread go on, unless it is at the call that is to be its last.
    fn is_the_last_call(&mut self, event: WaitStatus) -> bool {
        let (thread, signal) = match event {
            WaitStatus::PtraceSyscall(thread) => {
                if let Some(call) = call_entered(thread).filter(|call| self.concerns(call)) {
                    self.trace.calls.push(call.clone());
                    if (self.is_it)(&call) {
                        self.trace.killed_at = Some(call);
                        return true;
                    }
                }
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            _ => return false,
        };
        match ptrace::syscall(thread, signal) {
            // Somebody else has killed it.
            Ok(()) | Err(Errno::ESRCH) => false,
            Err(error) => panic!("cannot let the daemon go on: {error}"),
        }
    }
}

fn threads_of(process: Pid) -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    let numbers = tasks.flatten().filter_map(|task| {
        let number = task.file_name().to_str()?.parse().ok()?;
        Some(Pid::from_raw(number))
    });
    numbers.collect()
}

/// The call that a stopped thread is about to make, when it is one that changes something.
fn call_entered(thread: Pid) -> Option<Call> {
    let info = ptrace::syscall_info(thread).ok()?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    let text = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let mut words = text.split_whitespace();
    let number: libc::c_long = words.next()?.parse().ok()?;
    let arguments: Vec<u64> = words
        .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect();
    Looked { thread, arguments }.call(number)
}

/// A stopped thread and the arguments of its call.
struct Looked {
    thread: Pid,
    arguments: Vec<u64>,
}

impl Looked {
    fn call(&self, number: libc::c_long) -> Option<Call> {
        let call = |name, path| Call {
            name,
            path,
            to: None,
            open_for_writing: Vec::new(),
        };
        let found = match number {
            libc::SYS_openat if self.changes_by_opening() => call("openat", self.path_at(0, 1)),
            libc::SYS_mkdirat => call("mkdirat", self.path_at(0, 1)),
            libc::SYS_unlinkat => call("unlinkat", self.path_at(0, 1)),
            libc::SYS_linkat => Call {
                to: self.path_at(2, 3),
                ..call("linkat", self.path_at(0, 1))
            },
            libc::SYS_renameat | libc::SYS_renameat2 => Call {
                to: self.path_at(2, 3),
                ..call("renameat", self.path_at(0, 1))
            },
            libc::SYS_ftruncate => call("ftruncate", self.descriptor(0)),
            libc::SYS_fsync => call("fsync", self.descriptor(0)),
            libc::SYS_fdatasync => call("fdatasync", self.descriptor(0)),
            libc::SYS_write => call("write", self.descriptor(0)),
            libc::SYS_pwrite64 => call("pwrite64", self.descriptor(0)),
            libc::SYS_ioctl if self.changes_by_ioctl() => call("ioctl", self.descriptor(0)),
            libc::SYS_io_uring_enter if self.arguments.get(1) != Some(&0) => Call {
                open_for_writing: self.open_for_writing(),
                ..call("io_uring_enter", None)
            },
            number => return self.call_without_folder(number),
        };
        (found.name == "io_uring_enter" || found.path.is_some()).then_some(found)
    }

    /// The older forms of calls, which newer architectures do not have.
    #[cfg(target_arch = "x86_64")]
    fn call_without_folder(&self, number: libc::c_long) -> Option<Call> {
        let name = match number {
            libc::SYS_mkdir => "mkdir",
            libc::SYS_unlink => "unlink",
            libc::SYS_rmdir => "rmdir",
            libc::SYS_rename => "rename",
            _ => return None,
        };
        let to = (name == "rename").then(|| self.text(1)).flatten();
        Some(Call {
            name,
            path: Some(self.text(0)?.into()),
            to: to.map(PathBuf::from),
            open_for_writing: Vec::new(),
        })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn call_without_folder(&self, _number: libc::c_long) -> Option<Call> {
        None
    }

    fn changes_by_opening(&self) -> bool {
        let changing = libc::O_CREAT | libc::O_WRONLY | libc::O_RDWR;
        let flags = self.arguments.get(2).copied().unwrap_or(0);
        flags & u64::from(changing.unsigned_abs()) != 0
    }

    /// All but questions about a loop device and about an image's extents.
    fn changes_by_ioctl(&self) -> bool {
        !matches!(
            self.arguments.get(1),
            Some(&(LOOP_GET_STATUS64 | FS_IOC_FIEMAP))
        )
    }

    /// A path given by a folder's descriptor and a name.
    fn path_at(&self, folder: usize, name: usize) -> Option<PathBuf> {
        let name = self.text(name)?;
        let path = Path::new(&name);
        if path.is_absolute() {
            return Some(path.to_owned());
        }
        Some(self.descriptor(folder)?.join(path))
    }

    /// What a descriptor stands for, when it has a path.
    fn descriptor(&self, argument: usize) -> Option<PathBuf> {
        let number = self.arguments.get(argument)?;
        let path = fs::read_link(format!("/proc/{}/fd/{number}", self.thread)).ok()?;
        path.is_absolute().then_some(path)
    }

    fn text(&self, argument: usize) -> Option<String> {
        let address = *self.arguments.get(argument)?;
        let memory = File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        let mut text = vec![0; PATH_BYTES_MAX];
        // It may lie at the very end of what is mapped.
        let len = memory.read_at(&mut text, address).ok()?;
        let end = text[..len].iter().position(|byte| *byte == 0)?;
        text.truncate(end);
        String::from_utf8(text).ok()
    }

    fn open_for_writing(&self) -> Vec<PathBuf> {
        let folder = format!("/proc/{}/fd", self.thread);
        let Ok(descriptors) = fs::read_dir(folder) else {
            return Vec::new();
        };
        let paths = descriptors.flatten().filter_map(|descriptor| {
            let path = fs::read_link(descriptor.path()).ok()?;
            let number = descriptor.file_name();
            let info = format!("/proc/{}/fdinfo/{}", self.thread, number.to_string_lossy());
            let info = fs::read_to_string(info).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
            let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
            (path.is_absolute() && writes).then_some(path)
        });
        paths.collect()
    }
}
