//! Programs to whom the kernel says of links and renames what it says on other filesystems.

use std::{io, os::unix::process::CommandExt, process::Command};

use nix::libc;

/// What a filesystem lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filesystem {
    /// As FAT: link(2) fails with EPERM.
    WithoutLinks,
    /// As some of FUSE: besides, flags of renameat2(2) fail with EINVAL.
    WithNeither,
}

/// Lets the program that `command` starts see such a filesystem.
pub(super) fn on(command: &mut Command, filesystem: Filesystem) -> &mut Command {
    let program = filter(filesystem);
    // SAFETY: between fork and exec the closure makes system calls and allocates nothing.
    unsafe { command.pre_exec(move || install(&program)) }
}

fn install(program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let described = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: these prctl(2) calls read the filter, which outlives them, and write nothing.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &described) != 0
    };
    if refused {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// In seccomp_data: the number of the call, and the lower half of its fifth argument.
const NUMBER: u32 = 0;
const FLAGS: u32 = if cfg!(target_endian = "little") {
    48
} else {
    52
};

fn filter(filesystem: Filesystem) -> Vec<libc::sock_filter> {
    let errno = |errno: i32| answer(libc::SECCOMP_RET_ERRNO | errno.unsigned_abs());
    let flags_fail = match filesystem {
        Filesystem::WithoutLinks => answer(libc::SECCOMP_RET_ALLOW),
        Filesystem::WithNeither => errno(libc::EINVAL),
    };
    vec![
        load(NUMBER),
        unless(libc::SYS_linkat, 1),
        errno(libc::EPERM),
        unless(libc::SYS_renameat2, 3),
        load(FLAGS),
        when_zero(1),
        flags_fail,
        answer(libc::SECCOMP_RET_ALLOW),
    ]
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    let code = u16::try_from(code).expect("sixteen bits");
    libc::sock_filter { code, jt, jf, k }
}

fn load(offset: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

/// Passes over so many instructions unless it is this call.
fn unless(call: libc::c_long, passed: u8) -> libc::sock_filter {
    let number = u32::try_from(call).expect("a small number");
    instruction(
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        number,
        0,
        passed,
    )
}

fn when_zero(passed: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, passed, 0)
}

fn answer(action: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}
