"""Which system calls a program in the sandbox may make: a seccomp filter that allows what it lists.

The filter is the same at every level of isolation, so that a program gets the same answer at each.
"""

import os
import tempfile
from errno import ENOSYS, EPERM
from functools import cache

from selfimp_dagster.errors import SelfimpError

_ALLOWED = (
    # memory
    *("brk", "madvise", "mmap", "mprotect", "mremap", "munmap"),
    # files and pipes that are open
    *("close", "dup", "dup2", "dup3", "fadvise64", "fdatasync", "fstat", "fstatfs", "fsync", "ftruncate"),
    *("getdents", "getdents64", "lseek", "pipe", "pipe2", "pread64", "pwrite64", "read", "readv"),
    *("write", "writev"),
    # files by name; where they may lie is a matter of the level
    *("access", "chdir", "faccessat", "faccessat2", "getcwd", "lstat", "newfstatat", "open", "openat"),
    *("readlink", "readlinkat", "rename", "renameat", "renameat2", "stat", "statfs", "statx", "umask"),
    *("unlink", "unlinkat"),
    # this process
    *("arch_prctl", "execve", "exit", "exit_group", "futex", "getegid", "geteuid", "getgid", "getgroups"),
    *("getpgid", "getpgrp", "getpid", "getppid", "getrandom", "getresgid", "getresuid", "getrlimit"),
    *("getrusage", "getsid", "gettid", "getuid", "restart_syscall", "rseq", "sched_getaffinity"),
    *("sched_yield", "set_robust_list", "set_tid_address", "setrlimit", "sysinfo", "times", "uname"),
    "wait4",  # for children that it cannot have: bubblewrap's first process has the same filter
    # signals to itself, time and waiting
    *("alarm", "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer", "gettimeofday", "nanosleep"),
    *("pause", "poll", "ppoll", "pselect6", "rt_sigaction", "rt_sigpending", "rt_sigprocmask"),
    *("rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "select", "setitimer", "sigaltstack", "time"),
)

_REFUSED = (
    # network, sockets of this machine included
    *("accept", "accept4", "bind", "connect", "listen", "socket", "socketpair"),
    # other processes
    *("kill", "pidfd_open", "pidfd_send_signal", "process_vm_readv", "process_vm_writev", "ptrace"),
    *("rt_sigqueueinfo", "rt_tgsigqueueinfo", "tgkill", "tkill"),
    # directories, links, devices, and whose files are
    *("chmod", "chown", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "lchown", "link", "linkat"),
    *("mkdir", "mkdirat", "mknod", "mknodat", "rmdir", "symlink", "symlinkat", "truncate", "utime"),
    *("utimensat", "utimes", "fsetxattr", "lsetxattr", "setxattr"),
    # namespaces and the system
    *("bpf", "chroot", "io_uring_setup", "keyctl", "memfd_create", "mount", "perf_event_open"),
    *("pivot_root", "setns", "shmget", "umount2", "unshare", "userfaultfd"),
)
"""What programs try and are told that they must not; whatever no list names does not exist for them."""

_FATAL = ("clone", "clone3", "fork", "vfork")
"""A program is one process and one thread: what would make another ends it."""

_FCNTL = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: none can send a signal, as F_SETOWN can."""

_IOCTL = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX."""


@cache
def filter_program() -> bytes:
    """The filter for this machine's processor as a BPF program.

    Raises:
        SelfimpError: libseccomp, which writes it, is not there.
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise SelfimpError(
            f"no filter of system calls can be made: {error}",
            where="sandbox",
            fix="install libseccomp (Debian, Ubuntu: libseccomp2; Fedora: libseccomp)",
        ) from error
    calls = seccomp.SyscallFilter(seccomp.ERRNO(ENOSYS))
    calls.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.ERRNO(EPERM))
    for action, names in (
        (seccomp.ALLOW, _ALLOWED),
        (seccomp.ERRNO(EPERM), _REFUSED),
        (seccomp.KILL_PROCESS, _FATAL),
    ):
        for name in names:
            if seccomp.resolve_syscall(seccomp.system_arch(), name) >= 0:  # else not of this processor
                calls.add_rule(action, name)
    for name, commands in (("fcntl", _FCNTL), ("ioctl", _IOCTL)):
        for command in commands:
            calls.add_rule(seccomp.ALLOW, name, seccomp.Arg(1, seccomp.EQ, command))
    calls.add_rule(seccomp.ALLOW, "prlimit64", seccomp.Arg(0, seccomp.EQ, 0))  # its own limits alone
    with tempfile.TemporaryFile() as file:
        calls.export_bpf(file)
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
