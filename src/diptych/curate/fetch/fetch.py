"""Asynchronous image downloader: per-host rate limits, robots.txt, SSRF protection, one row per candidate.

Every request has a deadline and a limit on bytes, and images are decoded in processes that may die. An image
is compared with the hash of its index because whoever buys an expired domain may put any image there (Carlini
et al. 2023, "Poisoning Web-Scale Training Datasets is Practical").
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Any

import pyarrow as pa

from diptych.core.errors import BadSampleError, Reason, SettingsError
from diptych.core.records import Counts
from diptych.curate.columns import FETCHED
from diptych.curate.fetch.addresses import Address, checked_url
from diptych.curate.fetch.client import Client, Lookup, Request, Response, check_status, system_lookup
from diptych.curate.fetch.robots import DISALLOWED, SIGNALS, opt_outs
from diptych.curate.fetch.settings import FetchSettings
from diptych.data.images.formats import sniff
from diptych.data.images.limits import ImageLimits, check_format
from diptych.data.images.sandbox import DecodeResult, DecoderPool, DecoderSettings, decoder

OK = "ok"
_ACCEPT = "image/*,*/*;q=0.1"
_LOOKUP_THREADS = 64  # waiting is all they do
_WAITING_IMAGES = 64  # for a decoder, before whoever brings the next one has to wait
_BATCH_ITEMS, _BATCH_BYTES = 32, 2**20


@dataclass(slots=True)
class _Row:
    """A candidate, and what is known of it so far; `values` are those of `columns.FETCHED`."""

    values: dict[str, Any]
    given: bytes | None
    address: Address | None = None
    expected_sha256: str = ""
    permitted: str = ""
    signals: set[str] = field(default_factory=set)
    response: Response | None = None

    def fill(self) -> None:
        """Set the columns that tell of the request and its response."""
        values, response = self.values, self.response
        values["opt_out"] = ",".join(signal for signal in SIGNALS if signal in self.signals) or None
        if self.address is not None:
            values["url"] = self.address.url
        if response is not None:
            values |= {"url": response.url, "http_status": response.status, "bytes": response.received}
            values["content_type"] = response.header("content-type")[:200] or None
        if self.given is not None:
            values["bytes"] = len(self.given)


def fetch_partition(
    table: pa.Table, settings: FetchSettings, *, lookup: Lookup | None = None
) -> tuple[pa.Table, Counts]:
    """Fetch, check and, if asked, resize the images of a partition.

    The same responses of the servers give the same bytes, whatever the order they come in. (One thing depends
    on time: a host that asks with Retry-After to be left alone for longer than `deadline_seconds` is, and
    what was still to be asked of it is dropped as rate_limited.)

    Args:
        table: `columns.CANDIDATES`; rows that bring their `image` are checked without the network. All rows
            are under way at once, so a partition should not hold more than some 10,000.
        settings: how.
        lookup: None asks the system.

    Returns:
        `columns.FETCHED`, row for row, and the counts.

    Raises:
        SettingsError: there is something to request on the public web, and no contact to give.
        EnvironmentFault: no decoder can be started.
    """
    records = table.select(["key", "url", "image", "license", "fields"]).to_pylist()
    rows = [_row(record, settings) for record in records]
    _require_contact(rows, settings)
    threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="lookup")
    lookup = lookup or partial(system_lookup, threads=threads)

    async def fetch_all() -> None:
        await _Fetcher(settings, lookup).fetch_all(row for row in rows if row.values["status"] == OK)

    try:
        asyncio.run(fetch_all())
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # what they still ask is of no use
    counts = Counts()
    for row in rows:
        row.fill()
        if row.values["status"] == OK:
            counts.keep()
        else:
            counts.drop(Reason(row.values["status"]), row.values["key"])
    return pa.Table.from_pylist([row.values for row in rows], schema=FETCHED), counts


def _row(record: dict[str, Any], settings: FetchSettings) -> _Row:
    """Read a candidate; what cannot be requested has its reason at once."""
    values = {"key": record["key"], "status": OK, "license": record["license"]}
    row = _Row(values, record["image"])
    try:
        if row.given is None:
            if settings.verify_sha256:
                row.expected_sha256 = _expected_sha256(record["fields"])
            if not record["url"]:
                raise BadSampleError(Reason.MISSING_IMAGE)
            row.address = checked_url(record["url"], settings.rules())
    except BadSampleError as error:
        values["status"] = error.reason
    return row


def _expected_sha256(fields: str | None) -> str:
    if not fields or '"sha256"' not in fields:
        return ""
    try:
        digest = json.loads(fields)["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadSampleError(Reason.BAD_ROW, "the fields are no JSON object") from error
    return digest.lower() if isinstance(digest, str) else ""


def _require_contact(rows: Iterable[_Row], settings: FetchSettings) -> None:
    for row in rows if not settings.contact else ():
        try:
            known = row.address is None or settings.rules().lists(ip_address(row.address.host))
        except ValueError:  # a name
            known = False
        if not known:
            raise SettingsError(
                "images are fetched from other people's servers, and they cannot reach you",
                where="contact",
                found="nothing",
                expected="an e-mail address or a page about this crawl",
                fix="--set fetch.contact=you@example.org",
            )


_Checked = tuple[DecodeResult, str]
"""The decoder's result for an image, and the SHA-256 of its bytes as they came."""


class _ImageChecker:
    """Decoder processes behind a queue, asked in batches; without workers a thread decodes, unprotected."""

    def __init__(self, settings: DecoderSettings, workers: int) -> None:
        self._pool = DecoderPool(settings) if workers else None
        self._decode = self._pool.check if self._pool else partial(map, decoder(settings))
        self._threads = ThreadPoolExecutor(max(1, workers), thread_name_prefix="images")
        self._queue: asyncio.Queue[tuple[bytes, asyncio.Future[_Checked]]] = asyncio.Queue(_WAITING_IMAGES)
        self._tasks = [asyncio.create_task(self._serve()) for _ in range(max(1, workers))]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._pool is not None:
            self._pool.close()
        self._threads.shutdown(wait=True)

    async def submit(self, image: bytes) -> "asyncio.Future[_Checked]":
        """Queue an image, waiting while too many are queued; the future is done when it is checked."""
        checked: asyncio.Future[_Checked] = asyncio.get_running_loop().create_future()
        await self._queue.put((image, checked))
        return checked

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            size = len(batch[0][0])
            while not self._queue.empty() and len(batch) < _BATCH_ITEMS and size < _BATCH_BYTES:
                batch.append(self._queue.get_nowait())
                size += len(batch[-1][0])
            results: Sequence[_Checked | Exception]
            try:
                results = await loop.run_in_executor(
                    self._threads, self._check, [image for image, _ in batch]
                )
            except Exception as error:  # no decoder starts: everybody who waits has to know
                results = [error] * len(batch)
            for (_, waiting), result in zip(batch, results, strict=True):
                _settle(waiting, result)

    def _check(self, images: Sequence[bytes]) -> list[_Checked]:
        digests = [hashlib.sha256(image).hexdigest() for image in images]
        return list(zip(self._decode(images), digests, strict=True))


def _settle(future: "asyncio.Future[_Checked]", result: _Checked | Exception) -> None:
    if future.done():  # whoever waited was canceled
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


class _Fetcher:
    """State shared by the rows of one partition; made inside the event loop."""

    def __init__(self, settings: FetchSettings, lookup: Lookup) -> None:
        self._settings = settings
        self._client = Client(settings, lookup)
        self._checker = _ImageChecker(settings.decoding(), settings.decoders)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._limits = ImageLimits(formats=settings.formats)

    async def fetch_all(self, rows: Iterable[_Row]) -> None:
        try:
            await asyncio.gather(*map(self._fetch, rows))
        finally:
            self._checker.close()
            await self._client.close()

    async def _fetch(self, row: _Row) -> None:
        """Fetch and check one image; the outcome is stored in the row."""
        try:
            if row.address is not None:
                body, checked = await self._download(row, row.address)
                _finish(row, body, await checked)
            elif row.given is not None:
                _finish(row, None, await (await self._checker.submit(row.given)))
        except BadSampleError as error:
            row.values["status"] = error.reason

    async def _download(self, row: _Row, address: Address) -> tuple[bytes, "asyncio.Future[_Checked]"]:
        """Download an image under its host's rate limit, and queue it for the decoders."""
        host, settings = self._client.host(address), self._settings
        request = Request(
            row.values["key"],
            _ACCEPT,
            settings.max_bytes,
            permit=partial(self._permit, row),
            check=partial(self._check_response, row),
            begin=self._begin,
        )
        async with host.semaphore:
            # Before a slot is held, so that a slow host holds up nobody else.
            await self._permit(row, address)
            wished = (await self._client.robots(address)).delay()
            wished = min(wished, settings.max_crawl_delay_seconds)
            await host.acquire(max(settings.delay_seconds, wished))
            async with self._slots:
                response = await self._client.ask(address, request)
                return response.body, await self._checker.submit(response.body)

    async def _permit(self, row: _Row, address: Address) -> None:
        if row.permitted == address.url:
            return
        robots = await self._client.robots(address)
        row.values["robots"] = robots.state or None
        if robots.reason is not None:
            raise BadSampleError(robots.reason, "robots.txt cannot be read")
        if not robots.allows(address.target):
            row.values["robots"] = DISALLOWED
            raise BadSampleError(Reason.ROBOTS)
        self._record_opt_outs(row, robots.preferences(address.target))
        row.permitted = address.url

    def _check_response(self, row: _Row, response: Response) -> None:
        row.response = response
        check_status(response)
        self._record_opt_outs(row, response.headers)

    def _begin(self, first: bytes) -> None:
        """Refuse a page in an image's place by its first bytes, whatever the server calls it."""
        if sniff(first) is None:
            raise BadSampleError(Reason.NOT_AN_IMAGE, found=repr(first[:16]))
        check_format(first, self._limits)

    def _record_opt_outs(self, row: _Row, headers: Iterable[tuple[str, str]]) -> None:
        row.signals |= set(opt_outs(headers, self._settings.token()))
        if row.signals & set(self._settings.respect_opt_out):
            raise BadSampleError(Reason.OPTED_OUT)


def _finish(row: _Row, body: bytes | None, checked: _Checked) -> None:
    """Store the decoder's result in the row; `body` is what was downloaded."""
    result, row.values["sha256"] = checked
    if row.expected_sha256 not in ("", row.values["sha256"]):
        raise BadSampleError(Reason.HASH_MISMATCH)
    if result.reason is not None:
        raise BadSampleError(result.reason)
    if result.size is not None:
        row.values["width"], row.values["height"] = result.size
    row.values["image"] = result.image or body
