"""Names to addresses, each resolved once and judged before it is dialled.

A name is refused if any of its addresses is not public, and the connector gets exactly the addresses that
were judged: nobody resolves again between the judgement and the dialling, so an answer that changes
meanwhile ("rebinding") changes nothing.

Reads: the system's resolver. Writes: nothing.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from diptych.core.errors import Reason
from diptych.curate.fetch.addresses import AddressRules

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""Gives the IP addresses of a name as text, or raises `OSError`."""

MAX_NAMES = 10_000
"""Remembered at one time: a partition rarely has more hosts."""
TTL_SECONDS = 300.0
"""How long an answer is used; the system's resolver does not tell what the name's owner wishes."""
LOOKUP_THREADS = 64  # waiting is all they do


class AddressRefusedError(OSError):
    """A host that may not be dialled, or has no address; `OSError` is what aiohttp expects from resolvers."""

    def __init__(self, reason: Reason, host: str, found: str) -> None:
        super().__init__(f"{host}: {reason} ({found})")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Known:
    expires: float
    ips: tuple[str, ...]
    refusal: tuple[Reason, str] | None


class Resolver(AbstractResolver):
    """Resolves, judges and remembers.

    Args:
        rules: which addresses may be dialled.
        lookup: asks for a name's addresses.
        clock: seconds, never going back.
    """

    def __init__(
        self, rules: AddressRules, lookup: Lookup, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rules = rules
        self._lookup = lookup
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asked: dict[str, asyncio.Task[_Known]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return what may be dialled for a host.

        Raises:
            AddressRefusedError: one of its addresses is not allowed, or there is none.
        """
        known = await self._answer(host)
        if known.refusal is not None:
            reason, found = known.refusal
            raise AddressRefusedError(reason, host, found)
        return [
            ResolveResult(
                hostname=host,
                host=ip,
                port=port,
                family=_family(ip),
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for ip in known.ips
            if family in (socket.AF_UNSPEC, _family(ip))
        ]

    async def close(self) -> None:
        """End what is still being asked."""
        for task in self._asked.values():
            task.cancel()

    async def _answer(self, host: str) -> _Known:
        known = self._known.get(host)
        if known is not None and known.expires > self._clock():
            self._known.move_to_end(host)
            return known
        if host not in self._asked:
            self._asked[host] = asyncio.create_task(self._judged(host))
            self._asked[host].add_done_callback(lambda _: self._asked.pop(host, None))
        return await asyncio.shield(self._asked[host])  # others wait for the same answer

    async def _judged(self, host: str) -> _Known:
        try:
            ips, refusal = tuple(await self._lookup(host)), None
            bad = next((ip for ip in ips if not self._rules.allow(ip_address(ip))), None)
            if bad is not None:
                refusal = Reason.FORBIDDEN_ADDRESS, bad
            elif not ips:
                refusal = Reason.NAME_NOT_FOUND, "no address"
        except (OSError, ValueError, UnicodeError) as error:
            ips, refusal = (), (Reason.NAME_NOT_FOUND, str(error))
        known = _Known(self._clock() + TTL_SECONDS, ips, refusal)
        self._known[host] = known
        self._known.move_to_end(host)
        while len(self._known) > MAX_NAMES:
            self._known.popitem(last=False)
        return known


class SystemLookup:
    """Asks the system's resolver, in threads of its own: it may take seconds over a name."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")

    async def __call__(self, host: str) -> list[str]:
        """Return the addresses of a name, those of families that this machine has itself."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._ask, host)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def close(self) -> None:
        """Let the threads end; what they still ask is of no use."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _ask(host: str) -> Any:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


def guarded_socket(rules: AddressRules) -> Callable[[Any], socket.socket]:
    """Return what makes the sockets of a connector: the last look at an address before it is dialled.

    Raises:
        AddressRefusedError: from what is returned, for an address that the rules do not allow.
    """

    def make(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        ip = str(address[0])
        if not rules.allow(ip_address(ip)):
            raise AddressRefusedError(Reason.FORBIDDEN_ADDRESS, ip, ip)
        return socket.socket(family, kind, protocol)

    return make


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET
