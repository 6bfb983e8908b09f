"""Asynchronous image downloader: per-host rate limits, robots.txt, SSRF protection, one row per candidate.

Every request has a deadline and a limit on bytes, and images are decoded in processes that may die. An image
is compared with the hash of its index because whoever buys an expired domain may put any image there (Carlini
et al. 2023, "Poisoning Web-Scale Training Datasets is Practical").
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
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
from diptych.data.images.sandbox import DecodeResult, DecoderPool, decoder

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

    def finish(self, image: bytes, result: DecodeResult, digest: str) -> None:
        self.values["sha256"] = digest
        reason = Reason.HASH_MISMATCH if self.expected_sha256 not in ("", digest) else result.reason
        if reason is not None:
            self.values["status"] = reason
            return
        self.values["width"], self.values["height"] = result.size or (None, None)
        self.values["image"] = result.image or (image if self.given is None else None)

    def fill(self) -> None:
        """Set the columns that tell of the request and its response."""
        values, response = self.values, self.response
        values["opt_out"] = ",".join(signal for signal in SIGNALS if signal in self.signals) or None
        if self.address is not None:
            values["url"] = self.address.url
        if response is not None:
            values |= {"url": response.url, "http_status": response.status, "bytes": response.received}
            values["content_type"] = response.headers.get("content-type", "")[:200] or None
        if self.given is not None:
            values["bytes"] = len(self.given)


def fetch_partition(
    table: pa.Table, settings: FetchSettings, *, lookup: Lookup | None = None
) -> tuple[pa.Table, Counts]:
    """Fetch, check and, if asked, resize the images of a partition: `columns.FETCHED`, row for row.

    The same responses of the servers give the same bytes, whatever the order they come in. (One thing depends
    on time: a host that asks with Retry-After to be left alone for longer than `deadline_seconds` is, and
    what was still to be asked of it is dropped as rate_limited.)

    Args:
        table: `columns.CANDIDATES`; rows that bring their `image` are checked without the network. All rows
            are under way at once, so a partition should not hold more than some 10,000.
        settings: how.
        lookup: None asks the system.

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
    row = _Row({"key": record["key"], "status": OK, "license": record["license"]}, record["image"])
    if row.given is not None:
        return row
    try:
        if settings.verify_sha256:
            row.expected_sha256 = _expected_sha256(record["fields"])
        if not record["url"]:
            raise BadSampleError(Reason.MISSING_IMAGE)
        row.address = checked_url(record["url"], settings.rules())
    except BadSampleError as error:
        row.values["status"] = error.reason
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
    def is_known(host: str) -> bool:
        try:
            return settings.rules().lists(ip_address(host))
        except ValueError:  # a name
            return False

    if not settings.contact and not all(is_known(row.address.host) for row in rows if row.address):
        what, fix = (
            "images are fetched from other people's servers, and they cannot reach you",
            "--set fetch.contact=you@example.org",
        )
        raise SettingsError(
            what,
            where="contact",
            found="nothing",
            expected="an e-mail address or a page about this crawl",
            fix=fix,
        )


class _Fetcher:
    """State shared by the rows of one partition; made inside the event loop."""

    def __init__(self, settings: FetchSettings, lookup: Lookup) -> None:
        self._settings = settings
        self._client = Client(settings, lookup)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._limits = ImageLimits(formats=settings.formats)
        self._images: asyncio.Queue[tuple[_Row, bytes]] = asyncio.Queue(_WAITING_IMAGES)

    async def fetch_all(self, rows: Iterable[_Row]) -> None:
        """Fetch the rows and decode their images; without decoder processes a thread does, unprotected."""
        decoders, settings = self._settings.decoders, self._settings.decoding()
        pool = DecoderPool(settings) if decoders else None
        decode: Callable[[Sequence[bytes]], Iterable[DecodeResult]]
        decode = pool.check if pool else partial(map, decoder(settings))
        threads = ThreadPoolExecutor(max(1, decoders), thread_name_prefix="images")
        try:
            async with asyncio.TaskGroup() as group:
                checks = (self._check_images(decode, threads) for _ in range(max(1, decoders)))
                checking = [group.create_task(check) for check in checks]
                await asyncio.gather(*map(self._fetch, rows))
                await self._images.join()
                for task in checking:
                    task.cancel()
        except ExceptionGroup as several:  # no decoder starts
            raise several.exceptions[0] from None
        finally:
            if pool is not None:
                pool.close()
            threads.shutdown(wait=True)
            await self._client.close()

    async def _check_images(
        self, decode: Callable[[Sequence[bytes]], Iterable[DecodeResult]], threads: ThreadPoolExecutor
    ) -> None:
        """Check the images that wait, in batches: one exchange with a decoder for each."""

        def check(images: Sequence[bytes]) -> list[tuple[DecodeResult, str]]:
            digests = [hashlib.sha256(image).hexdigest() for image in images]
            return list(zip(decode(images), digests, strict=True))

        while True:
            batch = [await self._images.get()]
            size = len(batch[0][1])
            while not self._images.empty() and len(batch) < _BATCH_ITEMS and size < _BATCH_BYTES:
                batch.append(self._images.get_nowait())
                size += len(batch[-1][1])
            images = [image for _, image in batch]
            results = await asyncio.get_running_loop().run_in_executor(threads, check, images)
            for (row, image), (result, digest) in zip(batch, results, strict=True):
                row.finish(image, result, digest)
                self._images.task_done()

    async def _fetch(self, row: _Row) -> None:
        """Get one image and queue it for the decoders, or store why there is none in the row."""
        try:
            if row.address is not None:
                await self._download(row, row.address)
            elif row.given is not None:
                await self._images.put((row, row.given))
        except BadSampleError as error:
            row.values["status"] = error.reason

    async def _download(self, row: _Row, address: Address) -> None:
        host, settings = self._client.hosts[address.host], self._settings
        request = Request(
            row.values["key"], _ACCEPT, settings.max_bytes, permit=partial(self._permit, row),
            check=partial(self._check_response, row), begin=self._begin,
        )  # fmt: skip
        async with host.semaphore:
            # Before a slot is held, so that a slow host holds up nobody else.
            await self._permit(row, address)
            wished = (await self._client.robots(address)).delay()
            await host.acquire(max(settings.delay_seconds, min(wished, settings.max_crawl_delay_seconds)))
            async with self._slots:
                response = await self._client.ask(address, request)
                await self._images.put((row, response.body))

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
        self._record_opt_outs(row, response.headers.items())

    def _begin(self, first: bytes) -> None:
        """Refuse a page in an image's place by its first bytes, whatever the server calls it."""
        if sniff(first) is None:
            raise BadSampleError(Reason.NOT_AN_IMAGE, found=repr(first[:16]))
        check_format(first, self._limits)

    def _record_opt_outs(self, row: _Row, headers: Iterable[tuple[str, str]]) -> None:
        row.signals |= set(opt_outs(headers, self._settings.token()))
        if row.signals & set(self._settings.respect_opt_out):
            raise BadSampleError(Reason.OPTED_OUT)
