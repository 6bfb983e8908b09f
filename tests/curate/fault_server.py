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
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
from PIL import Image

HEAD = b"\xff\xd8\xff\xe0" + b"\0" * 60  # enough of a JPEG to be taken for one


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


BOMB = gzip_bomb()


def response(status: int, body: bytes = b"", *headers: str, kind: str = "image/jpeg") -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class FaultServer:
    """Serves in a thread of its own while it is entered; counts what it is asked and what it sends."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.robots: dict[str, bytes] = {}  # whole responses, by host; 404 where there is none
        self.images: dict[str, bytes] = {}  # further files, by path
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.open: Counter[str] = Counter()
        self.most_open: Counter[str] = Counter()
        self.starts: list[tuple[str, float]] = []
        self.connections = 0
        self.port = 0
        self._host = host
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> "FaultServer":
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)

    def url(self, path: str, host: str = "a.example.org") -> str:
        return f"http://{host}:{self.port}{path}"

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serve(ready))
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._done = asyncio.Event()
        server = await asyncio.start_server(self._talk, self._host, 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._done.wait()
        server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        target, host = first.split(" ")[1], headers["host"].rsplit(":", 1)[0]
        path = urlsplit(target).path
        self.asked[path] += 1
        self.agents.add(headers.get("user-agent", ""))
        self.starts.append((host, self._loop.time()))
        self.open[host] += 1
        self.most_open[host] = max(self.most_open[host], self.open[host])
        try:
            return await self._respond(host, target, writer)
        finally:
            self.open[host] -= 1

    async def _send(self, writer: asyncio.StreamWriter, path: str, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent[path] += len(data)

    async def _respond(self, host: str, target: str, writer: asyncio.StreamWriter) -> bool:
        parts = urlsplit(target)
        path, words = parts.path, parts.path.strip("/").split("/")
        if path == "/robots.txt":
            await self._send(writer, path, self.robots.get(host, response(404)))
            return True
        if path in self.images:
            await asyncio.sleep(0.002)
            await self._send(writer, path, response(200, self.images[path]))
            return True
        whole = self._whole(words, dict(parse_qsl(parts.query)), path)
        if whole is not None:
            await self._send(writer, path, whole)
            return True
        await self._misbehave(words[0], path, writer)
        return False

    def _whole(self, words: Sequence[str], query: dict[str, str], path: str) -> bytes | None:
        """Return the responses that at least are in one piece."""
        extra = [f"{key}: {value}" for key, value in query.items()]
        match words:
            case ["status", "204"]:
                whole = b"HTTP/1.1 204 No Content\r\n\r\n"
            case ["status", number]:
                whole = response(int(number), b"no")
            case ["ok", seed]:
                whole = response(200, jpeg(int(seed)), *extra)
            case ["to"]:
                whole = response(302, b"", f"Location: {unquote(query['url'])}")
            case ["loop"]:
                whole = response(301, b"", "Location: /loop")
            case ["chain", left] if int(left):
                whole = response(307, b"", f"Location: /chain/{int(left) - 1}")
            case ["busy", times, number, *wait] if self.asked[path] <= int(times):  # well again after that
                whole = response(int(number), b"", *(f"Retry-After: {seconds}" for seconds in wait))
            case _:
                return self._plain(words[0])
        return whole

    @staticmethod
    def _plain(name: str) -> bytes | None:
        plain = {
            "chain": response(200, jpeg(7)),
            "busy": response(200, jpeg(8)),
            "page": response(200, b"<!doctype html><title>gone</title>" * 9, kind="image/jpeg"),
            "svg": response(200, b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
            "empty": response(200),
            "short": response(200, jpeg(1)[:100]) + jpeg(1)[100:],
            "cut": response(200, jpeg(1)[:900]),
            "bomb": response(200, BOMB, "Content-Encoding: gzip"),
            "packed": response(200, gzip.compress(jpeg(2)), "Content-Encoding: gzip"),
            "misnamed": response(200, jpeg(2), "Content-Encoding: gzip"),
            "brotli": response(200, jpeg(2), "Content-Encoding: br"),
        }
        return plain.get(name)

    async def _misbehave(self, name: str, path: str, writer: asyncio.StreamWriter) -> None:
        ok = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
        if name == "reset":
            await self._send(writer, path, ok + b"Content-Length: 99999\r\n\r\n" + HEAD)
            await asyncio.sleep(0.01)
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        elif name == "long":
            await self._send(writer, path, ok + b"Content-Length: 99999\r\n\r\n" + jpeg(1))
        elif name == "announced":
            await self._send(writer, path, ok + b"Content-Length: 99999999999\r\n\r\n" + HEAD)
            await asyncio.sleep(30)
        elif name == "garbage":
            await self._send(writer, path, b"220 mail.example.org ESMTP\r\n\r\n")
        elif name == "silent":
            await asyncio.sleep(30)
        elif name in ("drip", "slow-head"):
            start = b"" if name == "slow-head" else ok + b"Content-Length: 5000\r\n\r\n"
            await self._send(writer, path, start)
            for byte in HEAD * 80 if start else ok + b"X: " + b"y" * 5000:
                await self._send(writer, path, bytes([byte]))
                await asyncio.sleep(0.05)
        elif name in ("endless", "endless-head"):
            await self._send(writer, path, ok + (b"\r\n" + HEAD if name == "endless" else b""))
            block = bytes(2**16) if name == "endless" else b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 2000
            while not writer.is_closing():
                await self._send(writer, path, block)
        else:  # "hangup", and whatever is not known
            return
