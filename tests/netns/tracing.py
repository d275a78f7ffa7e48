"""
Makes another process do a system call, by ptrace: so that a test can ask the kernel, instead of the source, what a confined process
may still do. x86-64 only.
"""
import contextlib
import ctypes
import os
import platform
import signal

SUPPORTED = platform.machine() == "x86_64"

# asm/unistd_64.h
NUMBERS = {"read": 0, "open": 2, "mmap": 9, "ioctl": 16, "socket": 41, "bind": 49, "clone": 56, "fork": 57, "execve": 59, "kill": 62,
           "ptrace": 101, "setuid": 105, "mount": 165, "openat": 257, "unshare": 272, "setns": 308, "process_vm_readv": 310,
           "memfd_create": 319, "bpf": 321, "io_uring_setup": 425, "pidfd_open": 434, "clone3": 435, "getpid": 39, "close": 3}

ATTACH, DETACH, GETREGS, SETREGS, STEP, PEEK = 16, 17, 12, 13, 9, 1
SYSCALL_INSTRUCTION = 0x050F


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in (
        "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip",
        "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs")]


libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, pid, address=None, data=None):
    ctypes.set_errno(0)
    value = libc.ptrace(request, pid, address, data)
    if value == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), f"ptrace {request}")
    return value


@contextlib.contextmanager
def attached(pid):
    """The thread stopped inside a system call (it waits in one); goes on afterwards as if nothing had been, if it lives."""
    ptrace(ATTACH, pid)
    os.waitpid(pid, 0x40000000)  # __WALL
    before = Registers()
    ptrace(GETREGS, pid, None, ctypes.addressof(before))
    word = ptrace(PEEK, pid, before.rip - 2) & 0xFFFF
    assert word == SYSCALL_INSTRUCTION, "it does not wait in a system call"
    try:
        yield before
    finally:
        with contextlib.suppress(ProcessLookupError):
            ptrace(SETREGS, pid, None, ctypes.addressof(before))
            ptrace(DETACH, pid)


def system_call(pid, before, name, *arguments):
    """The call's result (a negative errno when it fails), or the Signals that killed the process."""
    registers = Registers.from_buffer_copy(before)
    registers.rip = before.rip - 2
    registers.rax, registers.orig_rax = NUMBERS[name], ctypes.c_ulonglong(-1).value
    for register, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments):
        setattr(registers, register, ctypes.c_ulonglong(value).value)
    ptrace(SETREGS, pid, None, ctypes.addressof(registers))
    ptrace(STEP, pid)
    _, status = os.waitpid(pid, 0x40000000)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status))
    ptrace(GETREGS, pid, None, ctypes.addressof(registers))
    return ctypes.c_longlong(registers.rax).value
