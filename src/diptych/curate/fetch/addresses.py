"""Which addresses may be requested: strict reading of URLs, and what a public IP address is.

Anyone can put a URL into a crawl. One that two parsers read differently, or that leads to this machine, its
network or a cloud's metadata service, is refused before anything is sent. Source: RFC 3986, 5891, 6761, 6890;
UTS 46; IANA's special-purpose registries; the WHATWG URL Standard's numeric hosts, which are refused here.
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

MAX_URL = 4096  # characters; longer ones are data or mistakes, and servers refuse from 8,000 on
MAX_HOST, MAX_PORT = 253, 65535
DEFAULT_PORTS = {"http": 80, "https": 443}
WEB_PORTS = tuple(DEFAULT_PORTS.values())

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?", re.IGNORECASE
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]@]*)(?::(?P<port>[0-9]*))?")
# Control characters, a space's invisible relatives, and the backslash, which browsers take for a slash.
_NEVER_IN_URL = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u2028\u2029\ufeff\ud800-\udfff]")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_KEPT_IN_PATH = "%/:@!$&'()*+,;=~[]|"

# Last labels that never name a public host (RFC 6761, 6762, 7686, 9476; ICANN's list of internal ones).
SPECIAL_ENDINGS = frozenset(
    {"alt", "corp", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain", "localhost"}
    | {"onion", "private", "test"}
)
SPECIAL_NAMES = (".home.arpa", ".in-addr.arpa", ".ip6.arpa")

# What `ip.is_global` lets through on some Python version, or takes for public although it leads elsewhere.
SPECIAL_NETWORKS: tuple[Network, ...] = tuple(
    map(
        ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
            "100.64.0.0/10",  # carrier-grade NAT; a cloud keeps its metadata at 100.100.100.200
            "168.63.129.16/32",  # a public number that Azure's hosts answer to every guest
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            "224.0.0.0/3",  # multicast, reserved, broadcast
            *("2001:db8::/32", "3fff::/20"),
            "2001::/23",  # Teredo, ORCHID, benchmarking
            "2002::/16",  # 6to4: an IPv4 address inside
        ),
    )
)
# All that IANA hands out; mapped, NAT64, local and multicast addresses are outside.
_IPV6_UNICAST = IPv6Network("2000::/3")


@cache
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(map(ip_network, texts))
    except ValueError as error:
        what = "allow_networks holds no network"
        raise SettingsError(what, found=str(error), expected="such as 127.0.0.1/32") from error


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Ports that may be requested, and networks ("127.0.0.1/32") that may be although they are not public."""

    allow_ports: tuple[int, ...] = WEB_PORTS
    allow_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise SettingsError for what is no port or network."""
        if wrong := [port for port in self.allow_ports if not 0 < port <= MAX_PORT]:
            raise SettingsError("there is no such port", found=wrong[0], expected=f"1 to {MAX_PORT}")
        _networks(self.allow_networks)

    def allow(self, ip: Ip) -> bool:
        """Tell whether an address may be dialed.

        >>> AddressRules().allow(IPv4Address("127.0.0.1")), AddressRules().allow(IPv4Address("9.9.9.9"))
        (False, True)
        """
        return is_public(ip) or self.lists(ip)

    def lists(self, ip: Ip) -> bool:
        """Tell whether an address lies in one of `allow_networks`."""
        return any(ip in network for network in _networks(self.allow_networks))


@dataclass(frozen=True, slots=True)
class Address:
    """A URL as it will be sent (ASCII, no fragment), its host (IPv6 without brackets), its path and query."""

    url: str
    host: str
    target: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: what one robots.txt speaks for."""
        return self.url[: len(self.url) - len(self.target)]


WEB_RULES = AddressRules()


def checked_url(url: str, rules: AddressRules = WEB_RULES) -> Address:
    """Read an absolute URL strictly; spaces and non-ASCII letters of its path are encoded as browsers do.

    A host that is a name has yet to be resolved (`client.Resolver`).

    Raises:
        BadSampleError: BAD_ADDRESS if it is not an unambiguous web address, FORBIDDEN_ADDRESS if it leads
            where nobody may be sent.

    >>> checked_url("HTTP://Exämple.org:80/ein Bild.jpg#oben").url
    'http://xn--exmple-cua.org/ein%20Bild.jpg'
    """
    if len(url) > MAX_URL:
        _refuse("the URL is too long", f"{len(url)} characters", f"at most {MAX_URL}")
    if bad := _NEVER_IN_URL.search(url):
        _refuse("the URL holds a character that no URL may", repr(bad[0]))
    whole = _URL.fullmatch(url)
    if whole is None:
        _refuse("this is no web address", repr(url[:80]), "http(s)://host/path")
    authority = _AUTHORITY.fullmatch(whole["authority"])
    if authority is None:
        _refuse("the URL names no host, or hides it", repr(url[:80]), "scheme://host/path")
    scheme, host = whole["scheme"].lower(), _checked_host(authority["host"], rules)
    port = int(authority["port"][:6]) if authority["port"] else DEFAULT_PORTS[scheme]
    if port not in rules.allow_ports:
        _forbid("this port is not asked", str(port), ", ".join(map(str, rules.allow_ports)))
    target = quote(whole["path"] or "/", safe=_KEPT_IN_PATH)
    if whole["query"] is not None:
        target += "?" + quote(whole["query"][1:], safe=_KEPT_IN_PATH + "?")
    origin = f"{scheme}://" + (f"[{host}]" if ":" in host else host)
    return Address(origin + (f":{port}" if port != DEFAULT_PORTS[scheme] else "") + target, host, target)


def next_address(address: Address, location: str, rules: AddressRules = WEB_RULES) -> Address:
    """Check where a redirect leads (its `Location`, relative or absolute), as if it had been given first.

    Raises:
        BadSampleError: for a bad or forbidden address, and REDIRECTS for a way from https back to http.

    >>> next_address(checked_url("https://example.org/a/b.jpg"), "../c.jpg").url
    'https://example.org/c.jpg'
    """
    if bad := _NEVER_IN_URL.search(location):
        _refuse("the redirect holds a character that no URL may", repr(bad[0]))
    try:
        joined = urljoin(address.url, location)
    except ValueError as error:
        _refuse("the redirect leads to no address", f"{location[:80]!r}: {error}")
    following = checked_url(joined, rules)
    if address.url.startswith("https:") and following.url.startswith("http:"):
        what = "the redirect gives encryption up"
        raise BadSampleError(Reason.REDIRECTS, what, where=address.url, found=following.url)
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
        return _checked_ip(IPv6Address, host[1:-1], rules)
    name = host.lower() if host.isascii() else _ascii_name(host)
    labels = name.split(".")
    if len(name) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        # A last dot makes an empty label: one host under two names, of which block lists know one.
        _refuse("the host is no name", repr(host[:80]))
    if _NUMBER.fullmatch(labels[-1]):
        return _checked_ip(IPv4Address, name, rules)
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


def _checked_ip(kind: type[Ip], text: str, rules: AddressRules) -> str:
    try:
        ip = kind(text)
    except ValueError:
        if kind is IPv6Address:
            _refuse("the host is no IPv6 address", text)
        _refuse("the host is a number that parsers read differently", text, "four decimal numbers")
    if not rules.allow(ip):
        _forbid("the address is not public", str(ip))
    return str(ip)


def _refuse(what: str, found: str, expected: str = "") -> NoReturn:
    raise BadSampleError(Reason.BAD_ADDRESS, what, found=found, expected=expected)


def _forbid(what: str, found: str, expected: str = "a public host") -> NoReturn:
    raise BadSampleError(Reason.FORBIDDEN_ADDRESS, what, found=found, expected=expected)
