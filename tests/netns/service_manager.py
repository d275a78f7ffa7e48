"""
A service manager as far as the daemon can tell: what sd_notify(3), sd_listen_fds(3) and systemd.service(5) promise. It keeps
descriptors by name (FDSTORE=1, FDNAME=, FDSTOREREMOVE=1), hands them over at the next start, and counts watchdog notices.
"""
import array
import fcntl
import os
import queue
import socket
import subprocess

from daemon import Gateway

FDS_AT_ONCE = 253  # SCM_MAX_FD
FIRST = 3          # SD_LISTEN_FDS_START


class ManagedGateway(Gateway):
    """A Gateway under such a manager. `announced`: it says that it keeps descriptors, as newer ones do ($FDSTORE)."""

    def __init__(self, lab, policy, options=(), watchdog_usec=0, announced=True):
        self.store = []  # (name, descriptor), in the order they came
        self.watchdog_usec, self.announced, self.patted = watchdog_usec, announced, 0
        super().__init__(lab, policy, options)

    def _listen(self):
        while True:
            data, ancillary, flags, _ = self.notify.recvmsg(4096, socket.CMSG_SPACE(4 * FDS_AT_ONCE))
            if not data:
                return
            assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            lines, fds = data.decode().splitlines(), array.array("i")
            for _, kind, content in ancillary:
                assert kind == socket.SCM_RIGHTS
                fds.frombytes(content)
            self.take(dict(line.partition("=")[::2] for line in lines), list(fds))
            self.notices.put(lines)

    def take(self, said, fds):
        name = said.get("FDNAME", "stored")
        assert len(name) <= 255 and ":" not in name and name.isprintable() and name.isascii()
        if said.get("FDSTOREREMOVE") == "1":
            self.store, gone = [one for one in self.store if one[0] != name], [one for one in self.store if one[0] == name]
            for _, fd in gone:
                os.close(fd)
        elif said.get("FDSTORE") == "1":
            assert said.get("FDPOLL") == "0", "a listener without a peer would be dropped"
            self.store += [(name, fd) for fd in fds]
        else:
            assert not fds, "descriptors without FDSTORE=1"
        self.patted += "WATCHDOG" in said

    def names(self):
        return {name for name, _ in self.store}

    def start(self, wait=True):
        # In no order that the daemon could rely on.
        store = sorted(self.store, key=lambda one: -one[1])
        environment = {**self.lab.environment(), "NOTIFY_SOCKET": str(self.folder / "notify.sock")}
        if store:
            environment |= {"LISTEN_FDS": str(len(store)), "LISTEN_FDNAMES": ":".join(name for name, _ in store)}
        if self.announced:
            environment["FDSTORE"] = "10000"
        if self.watchdog_usec:
            environment["WATCHDOG_USEC"] = str(self.watchdog_usec)

        def place():
            """Each to its number, and what is there already out of its way."""
            now = [fd for _, fd in store]
            where = {fd: i for i, fd in enumerate(now)}
            for i in range(len(now)):
                there = FIRST + i
                if there in where and where[there] != i:
                    other = where.pop(there)
                    now[other] = fcntl.fcntl(there, fcntl.F_DUPFD, FIRST + len(now))
                    where[now[other]] = other
                where.pop(now[i], None)
                if now[i] == there:
                    os.set_inheritable(there, True)
                else:
                    os.dup2(now[i], there, inheritable=True)
                    os.close(now[i])

        # $LISTEN_PID is the daemon's own pid: each program of the line executes the next one.
        line = ["sh", "-c", 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"', "sh", *self.command()]
        log = open(self.log_path, "a")
        self.process = subprocess.Popen(
            self.lab.host.enter(["setpriv", "--pdeathsig", "KILL", "--", *line]), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=environment, cwd="/", start_new_session=True, preexec_fn=place if store else None,
            pass_fds=range(FIRST, FIRST + len(store)))
        log.close()
        if wait:
            self.await_notice("READY=1")
        return self

    def forget_everything(self):
        """As at `systemctl stop`."""
        while self.store:
            os.close(self.store.pop()[1])

    def settled(self):
        """All that it has said until now has been heard."""
        while True:
            try:
                self.notices.get_nowait()
            except queue.Empty:
                return

    def close(self):
        super().close()
        self.forget_everything()
