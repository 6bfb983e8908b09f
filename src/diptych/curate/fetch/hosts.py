"""Per-host rate limits, and a cache of robots.txt.

Reads: robots.txt of each origin, once. Writes: nothing.
Source: RFC 9309, section 2.3 (access to robots.txt).
"""

import asyncio
from dataclasses import dataclass, field

from diptych.core.errors import BadSampleError, Reason
from diptych.curate.fetch.addresses import Address, AddressRules, checked_url
from diptych.curate.fetch.responses import Client, Request, check_status
from diptych.curate.fetch.robots import ALLOW_ALL, MAX_ROBOTS_BYTES, Robots, parse_robots
from diptych.curate.fetch.settings import FetchSettings

ROBOTS_TTL_SECONDS = 24 * 3600.0
"""The longest for which RFC 9309 (section 2.4) allows a response to be used."""
ALLOWED, DISALLOWED, ABSENT, UNREACHABLE = "allowed", "disallowed", "absent", "unreachable"
"""States of a sample in the column `robots`."""


@dataclass(frozen=True, slots=True)
class RobotsResult:
    """What asking for a robots.txt gave: its rules and state; where it is unreachable, why."""

    robots: Robots = ALLOW_ALL
    state: str = ALLOWED
    reason: Reason | None = None


@dataclass(slots=True)
class Host:
    """Rate limiter of one host: requests at a time, and the earliest start of the next one.

    Attributes:
        semaphore: to be held during a request.
        max_wait: seconds; a request that would wait longer is refused.
        next_start: on the loop's clock.
    """

    semaphore: asyncio.Semaphore
    max_wait: float
    next_start: float = 0.0

    async def acquire(self, delay: float) -> None:
        """Wait until a request may start; the next one may `delay` seconds later.

        Raises:
            BadSampleError: RATE_LIMITED, if the host wants to be left alone for too long.
        """
        now = asyncio.get_running_loop().time()
        start = max(now, self.next_start)
        if start - now > self.max_wait:
            raise BadSampleError(
                Reason.RATE_LIMITED, "the host wants to be left alone", found=f"for {start - now:.0f} s"
            )
        self.next_start = start + delay
        if start > now:
            await asyncio.sleep(start - now)

    def cooldown(self, seconds: float) -> None:
        """Start no request for some seconds."""
        self.next_start = max(self.next_start, asyncio.get_running_loop().time() + seconds)


@dataclass(slots=True)
class _Asked:
    expires: float
    task: "asyncio.Task[RobotsResult]"


@dataclass(slots=True)
class Hosts:
    """The rate limiters and robots.txt of all hosts of a run."""

    settings: FetchSettings
    client: Client
    rules: AddressRules
    _hosts: dict[str, Host] = field(default_factory=dict)
    _robots: dict[str, _Asked] = field(default_factory=dict)
    _places: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        # Places of their own: those who wait for a robots.txt may hold all the others.
        self._places = asyncio.Semaphore(self.settings.concurrency)

    def of(self, address: Address) -> Host:
        """Return the host of an address."""
        host = self._hosts.get(address.host)
        if host is None:
            semaphore = asyncio.Semaphore(self.settings.per_host)
            host = self._hosts[address.host] = Host(semaphore, self.settings.deadline_seconds)
        return host

    def delay(self, robots: RobotsResult) -> float:
        """Return the seconds between two requests: our own, or what the host wishes, within reason."""
        wished = min(robots.robots.delay(), self.settings.max_crawl_delay_seconds)
        return max(self.settings.delay_seconds, wished)

    async def robots(self, address: Address) -> RobotsResult:
        """Return what the robots.txt of an address says; it is asked for once, whoever waits."""
        if not self.settings.robots:
            return RobotsResult(state="")
        loop = asyncio.get_running_loop()
        asked = self._robots.get(address.origin)
        if asked is None or asked.expires <= loop.time():
            task = loop.create_task(self._ask(address))
            asked = self._robots[address.origin] = _Asked(loop.time() + ROBOTS_TTL_SECONDS, task)
        return await asyncio.shield(asked.task)  # one who gives up must not take it from the others

    def close(self) -> None:
        """Stop asking."""
        for asked in self._robots.values():
            asked.task.cancel()

    async def _ask(self, address: Address) -> RobotsResult:
        origin = address.origin
        request = Request(
            f"{origin}/robots.txt",
            "text/plain,*/*;q=0.5",
            MAX_ROBOTS_BYTES + 1,  # the parser sees that it was cut
            cut=True,
            check=check_status,
            cooldown=self.of(address).cooldown,
        )
        async with self._places:
            try:
                response = await self.client.ask(checked_url(request.key, self.rules), request)
            except BadSampleError as error:
                # "Unavailable" (400 to 499) and more redirects than five leave everything allowed, an error
                # of the server or the network nothing (section 2.3.1). 429 is no response yet.
                if error.reason in (Reason.HTTP_CLIENT_ERROR, Reason.REDIRECTS):
                    return RobotsResult(state=ABSENT)
                return RobotsResult(state=UNREACHABLE, reason=error.reason)
        return RobotsResult(parse_robots(response.body, self.settings.token()))
