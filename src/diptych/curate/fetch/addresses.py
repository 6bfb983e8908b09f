"""Which addresses of strangers may be asked: strict reading of URLs, and what a public IP address is.

Anyone can put a URL into a crawl. One that two parsers read differently, or that leads to the machine itself,
to its neighbours or to a cloud's metadata service, is refused before anything is sent.

Reads: URLs. Writes: nothing.
Source: RFC 3986 (URLs), RFC 5891 and UTS 46 (names beyond ASCII), RFC 6761 (special names), RFC 6890 and
IANA's special-purpose address registries; the WHATWG URL Standard's numeric hosts, which are refused here.
"""

import re
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NoReturn
from urllib.parse import quote, urljoin

from diptych.core.errors import BadSampleError, Reason, SettingsError

Ip = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL = 4096
"""Characters. Longer ones are data or mistakes; servers refuse from 8,000 on."""
MAX_HOST, MAX_PORT = 253, 65535
DEFAULT_PORTS = {"http": 80, "https": 443}
WEB_PORTS = tuple(DEFAULT_PORTS.values())

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*):(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_WEB = re.compile(r"//(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")
# Control characters, a space's invisible relatives, and the backslash, which browsers take for a slash.
_NEVER_IN_URL = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u2028\u2029\ufeff\ud800-\udfff]")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_KEPT_IN_PATH = "%/:@!$&'()*+,;=~[]|"

SPECIAL_ENDINGS = frozenset(
    {"alt", "corp", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain", "localhost"}
    | {"onion", "private", "test"}
)
"""Last labels that never name a public host (RFC 6761, 6762, 7686, 9476; ICANN's list of internal ones)."""
SPECIAL_NAMES = (".home.arpa", ".in-addr.arpa", ".ip6.arpa")

# What `ip.is_global` lets through on some Python version, or takes for public although it leads elsewhere.
SPECIAL_NETWORKS: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; a cloud keeps its metadata at 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # a public number that Azure's hosts answer to every guest
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "2001::/23",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",
    )
)
_IPV6_UNICAST = IPv6Network("2000::/3")
"""All that IANA hands out; mapped, NAT64, local and multicast addresses are outside."""


@cache
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise SettingsError(
            "allow_networks holds no network", found=str(error), expected="such as 127.0.0.1/32"
        ) from error


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What may be asked besides public hosts at the web's own ports.

    Attributes:
        allow_ports: port numbers.
        allow_networks: networks such as "127.0.0.1/32" that may be asked although they are not public.
    """

    allow_ports: tuple[int, ...] = WEB_PORTS
    allow_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no port or network.

        Raises:
            SettingsError: names it.
        """
        wrong = next((port for port in self.allow_ports if not 0 < port <= MAX_PORT), None)
        if wrong is not None:
            raise SettingsError("there is no such port", found=wrong, expected=f"1 to {MAX_PORT}")
        _networks(self.allow_networks)

    def allow(self, ip: Ip) -> bool:
        """Tell whether an address may be dialled.

        >>> AddressRules().allow(IPv4Address("127.0.0.1")), AddressRules().allow(IPv4Address("9.9.9.9"))
        (False, True)
        """
        return is_public(ip) or self.lists(ip)

    def lists(self, ip: Ip) -> bool:
        """Tell whether an address lies in one of `allow_networks`."""
        return any(ip in network for network in _networks(self.allow_networks))


@dataclass(frozen=True, slots=True)
class Address:
    """A URL that may be asked.

    Attributes:
        url: as it will be sent: ASCII, without a fragment.
        scheme: http or https.
        host: in lower case, ASCII; an IP address without brackets.
        port: number.
        target: path and query, as robots.txt judges them.
    """

    url: str
    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: what one robots.txt speaks for."""
        return self.url[: len(self.url) - len(self.target)]


WEB_RULES = AddressRules()


def checked_url(url: str, rules: AddressRules = WEB_RULES) -> Address:
    """Read a URL strictly.

    Args:
        url: absolute; spaces and letters beyond ASCII in its path are encoded as browsers do it.
        rules: ports and networks.

    Returns:
        The address; a host that is a name has yet to be resolved (`resolver`).

    Raises:
        BadSampleError: BAD_ADDRESS if it is not an unambiguous web address, FORBIDDEN_ADDRESS if it leads
            where nobody may be sent.

    >>> checked_url("HTTP://Exämple.org:80/ein Bild.jpg#oben").url
    'http://xn--exmple-cua.org/ein%20Bild.jpg'
    """
    if len(url) > MAX_URL:
        _refuse("the URL is too long", f"{len(url)} characters", f"at most {MAX_URL}")
    if found := _NEVER_IN_URL.search(url):
        _refuse("the URL holds a character that no URL may", repr(found[0]))
    whole = _URL.fullmatch(url)
    if whole is None or whole["scheme"].lower() not in DEFAULT_PORTS:
        _refuse("this is no web address", repr(url[:40]), "http or https")
    scheme, parts = whole["scheme"].lower(), _WEB.fullmatch(whole["rest"])
    authority = _AUTHORITY.fullmatch(parts["authority"]) if parts else None
    if parts is None or authority is None or "@" in parts["authority"]:
        _refuse("the URL names no host, or hides it", repr(url[:80]), "scheme://host/path")
    host = _checked_host(authority["host"], rules)
    port = _checked_port(authority["port"], scheme, rules)
    target = quote(parts["path"] or "/", safe=_KEPT_IN_PATH)
    if parts["query"] is not None:
        target += "?" + quote(parts["query"][1:], safe=_KEPT_IN_PATH + "?")
    shown = f"[{host}]" if ":" in host else host
    origin = f"{scheme}://{shown}" + ("" if port == DEFAULT_PORTS[scheme] else f":{port}")
    return Address(origin + target, scheme, host, port, target)


def next_address(address: Address, location: str, rules: AddressRules = WEB_RULES) -> Address:
    """Check where a redirect leads, as if it had been given in the first place.

    Args:
        address: what was asked.
        location: the answer's header, relative or absolute.
        rules: ports and networks.

    Raises:
        BadSampleError: for a bad or forbidden address, and REDIRECTS for a way from https back to http.

    >>> next_address(checked_url("https://example.org/a/b.jpg"), "../c.jpg").url
    'https://example.org/c.jpg'
    """
    if found := _NEVER_IN_URL.search(location):
        _refuse("the redirect holds a character that no URL may", repr(found[0]))
    try:
        joined = urljoin(address.url, location)
    except ValueError as error:
        _refuse("the redirect leads to no address", f"{location[:80]!r}: {error}")
    following = checked_url(joined, rules)
    if address.scheme == "https" and following.scheme == "http":
        raise BadSampleError(
            Reason.REDIRECTS, "the redirect gives encryption up", where=address.url, found=following.url
        )
    return following


def is_public(ip: Ip) -> bool:
    """Tell whether an IP address belongs to a host of the public internet.

    >>> is_public(IPv4Address("9.9.9.9")), is_public(IPv6Address("::ffff:9.9.9.9"))
    (True, False)
    """
    if isinstance(ip, IPv6Address) and (ip not in _IPV6_UNICAST or ip.scope_id is not None):
        return False
    return ip.is_global and not any(ip in network for network in SPECIAL_NETWORKS)


def _checked_host(host: str, rules: AddressRules) -> str:
    if host.startswith("["):
        try:
            return _checked_ip(IPv6Address(host[1:-1]), rules)
        except ValueError:
            _refuse("the host is no IPv6 address", host)
    name = host.lower() if host.isascii() else _ascii_name(host)
    labels = name.split(".")
    if len(name) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        # A last dot makes an empty label: one host under two names, of which block lists know one.
        _refuse("the host is no name", repr(host[:80]))
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return _checked_ip(IPv4Address(name), rules)
        except ValueError:
            _refuse("the host is a number that parsers read differently", name, "four decimal numbers")
    if len(labels) == 1 or labels[-1] in SPECIAL_ENDINGS or f".{name}".endswith(SPECIAL_NAMES):
        _forbid("the host is a name of some inner network", name)
    return name


def _ascii_name(host: str) -> str:
    import idna

    try:
        # Compatibility forms are mapped first: circled digits or wide letters are what they look like.
        return idna.encode(host, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError) as error:
        _refuse("the host is no international name", f"{host[:80]!r}: {error}")


def _checked_ip(ip: Ip, rules: AddressRules) -> str:
    if not rules.allow(ip):
        _forbid("the address is not public", str(ip))
    return str(ip)


def _checked_port(text: str | None, scheme: str, rules: AddressRules) -> int:
    port = int(text[:6]) if text else DEFAULT_PORTS[scheme]
    if port not in rules.allow_ports:
        _forbid("this port is not asked", str(port), ", ".join(map(str, rules.allow_ports)))
    return port


def _refuse(what: str, found: str, expected: str = "") -> NoReturn:
    raise BadSampleError(Reason.BAD_ADDRESS, what, found=found, expected=expected)


def _forbid(what: str, found: str, expected: str = "a public host") -> NoReturn:
    raise BadSampleError(Reason.FORBIDDEN_ADDRESS, what, found=found, expected=expected)
