"""Asynchronous image downloader: per-host rate limits, robots.txt, SSRF protection, one row per candidate.

Each host is asked by few at a time and not too often; its robots.txt and its owner's signals against
training are respected; who asks and how to reach them is told. Every request has a deadline and a cap on
bytes, and what comes back is decoded in processes that may die. What became of a candidate is kept row for
row.

Reads: a table of candidates, the network. Writes: nothing; the stage does.
Source: RFC 9309 (robots.txt); RFC 9110, section 10.1.5 (User-Agent); Carlini et al. 2023, "Poisoning
Web-Scale Training Datasets is Practical" (why an image is held against the hash of its index).
"""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import pyarrow as pa

from diptych.core.errors import BadSampleError, Reason, SettingsError
from diptych.core.records import Counts
from diptych.curate.columns import FETCHED
from diptych.curate.fetch.addresses import Address, checked_url
from diptych.curate.fetch.hosts import DISALLOWED, Hosts
from diptych.curate.fetch.images import CheckedImage, ImageChecker
from diptych.curate.fetch.optout import SIGNALS, opt_outs
from diptych.curate.fetch.resolver import Lookup, SystemLookup
from diptych.curate.fetch.responses import Client, Request, Response, check_status
from diptych.curate.fetch.settings import FetchSettings
from diptych.data.images.formats import sniff
from diptych.data.images.limits import ImageLimits, check_format

OK = "ok"
_ACCEPT = "image/*,*/*;q=0.1"


@dataclass(slots=True)
class _Row:
    """A candidate, and what is known of it so far; the first names are those of `columns.FETCHED`."""

    key: str
    license: str | None
    address: Address | None = None
    own: bytes | None = None
    expected_sha256: str = ""
    status: str = OK
    image: bytes | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    robots: str | None = None
    permitted: str = ""
    signals: set[str] = field(default_factory=set)
    response: Response | None = None

    def values(self) -> tuple[object, ...]:
        """Return the values of the columns, in their order."""
        response = self.response
        size = len(self.own) if self.own is not None else response.received if response else None
        url = response.url if response else self.address.url if self.address else None
        signals = ",".join(signal for signal in SIGNALS if signal in self.signals)
        return (
            self.key,
            self.status,
            self.image,
            self.sha256,
            self.width,
            self.height,
            size,
            url,
            response.status if response else None,
            (response.header("content-type")[:200] or None) if response else None,
            self.robots,
            signals or None,
            self.license,
        )


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
        lookup: gives the IP addresses of a name; None asks the system.

    Returns:
        `columns.FETCHED`, row for row, and the counts.

    Raises:
        SettingsError: there is something to ask for on the public web, and no contact to give.
        EnvironmentFault: no decoder can be started.
    """
    records = table.select(["key", "url", "image", "license", "fields"]).to_pylist()
    rows = [_row(record, settings) for record in records]
    _require_contact(rows, settings)
    if lookup is not None:
        asyncio.run(_fetch_all(rows, settings, lookup))
    else:
        system = SystemLookup()
        try:
            asyncio.run(_fetch_all(rows, settings, system))
        finally:
            system.close()
    counts = Counts()
    for row in rows:
        if row.status == OK:
            counts.keep()
        else:
            counts.drop(Reason(row.status), row.key)
    columns = zip(*(row.values() for row in rows), strict=True) if rows else ((),) * len(FETCHED)
    arrays = [pa.array(column, name.type) for name, column in zip(FETCHED, columns, strict=True)]
    return pa.table(arrays, schema=FETCHED), counts


def _row(record: dict[str, Any], settings: FetchSettings) -> _Row:
    """Read a candidate; what cannot be asked for has its reason at once."""
    row = _Row(record["key"], record["license"], own=record["image"])
    try:
        if row.own is None:
            if settings.verify_sha256:
                row.expected_sha256 = _expected_sha256(record["fields"])
            if not record["url"]:
                raise BadSampleError(Reason.MISSING_IMAGE)
            row.address = checked_url(record["url"], settings.rules())
    except BadSampleError as error:
        row.status = error.reason
    return row


def _expected_sha256(fields: str | None) -> str:
    if not fields or '"sha256"' not in fields:
        return ""
    try:
        found = json.loads(fields)["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadSampleError(Reason.BAD_ROW, "the fields are no JSON object") from error
    return found.lower() if isinstance(found, str) else ""


def _require_contact(rows: Iterable[_Row], settings: FetchSettings) -> None:
    if settings.contact:
        return
    rules = settings.rules()
    for row in rows:
        if row.address is None or row.own is not None:
            continue
        try:
            known = rules.lists(ip_address(row.address.host))
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


async def _fetch_all(rows: list[_Row], settings: FetchSettings, lookup: Lookup) -> None:
    client = Client(settings, settings.rules(), lookup)
    hosts = Hosts(settings, client, settings.rules())
    try:
        async with ImageChecker(settings.decoding(), settings.decoders) as checker:
            fetcher = _Fetcher(settings, client, hosts, checker)
            await asyncio.gather(*(fetcher.fetch(row) for row in rows if row.status == OK))
    finally:
        hosts.close()
        await client.close()


class _Fetcher:
    """State shared by the rows of one partition."""

    def __init__(self, settings: FetchSettings, client: Client, hosts: Hosts, checker: ImageChecker) -> None:
        self._settings = settings
        self._client = client
        self._hosts = hosts
        self._checker = checker
        self._places = asyncio.Semaphore(settings.concurrency)
        self._respected = set(settings.respect_opt_out)
        self._limits = ImageLimits(formats=settings.formats)

    async def fetch(self, row: _Row) -> None:
        """Fetch and check one image; the outcome is stored in the row."""
        try:
            if row.own is not None:
                _finish(row, row.own, await (await self._checker.submit(row.own)))
                return
            assert row.address is not None, row.key
            body, checked = await self._download(row, row.address)
            _finish(row, body, await checked)
        except BadSampleError as error:
            row.status = error.reason

    async def _download(self, row: _Row, address: Address) -> tuple[bytes, "asyncio.Future[CheckedImage]"]:
        """Download an image under its host's rate limit, and queue it for the decoders."""
        host = self._hosts.of(address)
        request = Request(
            row.key,
            _ACCEPT,
            self._settings.max_bytes,
            permit=lambda one: self._permit(row, one),
            check=lambda response: self._check_response(row, response),
            begin=self._begin,
            cooldown=host.cooldown,
        )
        async with host.semaphore:
            # Before a place is taken, so that a slow host holds up nobody else.
            await self._permit(row, address)
            await host.acquire(self._hosts.delay(await self._hosts.robots(address)))
            async with self._places:
                response = await self._client.ask(address, request)
                return response.body, await self._checker.submit(response.body)

    async def _permit(self, row: _Row, address: Address) -> None:
        if row.permitted == address.url:
            return
        robots = await self._hosts.robots(address)
        row.robots = robots.state or None
        if robots.reason is not None:
            raise BadSampleError(robots.reason, "robots.txt cannot be read")
        if not robots.robots.allows(address.target):
            row.robots = DISALLOWED
            raise BadSampleError(Reason.ROBOTS)
        self._record_opt_outs(
            row, ((one.name, one.value) for one in robots.robots.preferences(address.target))
        )
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
        if row.signals & self._respected:
            raise BadSampleError(Reason.OPTED_OUT)


def _finish(row: _Row, body: bytes, checked: CheckedImage) -> None:
    """Store the decoder's result in the row."""
    row.sha256 = checked.sha256
    if row.expected_sha256 not in ("", checked.sha256):
        raise BadSampleError(Reason.HASH_MISMATCH)
    if checked.result.reason is not None:
        raise BadSampleError(checked.result.reason)
    if checked.result.size is not None:
        row.width, row.height = checked.result.size
    row.image = checked.result.image or (body if row.own is None else None)
