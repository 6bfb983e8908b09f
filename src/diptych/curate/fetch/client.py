"""HTTP client: per-host rate limits, robots.txt, deadline, byte limit, checked redirects, retries.

Everything that a server may do wrong ends as a `Reason`. Retried are only failures that pass by themselves:
broken connections and the statuses of an overloaded server, for which it may name a time.
"""

import asyncio
import socket
import time
import zlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import ip_address
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from diptych.core.errors import BadSampleError, Reason
from diptych.core.seeds import SEED_BITS, derive
from diptych.curate.fetch.addresses import Address, AddressRules, Ip, checked_url, next_address
from diptych.curate.fetch.robots import ABSENT, MAX_ROBOTS_BYTES, UNREACHABLE, Robots, parse_robots
from diptych.curate.fetch.settings import FetchSettings

OK, TOO_MANY_REQUESTS, FIRST_SERVER_ERROR = 200, 429, 500
REDIRECTED = frozenset({301, 302, 303, 307, 308})
PASSING_ERRORS = frozenset({502, 503, 504})  # of servers that may be well again in a moment
CHUNK_BYTES = 2**16
HEAD_BYTES = 32  # enough to tell a format by
DNS_TTL_SECONDS = 300  # the system's resolver does not tell what the name's owner wishes
_ANY_ZLIB = 32 + zlib.MAX_WBITS  # gzip or zlib, by its header

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""Gives the IP addresses of a name as text, or raises `OSError`."""
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Resolver(AbstractResolver):
    """Resolves names; one is refused if any of its addresses is not public.

    The connector dials and remembers exactly the addresses that were checked: nobody resolves again in
    between, so an answer that changes meanwhile ("rebinding") changes nothing.
    """

    def __init__(self, rules: AddressRules, lookup: Lookup) -> None:
        self._rules = rules
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return what may be dialed; BadSampleError if there is nothing, or not all of it is allowed."""
        try:
            ips = [ip_address(text) for text in await self._lookup(host)]
        except (OSError, ValueError) as error:  # a name that is no Unicode is a ValueError too
            raise BadSampleError(Reason.NAME_NOT_FOUND, where=host, found=error) from error
        if not ips:
            raise BadSampleError(Reason.NAME_NOT_FOUND, where=host, found="no address")
        results: list[ResolveResult] = []
        for ip in ips:
            self._check(ip)
            kind = socket.AF_INET if ip.version == 4 else socket.AF_INET6
            common = {"hostname": host, "port": port, "proto": 0, "flags": _NUMERIC}
            results.append(cast(ResolveResult, {**common, "host": str(ip), "family": kind}))
        return [result for result in results if family in (socket.AF_UNSPEC, result["family"])]

    def make_socket(self, info: Any) -> socket.socket:
        """Make a socket of the connector; the last check of an address before it is dialed."""
        self._check(ip_address(str(info[4][0])))
        return socket.socket(*info[:3])

    def _check(self, ip: Ip) -> None:
        if not self._rules.allow(ip):
            raise BadSampleError(Reason.FORBIDDEN_ADDRESS, "the address is not public", found=ip)

    async def close(self) -> None:
        """Close nothing."""


async def system_lookup(host: str, *, threads: ThreadPoolExecutor) -> Sequence[str]:
    """Ask the system's resolver, which may take seconds over a name; of families that this machine has."""
    ask = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    entries = await asyncio.get_running_loop().run_in_executor(threads, ask)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


@dataclass(slots=True)
class Response:
    """An HTTP response; the body is read last. `received`: bytes of it so far, unpacked."""

    url: str
    status: int
    headers: Mapping[str, str]
    received: int = 0
    body: bytes = b""


class PassingError(Exception):
    """A failure that may pass: why, and the seconds for which the server wants to be left alone."""

    def __init__(self, reason: Reason, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


def check_status(response: Response) -> None:
    """Refuse a response that is not the file itself: PassingError if it may be soon, else BadSampleError."""
    status = response.status
    if status == OK:
        return
    if status == TOO_MANY_REQUESTS or status in PASSING_ERRORS:
        reason = Reason.RATE_LIMITED if status == TOO_MANY_REQUESTS else Reason.HTTP_SERVER_ERROR
        raise PassingError(reason, retry_after(response.headers.get("retry-after", ""), time.time()))
    reason = Reason.HTTP_SERVER_ERROR if status >= FIRST_SERVER_ERROR else Reason.HTTP_CLIENT_ERROR
    raise BadSampleError(reason, found=f"status {status}")


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and the checks of its response.

    Attributes:
        key: the sample's, from which the jitter of waiting is drawn.
        max_bytes: of the body, as it comes and unpacked.
        cut: take the first `max_bytes` of a larger body instead of refusing it.
        permit: called before each address, redirects too.
        check: called with the head of every response but redirects; the body is read only if it returns.
        begin: called with the first bytes of the body.
    """

    key: str
    accept: str
    max_bytes: int
    cut: bool = False
    permit: Callable[[Address], Awaitable[None]] | None = None
    check: Callable[[Response], None] = check_status
    begin: Callable[[bytes], None] = lambda _: None


@dataclass(slots=True)
class Host:
    """Rate limiter of one host: a semaphore to be held during a request, and when the next one may start.

    A request that would wait longer than `max_wait` seconds is refused; `next_start` is on the loop's clock.
    """

    semaphore: asyncio.Semaphore
    max_wait: float
    next_start: float = 0.0

    async def acquire(self, delay: float) -> None:
        """Wait until a request may start; the next one may `delay` seconds later."""
        now = asyncio.get_running_loop().time()
        start = max(now, self.next_start)
        if start - now > self.max_wait:
            what = "the host wants to be left alone"
            raise BadSampleError(Reason.RATE_LIMITED, what, found=f"for {start - now:.0f} s")
        self.next_start = start + delay
        if start > now:
            await asyncio.sleep(start - now)


class Client:
    """The connections, hosts (rate limiters by name) and robots.txt of one run, inside its event loop."""

    def __init__(self, settings: FetchSettings, lookup: Lookup) -> None:
        self._settings = settings
        self._rules = settings.rules()
        self.hosts = defaultdict[str, Host](
            lambda: Host(asyncio.Semaphore(settings.per_host), settings.deadline_seconds)
        )
        self._robots: dict[str, asyncio.Task[Robots]] = {}
        # Slots of their own: those who wait for a robots.txt may hold all the others.
        self._robots_slots = asyncio.Semaphore(settings.concurrency)
        resolver = Resolver(self._rules, lookup)
        connector = aiohttp.TCPConnector(
            limit=0,  # callers hold a slot already; a host's own limit holds for redirects too
            limit_per_host=settings.per_host,
            resolver=resolver,
            ttl_dns_cache=DNS_TTL_SECONDS,
            socket_factory=resolver.make_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": settings.agent(), "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close(self) -> None:
        """Close all connections."""
        for task in self._robots.values():
            task.cancel()
        await self._session.close()

    async def robots(self, address: Address) -> Robots:
        """Return what the robots.txt of an address says; it is requested once, whoever waits."""
        if not self._settings.robots:
            return Robots(state="")
        task = self._robots.get(address.origin)
        if task is None:
            task = self._robots[address.origin] = asyncio.create_task(self._read_robots(address))
        return await asyncio.shield(task)  # one who gives up must not take it from the others

    async def _read_robots(self, address: Address) -> Robots:
        url = f"{address.origin}/robots.txt"
        # One byte more than is read, so that the parser sees that it was cut.
        request = Request(url, "text/plain,*/*;q=0.5", MAX_ROBOTS_BYTES + 1, cut=True)
        async with self._robots_slots:
            try:
                response = await self.ask(checked_url(url, self._rules), request)
            except BadSampleError as error:
                # "Unavailable" (400 to 499) and more redirects than five leave everything allowed, an error
                # of the server or the network nothing (RFC 9309, section 2.3.1). 429 is no response yet.
                if error.reason in (Reason.HTTP_CLIENT_ERROR, Reason.REDIRECTS):
                    return Robots(state=ABSENT)
                return Robots(state=UNREACHABLE, reason=error.reason)
        return parse_robots(response.body, self._settings.token())

    async def ask(self, address: Address, request: Request) -> Response:
        """Ask until there is a response, or the retries or the time are used up (BadSampleError)."""
        settings, clock = self._settings, asyncio.get_running_loop().time
        deadline = clock() + settings.deadline_seconds
        attempt = 0
        while True:
            try:
                async with asyncio.timeout_at(min(deadline, clock() + settings.timeout_seconds)):
                    return await self._follow(address, request)
            except PassingError as error:
                passing = error
            except TimeoutError as error:
                raise BadSampleError(Reason.TIMEOUT, "the server takes too long") from error
            except (aiohttp.ClientError, OSError, ValueError):
                passing = PassingError(Reason.CONNECTION)
            # Doubled with each try, by half or one and a half of it.
            share = derive(0, "back-off", request.key, attempt) / 2**SEED_BITS
            wait = max(passing.wait, settings.backoff_seconds * 2**attempt * (0.5 + share))
            if passing.wait:
                host = self.hosts[address.host]
                host.next_start = max(host.next_start, clock() + passing.wait)
            attempt += 1
            if attempt > settings.retries or clock() + wait >= deadline:
                raise BadSampleError(passing.reason, found=f"{attempt} times")
            await asyncio.sleep(wait)

    async def _follow(self, address: Address, request: Request) -> Response:
        for _ in range(self._settings.max_redirects + 1):
            if request.permit is not None:
                await request.permit(address)
            async with self._session.get(
                URL(address.url, encoded=True), allow_redirects=False, headers={"Accept": request.accept}
            ) as reply:
                response = Response(address.url, reply.status, reply.headers)
                location = response.headers.get("location", "")
                if response.status not in REDIRECTED or not location:
                    request.check(response)
                    await _read(reply, response, request)
                    return response
            address = next_address(address, location, self._rules)
        most = f"at most {self._settings.max_redirects}"
        raise BadSampleError(Reason.REDIRECTS, "too many redirects", expected=most)


def retry_after(value: str, now: float) -> float:
    """Return the seconds that a Retry-After header asks for, seconds or a date; 0 if it cannot be read.

    >>> retry_after("120", 0.0), retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 15.0), retry_after("soon", 0.0)
    (120.0, 45.0, 0.0)
    """
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


async def _read(reply: aiohttp.ClientResponse, response: Response, request: Request) -> None:
    """Read the body into the response; what is beyond the limit is never read."""
    most, announced = request.max_bytes, reply.content_length or 0
    unpack, body = _unpacker(response.headers.get("content-encoding", "")), bytearray()
    while len(body) <= most and (announced <= most or request.cut):
        if not (chunk := await reply.content.read(CHUNK_BYTES)):
            break
        before, remaining = len(body), most + 1 - len(body)
        try:  # no more than remains: a small file may hold a large one
            body += (
                unpack.decompress(unpack.unconsumed_tail + chunk, remaining) if unpack else chunk[:remaining]
            )
        except zlib.error as error:
            raise BadSampleError(
                Reason.NOT_AN_IMAGE, "the response cannot be unpacked", found=error
            ) from error
        response.received = len(body)
        if before < HEAD_BYTES <= len(body):
            request.begin(bytes(body))
    if max(len(body), announced) > most and not request.cut:
        found, expected = f"{max(len(body), announced):,} bytes or more", f"at most {most:,} bytes"
        raise BadSampleError(Reason.TOO_MANY_BYTES, "the file is too large", found=found, expected=expected)
    if len(body) < HEAD_BYTES:
        request.begin(bytes(body))
    response.body = bytes(body[:most])


def _unpacker(encoding: str) -> "zlib._Decompress | None":
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(_ANY_ZLIB)
    raise BadSampleError(Reason.NOT_AN_IMAGE, "the response is packed in an unknown way", found=encoding[:40])
