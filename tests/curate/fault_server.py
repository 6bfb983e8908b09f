"""A web server that does everything wrong that web servers do, each fault under a path of its own."""

import asyncio
import contextlib
import gzip
import io
import socket
import struct
import threading
import zlib
from collections import Counter
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
from PIL import Image

HEAD = b"\xff\xd8\xff\xe0" + b"\0" * 60  # enough of a JPEG to be taken for one
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
ABORT = struct.pack("ii", 1, 0)  # for SO_LINGER: closing resets the connection


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    """Make a photo-like JPEG that differs from every other seed's."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def gzip_bomb(megabytes: int = 1024) -> bytes:
    """Return about a thousandth of what it unpacks to: blocks of zeros, packed once and repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    start = packer.compress(HEAD) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * megabytes


def response(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Content-Type: image/jpeg", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


PLAIN = {
    "/status/204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/page": response(200, b"<!doctype html><title>gone</title>" * 9),
    "/svg": response(200, b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "/empty": response(200),
    "/short": response(200, jpeg(1)[:100]) + jpeg(1)[100:],
    "/cut": response(200, jpeg(1)[:900]),
    "/bomb": response(200, gzip_bomb(), "Content-Encoding: gzip"),
    "/packed": response(200, gzip.compress(jpeg(2)), "Content-Encoding: gzip"),
    "/misnamed": response(200, jpeg(2), "Content-Encoding: gzip"),
    "/brotli": response(200, jpeg(2), "Content-Encoding: br"),
    "/loop": response(301, b"", "Location: /loop"),
}

# What is sent before the connection is closed, and the seconds before it is.
BROKEN: dict[str, tuple[bytes, float]] = {
    "/reset": (OK + b"Content-Length: 99999\r\n\r\n" + HEAD, 0.01),
    "/long": (OK + b"Content-Length: 99999\r\n\r\n" + jpeg(1), 0),
    "/announced": (OK + b"Content-Length: 99999999999\r\n\r\n" + HEAD, 30),
    "/garbage": (b"220 mail.example.org ESMTP\r\n\r\n", 0),
    "/silent": (b"", 30),
    "/drip": (OK + b"Content-Length: 5000\r\n\r\n", 0),
    "/slow-head": (OK + b"X: ", 0),
    "/endless": (OK + b"\r\n" + HEAD, 0),
    "/endless-head": (OK, 0),
}
# What follows again and again, and the seconds between.
REPEATED = {
    "/drip": (b"\0", 0.05), "/slow-head": (b"y", 0.05),
    "/endless": (bytes(2**16), 0), "/endless-head": (b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 2000, 0)
}  # fmt: skip


class FaultServer:
    """Serves in a thread of its own while it is entered; counts what it is asked."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.robots: dict[str, bytes] = {}  # whole responses, by host; 404 where there is none
        self.images: dict[str, bytes] = {}  # further files, by path
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.open: Counter[str] = Counter()
        self.most_open: Counter[str] = Counter()
        self.starts: list[tuple[str, float]] = []
        self.connections = self.port = 0
        self._host = host
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> "FaultServer":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)

    def url(self, path: str, host: str = "a.example.org") -> str:
        return f"http://{host}:{self.port}{path}"

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._talk, self._host, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._done.wait()
        server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; False if the connection is to be closed."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        target, host = first.split(" ")[1], headers["host"].rsplit(":", 1)[0]
        path = urlsplit(target).path
        self.asked[path] += 1
        self.agents.add(headers.get("user-agent", ""))
        self.starts.append((host, self._loop.time()))
        self.open[host] += 1
        self.most_open[host] = max(self.most_open[host], self.open[host])
        try:
            whole = self._whole(host, path, dict(parse_qsl(urlsplit(target).query)))
            if whole is None:
                await self._misbehave(path, writer)
                return False
            await asyncio.sleep(0.002 if path in self.images else 0)
            writer.write(whole)
            await writer.drain()
            return True
        finally:
            self.open[host] -= 1

    def _whole(self, host: str, path: str, query: dict[str, str]) -> bytes | None:
        """Return the responses that at least are in one piece."""
        whole = PLAIN.get(path)
        match path.strip("/").split("/"):
            case _ if path in self.images:
                whole = response(200, self.images[path])
            case ["robots.txt"]:
                whole = self.robots.get(host, response(404))
            case ["status", number] if number != "204":
                whole = response(int(number), b"no")
            case ["ok", seed]:
                whole = response(200, jpeg(int(seed)), *(f"{key}: {value}" for key, value in query.items()))
            case ["to"]:
                whole = response(302, b"", f"Location: {unquote(query['url'])}")
            case ["chain", "0"]:
                whole = response(200, jpeg(7))
            case ["chain", left]:
                whole = response(307, b"", f"Location: /chain/{int(left) - 1}")
            case ["busy", times, number, *wait]:  # well again after so many times
                busy = response(int(number), b"", *(f"Retry-After: {seconds}" for seconds in wait))
                whole = busy if self.asked[path] <= int(times) else response(200, jpeg(8))
        return whole

    async def _misbehave(self, path: str, writer: asyncio.StreamWriter) -> None:
        start, seconds = BROKEN.get(path, (b"", 0))  # "/hangup" and whatever is not known: nothing
        writer.write(start)
        await writer.drain()
        await asyncio.sleep(seconds)
        if path == "/reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        piece, pause = REPEATED.get(path, (b"", 0.0))
        while piece and not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
