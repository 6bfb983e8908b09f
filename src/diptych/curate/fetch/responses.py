"""HTTP client for one file: deadline, byte limit, re-checked redirects, retries.

Everything that a server may do wrong ends as a `Reason`. Tried again are only failures that pass by
themselves: broken connections and the statuses of an overloaded server, for which it may name a time.

Reads: the network. Writes: nothing.
Source: RFC 9110 (statuses, redirects, Retry-After).
"""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from diptych.core.errors import BadSampleError, Reason
from diptych.core.seeds import SEED_BITS, derive
from diptych.curate.fetch.addresses import Address, AddressRules, next_address
from diptych.curate.fetch.resolver import AddressRefusedError, Lookup, Resolver, guarded_socket
from diptych.curate.fetch.settings import FetchSettings

OK, TOO_MANY_REQUESTS, FIRST_SERVER_ERROR = 200, 429, 500
REDIRECTED = frozenset({301, 302, 303, 307, 308})
PASSING_ERRORS = frozenset({502, 503, 504})
"""Statuses of servers that may be well again in a moment."""
CHUNK_BYTES = 2**16
HEAD_BYTES = 32
"""Enough to tell a format by."""
_ANY_ZLIB = 32 + zlib.MAX_WBITS  # gzip or zlib, by its header


@dataclass(slots=True)
class Response:
    """An HTTP response; the body is read last. `received`: bytes of it so far, unpacked."""

    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    received: int = 0
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return the first value of a header; empty where there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")


class PassingError(Exception):
    """A failure that may pass: why, and the seconds for which the server wants to be left alone."""

    def __init__(self, reason: Reason, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


async def _permit_all(address: Address) -> None:
    del address


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and the checks of its response.

    Attributes:
        key: the sample's, from which the jitter of waiting is drawn.
        accept: the header.
        max_bytes: of the body, as it comes and unpacked.
        cut: take the first `max_bytes` of a larger body instead of refusing it.
        permit: called before each address, redirects too.
        check: called with the head of every response but redirects; the body is read only if it returns.
        begin: called with the first bytes of the body.
        cooldown: called with the seconds for which the server wants to be left alone.
    """

    key: str
    accept: str
    max_bytes: int
    cut: bool = False
    permit: Callable[[Address], Awaitable[None]] = _permit_all
    check: Callable[[Response], None] = lambda _: None
    begin: Callable[[bytes], None] = lambda _: None
    cooldown: Callable[[float], None] = lambda _: None


class Client:
    """The connections of one run, to be made and closed inside its event loop."""

    def __init__(self, settings: FetchSettings, rules: AddressRules, lookup: Lookup) -> None:
        self._settings = settings
        self._rules = rules
        connector = aiohttp.TCPConnector(
            limit=0,  # whoever asks has a place already; a host's own limit holds for redirects too
            limit_per_host=settings.per_host,
            resolver=Resolver(rules, lookup),
            use_dns_cache=False,  # the resolver remembers, with its judgement
            socket_factory=guarded_socket(rules),
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
        await self._session.close()

    async def ask(self, address: Address, request: Request) -> Response:
        """Ask until there is a response, the retries are used up or the deadline has come.

        Raises:
            BadSampleError: with the reason.
        """
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
            except (aiohttp.ClientError, OSError, ValueError) as error:
                passing = _passing(error)
            wait = max(passing.wait, self._back_off(request.key, attempt))
            if passing.wait:
                request.cooldown(passing.wait)
            attempt += 1
            if attempt > settings.retries or clock() + wait >= deadline:
                raise BadSampleError(passing.reason, found=f"{attempt} times")
            await asyncio.sleep(wait)

    def _back_off(self, key: str, attempt: int) -> float:
        """Return the seconds before the next try: doubled each time, by half or one and a half of it."""
        share = derive(0, "back-off", key, attempt) / 2**SEED_BITS
        return float(self._settings.backoff_seconds * 2**attempt * (0.5 + share))

    async def _follow(self, address: Address, request: Request) -> Response:
        for _ in range(self._settings.max_redirects + 1):
            await request.permit(address)
            async with self._session.get(
                URL(address.url, encoded=True), allow_redirects=False, headers={"Accept": request.accept}
            ) as reply:
                headers = tuple(reply.headers.items())
                response = Response(address.url, reply.status, headers)
                if response.status not in REDIRECTED or not response.header("location"):
                    request.check(response)
                    await _read(reply, response, request)
                    return response
            address = next_address(address, response.header("location"), self._rules)
        raise BadSampleError(
            Reason.REDIRECTS, "too many redirects", expected=f"at most {self._settings.max_redirects}"
        )


def check_status(response: Response) -> None:
    """Refuse every response that is not the file itself.

    Raises:
        PassingError: the server may be well again in a moment.
        BadSampleError: it will not.
    """
    if response.status == OK:
        return
    if response.status == TOO_MANY_REQUESTS:
        raise PassingError(Reason.RATE_LIMITED, retry_after(response.header("retry-after"), time.time()))
    if response.status in PASSING_ERRORS:
        wait = retry_after(response.header("retry-after"), time.time())
        raise PassingError(Reason.HTTP_SERVER_ERROR, wait)
    server = response.status >= FIRST_SERVER_ERROR
    raise BadSampleError(
        Reason.HTTP_SERVER_ERROR if server else Reason.HTTP_CLIENT_ERROR, found=f"status {response.status}"
    )


def retry_after(value: str, now: float) -> float:
    """Return the seconds that a Retry-After header asks for; 0 if it cannot be read.

    Args:
        value: seconds or a date.
        now: seconds since 1970.

    >>> retry_after("120", 0.0), retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 15.0), retry_after("soon", 0.0)
    (120.0, 45.0, 0.0)
    """
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def _passing(error: Exception) -> PassingError:
    """Tell a connection that broke from a host that must not or cannot be asked.

    Raises:
        BadSampleError: there is no use in asking again.
    """
    inner = getattr(error, "os_error", None)
    if isinstance(inner, AddressRefusedError):
        raise BadSampleError(inner.reason, found=str(inner)) from error
    if isinstance(error, AddressRefusedError):
        raise BadSampleError(error.reason, found=str(error)) from error
    return PassingError(Reason.CONNECTION)


async def _read(reply: aiohttp.ClientResponse, response: Response, request: Request) -> None:
    """Read the body into the response; what is beyond the cap is never read."""
    if not request.cut and (reply.content_length or 0) > request.max_bytes:
        _refuse_size(f"{reply.content_length:,} bytes announced", request)
    unpack = _unpacker(response.header("content-encoding"))
    parts: list[bytes] = []
    begun = False
    while chunk := await reply.content.read(CHUNK_BYTES):
        remaining = request.max_bytes + 1 - response.received
        part = chunk[:remaining] if unpack is None else _unpacked(unpack, chunk, remaining)
        parts.append(part)
        response.received += len(part)
        if not begun and response.received >= HEAD_BYTES:
            begun = True
            request.begin(b"".join(parts))
        if response.received > request.max_bytes:
            break
    response.body = parts[0] if len(parts) == 1 else b"".join(parts)
    if not begun:
        request.begin(response.body)
    if response.received > request.max_bytes and not request.cut:
        _refuse_size("more", request)
    response.body = response.body[: request.max_bytes]


def _unpacker(encoding: str) -> "zlib._Decompress | None":
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(_ANY_ZLIB)
    raise BadSampleError(Reason.NOT_AN_IMAGE, "the response is packed in an unknown way", found=encoding[:40])


def _unpacked(unpack: "zlib._Decompress", chunk: bytes, remaining: int) -> bytes:
    """Unpack no more than remains: a small file may hold a large one."""
    try:
        return unpack.decompress(unpack.unconsumed_tail + chunk, remaining)
    except zlib.error as error:
        raise BadSampleError(Reason.NOT_AN_IMAGE, "the response cannot be unpacked", found=error) from error


def _refuse_size(found: str, request: Request) -> None:
    raise BadSampleError(
        Reason.TOO_MANY_BYTES,
        "the file is too large",
        found=found,
        expected=f"at most {request.max_bytes:,} bytes",
    )
