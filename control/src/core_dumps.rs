//! No secret gets into a core dump.
//!
//! The process stays open to debuggers and to `/proc` for whoever may look into its memory anyway,
//! which `PR_SET_DUMPABLE` would end for all but root.

use std::{fs, io};

use nix::sys::resource::{Resource, setrlimit};

/// Makes this process dump no core, for good. A dump that is written all the same, for the kernel
/// does not hold programs that take dumps through a pipe to the limit, has no memory in it.
pub fn forbid() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    fs::write("/proc/self/coredump_filter", "0")
}
