/* Preloaded by User Mode Linux. It sets the vector registers of its processes by PTRACE_SETREGSET, and hands in 2696 bytes: what
 * a processor with AVX-512 has. Linux wants all that the host's processor has, 11008 bytes with AMX, and answers less by EFAULT,
 * so that no guest would come up there. Here the rest is added: zeros, its first state, for no process in a guest is given AMX.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

static long (*libc_ptrace)(int request, ...);
static char whole[1 << 16];
static size_t size; /* of the host's registers; 0 until somebody is there to be asked for them */

__attribute__((constructor)) static void find(void) {
    libc_ptrace = (long (*)(int, ...))dlsym(RTLD_NEXT, "ptrace");
    if (!libc_ptrace)
        abort();
}

long ptrace(enum __ptrace_request request, ...) {
    va_list rest;
    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *address = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);
    if (request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
        return libc_ptrace(request, pid, address, data);

    if (!size) {
        struct iovec asked = {whole, sizeof whole};
        if (libc_ptrace(PTRACE_GETREGSET, pid, address, &asked) == -1)
            return -1;
        size = asked.iov_len;
        memset(whole, 0, sizeof whole);
    }
    struct iovec *given = data;
    if (given->iov_len >= size)
        return libc_ptrace(request, pid, address, data);
    memcpy(whole, given->iov_base, given->iov_len);
    struct iovec padded = {whole, size};
    return libc_ptrace(request, pid, address, &padded);
}
