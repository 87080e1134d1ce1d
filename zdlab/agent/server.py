"""The agent's loop: one channel, any number of programs, one sampler, nothing that blocks."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time

from zdlab.agent import counters, netlink
from zdlab.agent.frames import (
    CALL,
    CREDIT,
    EXIT,
    HELLO,
    PROTOCOL,
    REPLY,
    STDIN,
    Decoder,
    FrameError,
    pack,
    pack_message,
    unpack_message,
)
from zdlab.agent.processes import Process
from zdlab.agent.sampler import Sampler
from zdlab.agent.streams import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zdlab.agent.hosting import Hosting

#: Bytes waiting to be sent beyond which programs' output is left in their pipes.
_BACKLOG = 1 << 20
_READ = 256 << 10
#: A clock that moves with the kernel's jiffies (linux/time.h); Python's ``time`` has no name for it.
_CLOCK_MONOTONIC_COARSE = 6


class Server:
    """Serves one channel until it closes or asks for the end.

    :param channel: descriptor of the channel.
    :param reconnects: the channel is a port whose other side may not be there yet, or come back.
    """

    def __init__(self, channel: int, *, reconnects: bool = False) -> None:
        self._channel = channel
        self._reconnects = reconnects
        os.set_blocking(channel, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)
        self._wake, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._decoder = Decoder()
        self._out = bytearray()
        self._streams: dict[int, Stream] = {}
        self._readable: dict[int, Stream] = {}
        self._writable: dict[int, Stream] = {}
        self._hosted: Hosting | None = None
        self._sampler: Sampler | None = None
        self._reader: netlink.QdiscReader | None = None
        self._ending = False

    def run(self) -> None:
        """Serve until the channel closes or the lab says shutdown; leaves no program behind."""
        self._send(pack_message(HELLO, 0, self._hello()))
        try:
            while not (self._ending and not self._out):
                for key, mask in self._selector.select(self._timeout()):
                    self._handle(key.fd, mask)
                if self._sampler is not None and time.monotonic_ns() >= self._sampler.next_ns:
                    self._sampler.tick()
                self._update()
        except (ConnectionError, FrameError):
            pass
        finally:
            for stream in self._streams.values():
                stream.close()

    def _hello(self) -> dict[str, object]:
        return {
            "protocol": PROTOCOL,
            "pid": os.getpid(),
            "kernel": os.uname().release,
            "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
            "jiffy_ns": round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9),
        }

    def _timeout(self) -> float | None:
        if self._sampler is None:
            # A port nobody has opened on the other side reports no event when it is opened: look again.
            return 0.02 if self._reconnects and self._out else None
        return max(0.0, (self._sampler.next_ns - time.monotonic_ns()) / 1e9)

    def _handle(self, descriptor: int, mask: int) -> None:
        if descriptor == self._channel:
            if mask & selectors.EVENT_READ:
                self._receive()
            if mask & selectors.EVENT_WRITE:
                self._flush()
        elif descriptor == self._wake:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
            self._reap()
        else:
            if mask & selectors.EVENT_READ and descriptor in self._readable:
                self._read_output(descriptor)
            if mask & selectors.EVENT_WRITE and descriptor in self._writable:
                self._write_input(self._writable[descriptor])

    def _receive(self) -> None:
        try:
            data = os.read(self._channel, _READ)
        except BlockingIOError:
            return
        if not data:
            if not self._reconnects:
                raise ConnectionResetError
            time.sleep(0.01)  # the port has no other side at the moment
            return
        for kind, stream, payload in self._decoder.feed(data):
            self._dispatch(kind, stream, payload)

    def _send(self, data: bytes) -> None:
        self._out += data
        self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                count = os.write(self._channel, self._out[:_READ])
                del self._out[:count]
        except BlockingIOError:
            pass

    def _dispatch(self, kind: int, stream: int, payload: bytes) -> None:
        process = self._streams.get(stream)
        if kind == CALL:
            header, data = unpack_message(payload)
            self._call(stream, header, data)
        elif kind == STDIN and process is not None:
            if payload:
                process.pending_input += payload
            else:
                process.input_ended = True
            self._write_input(process)
        elif kind == CREDIT and process is not None:
            header, _ = unpack_message(payload)
            process.window[header["kind"]] += header["bytes"]

    def _call(self, stream: int, header: dict, data: bytes) -> None:  # type: ignore[type-arg]
        handler = getattr(self, "_call_" + str(header.get("verb", "")), None)
        try:
            if handler is None:
                raise OSError(f"the agent knows no verb {header.get('verb')!r}")
            answer, reply = handler(stream, header, data)
        except OSError as error:
            answer = {"error": error.strerror or str(error), "errno": error.errno, "path": error.filename}
            reply = b""
        except (KeyError, TypeError, ValueError) as error:
            answer, reply = {"error": f"a call is malformed: {error!r}", "errno": None}, b""
        self._send(pack_message(REPLY, stream, answer, reply))

    def _call_ping(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        return self._hello(), b""

    def _call_exec(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        process = Process(stream, header)
        self._streams[stream] = process
        return {"pid": process.pid}, b""

    def _call_namespace(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        """Make a node in this one; the stream is its agent's channel."""
        pid, channel = self._hosting().namespace(stream, header["name"])
        self._streams[stream] = channel
        return {"pid": pid}, b""

    def _call_tap(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        tap = self._hosting().tap(header["node"], header["interface"], queues=header["queues"], vhost=header["vhost"])
        return {"index": tap.index, "vhost": bool(tap.vhosts)}, b""

    def _call_machine(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        """Start QEMU; the streams in ``channels`` are the other ends of the sockets it inherits."""
        taps = [(node, interface) for node, interface in header["taps"]]
        started = self._hosting().machine(stream, header, header["channels"], taps)
        self._streams |= {item.stream: item for item in started}
        return {"pid": started[0].pid}, b""

    def _call_kvm(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        from zdlab.agent.hosting import kvm_problem  # noqa: PLC0415 - as in _hosting

        return {"problem": kvm_problem()}, b""

    def _hosting(self) -> Hosting:
        if self._hosted is None:
            # Only now: most agents hold no nodes, and loading what it takes is time in an emulated guest.
            from zdlab.agent.hosting import Hosting  # noqa: PLC0415

            self._hosted = Hosting()
        return self._hosted

    def _call_signal(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        if (process := self._streams.get(header["stream"])) is not None:
            process.signal(header["signal"])
        return {}, b""

    def _call_resize(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        if (process := self._streams.get(header["stream"])) is not None:
            process.resize(header["size"])
        return {}, b""

    def _call_put(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        """Append to ``path``, or make it anew at offset 0."""
        flags = os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if header["offset"] == 0 else os.O_APPEND)
        descriptor = os.open(header["path"], flags, header.get("mode", 0o600))
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)
        return {}, b""

    def _call_get(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        descriptor = os.open(header["path"], os.O_RDONLY)
        try:
            os.lseek(descriptor, header["offset"], os.SEEK_SET)
            return {}, os.read(descriptor, header["length"])
        finally:
            os.close(descriptor)

    def _call_netlink(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        sock = netlink.open_socket(header["protocol"])
        try:
            return {}, netlink.exchange(sock, data)
        finally:
            sock.close()

    def _call_sysctl(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        """Set sysctls and read them back: name to the text that stands there now, or null without such one."""
        result: dict[str, str | None] = {}
        for name, value in header["values"]:
            path = "/proc/sys/" + name.replace(".", "/")
            try:
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                result[name] = None
                continue
            try:
                with contextlib.suppress(OSError):  # a refused value shows in what is read back
                    os.write(descriptor, value.encode())
                os.lseek(descriptor, 0, os.SEEK_SET)
                result[name] = " ".join(os.read(descriptor, 4096).decode("ascii", "replace").split())
            finally:
                os.close(descriptor)
        return {"values": result}, b""

    def _call_names(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        return {"names": socket.if_nameindex()}, b""

    def _call_counters(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        if self._reader is None:
            self._reader = netlink.QdiscReader()
        return counters.snapshot(self._reader), b""

    def _call_sample(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        self._stop_sampler()
        self._sampler = Sampler(header["interval_ns"])
        self._sampled = self._sampler
        return {}, b""

    def _call_samples(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        """Stop sampling and describe what there is; ``samples_data`` fetches it."""
        self._stop_sampler()
        return self._sampled.header(), b""

    def _call_samples_data(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        return {}, self._sampled.data(header["offset"], header["length"])

    def _call_shutdown(self, stream: int, header: dict, data: bytes):  # type: ignore[no-untyped-def, type-arg]
        self._ending = True
        return {}, b""

    def _stop_sampler(self) -> None:
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None

    def _read_output(self, descriptor: int) -> None:
        process = self._readable[descriptor]
        kind = process.outputs[descriptor]
        data = process.read(descriptor)
        if data is None:
            return
        if not data:
            # The descriptor is closed by now, and its number may be used again.
            self._forget(descriptor)
            self._finish(process)
            return
        process.window[kind] -= len(data)
        self._send(pack(kind, process.stream, data))

    def _write_input(self, process: Stream) -> None:
        descriptor = process.stdin
        taken = process.write()
        if process.stdin != descriptor:
            self._forget(descriptor)
        if taken:
            self._send(pack_message(CREDIT, process.stream, {"bytes": taken}))

    def _reap(self) -> None:
        for process in list(self._streams.values()):
            if process.status is None:
                pid, status = os.waitpid(process.pid, os.WNOHANG)
                if pid:
                    process.status = os.waitstatus_to_exitcode(status)
                    self._finish(process)

    def _finish(self, process: Stream) -> None:
        """Report a stream's end: its program exited, and all its output was read."""
        if process.status is not None and not process.outputs:
            for descriptor in {process.stdin} - {-1}:
                self._forget(descriptor)
            process.close()
            del self._streams[process.stream]
            self._send(pack_message(EXIT, process.stream, {"status": process.status}))

    def _forget(self, descriptor: int) -> None:
        self._readable.pop(descriptor, None)
        self._writable.pop(descriptor, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(descriptor)

    def _update(self) -> None:
        """Watch what can make progress: the channel, programs' output within windows, their waiting input."""
        wanted: dict[int, int] = {self._channel: selectors.EVENT_READ}
        if self._out:
            wanted[self._channel] |= selectors.EVENT_WRITE
        readable: dict[int, Stream] = {}
        writable: dict[int, Stream] = {}
        for process in self._streams.values():
            if len(self._out) < _BACKLOG:
                for descriptor, kind in process.outputs.items():
                    if process.window[kind] > 0:
                        wanted[descriptor] = selectors.EVENT_READ
                        readable[descriptor] = process
            if process.pending_input and process.stdin >= 0:
                wanted[process.stdin] = wanted.get(process.stdin, 0) | selectors.EVENT_WRITE
                writable[process.stdin] = process
        self._readable, self._writable = readable, writable
        watched = {key.fd: key.events for key in self._selector.get_map().values() if key.fd != self._wake}
        for descriptor in watched.keys() - wanted.keys():
            self._selector.unregister(descriptor)
        for descriptor, events in wanted.items():
            if descriptor not in watched:
                self._selector.register(descriptor, events)
            elif watched[descriptor] != events:
                self._selector.modify(descriptor, events)


def serve(channel: int, *, reconnects: bool = False) -> None:
    """Serve a channel until it ends."""
    Server(channel, reconnects=reconnects).run()
