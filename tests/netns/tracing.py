"""
Makes another process do a system call, by ptrace: so that a test can ask the kernel, instead of the source, what a confined process
may still do. x86-64 only.
"""
import contextlib
import ctypes
import os
import platform
import signal
import struct

SUPPORTED = platform.machine() == "x86_64"

seccomp = ctypes.CDLL("libseccomp.so.2") if SUPPORTED else None


def number(name):
    """Of a system call; a number stays one."""
    found = name if isinstance(name, int) else seccomp.seccomp_syscall_resolve_name(name.encode())
    assert found >= 0, f"no system call {name}"
    return found


ATTACH, DETACH, GETREGS, SETREGS, STEP, PEEK, CONTINUE, GET_FILTER = 16, 17, 12, 13, 9, 1, 7, 0x420C
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
    registers.rax, registers.orig_rax = number(name), ctypes.c_ulonglong(-1).value
    for register, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments):
        setattr(registers, register, ctypes.c_ulonglong(value).value)
    ptrace(SETREGS, pid, None, ctypes.addressof(registers))
    ptrace(STEP, pid)
    _, status = os.waitpid(pid, 0x40000000)
    trapped = os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSYS  # it was not made; the handler of that signal comes next
    while trapped and os.WIFSTOPPED(status):
        ptrace(CONTINUE, pid, None, signal.SIGSYS if os.WSTOPSIG(status) == signal.SIGSYS else 0)
        _, status = os.waitpid(pid, 0x40000000)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status))
    ptrace(GETREGS, pid, None, ctypes.addressof(registers))
    return ctypes.c_longlong(registers.rax).value


# --- the filter itself, as the kernel has it ---------------------------------------------------------------------------

class Instruction(ctypes.Structure):
    """struct sock_filter"""
    _fields_ = [("code", ctypes.c_ushort), ("when_true", ctypes.c_ubyte), ("when_false", ctypes.c_ubyte), ("k", ctypes.c_uint)]


def filter_of(pid):
    """The instructions of a process' latest seccomp filter; OSError where the kernel does not give them away."""
    with attached(pid):
        count = ptrace(GET_FILTER, pid, 0, None)
        program = (Instruction * count)()
        ptrace(GET_FILTER, pid, 0, ctypes.addressof(program))
    return [(each.code, each.when_true, each.when_false, each.k) for each in program]


ACTIONS = {0x80000000: "kill", 0: "kill a thread", 0x00030000: "trap", 0x00050000: "errno", 0x7FFF0000: "allow"}
X86_64 = 0xC000003E


def judge(program, call, *arguments, architecture=X86_64):
    """What the filter says to a call: the name of the action."""
    arguments = [value & (1 << 64) - 1 for value in arguments] + [0] * (6 - len(arguments))
    data = struct.pack("<IIQ6Q", number(call), architecture, 0, *arguments)
    accumulator, memory, at = 0, [0] * 16, 0
    while True:
        code, when_true, when_false, k = program[at]
        at += 1
        if code == 0x20:  # load a word of the data
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == 0x02:
            memory[k] = accumulator
        elif code == 0x60:
            accumulator = memory[k]
        elif code == 0x54:
            accumulator &= k
        elif code == 0x05:
            at += k
        elif code & 7 == 5 and code & 8 == 0:  # a jump on a comparison with a constant
            holds = {0x10: accumulator == k, 0x20: accumulator > k, 0x30: accumulator >= k, 0x40: accumulator & k != 0}[code & 0xF0]
            at += when_true if holds else when_false
        elif code == 0x06:
            return ACTIONS[k & 0xFFFF0000]
        else:
            raise AssertionError(f"an instruction that filters do not have: {code:#x}")
