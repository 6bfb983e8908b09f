"""No URL, however it is spelt, leads to a host that is not public: nothing is sent there, not a byte."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from diptych.core.errors import BadSampleError, Reason, SettingsError
from diptych.curate.fetch.addresses import AddressRules, checked_url, is_public, next_address
from diptych.curate.fetch.client import Resolver

BAD, FORBIDDEN = Reason.BAD_ADDRESS, Reason.FORBIDDEN_ADDRESS

VECTORS: dict[Reason, list[str]] = {
    FORBIDDEN: [
        *(f"http://{host}/a.jpg" for host in (
            "127.0.0.1", "127.255.0.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
            "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.1", "192.0.0.192", "192.0.2.1",
            "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
            "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16", "[::]", "[::1]",
            "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
            "[::ffff:9.9.9.9]", "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::1]",
            "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[2001:db8::1]", "[3fff::1]", "[fc00::1]",
            "[fd00:ec2::254]", "[fe80::1]", "[fec0::1]", "[ff02::1]", "[100::1]", "[5f00::1]",
            "[2001:20::1]", "localhost", "LOCALHOST", "metadata", "intranet", "metadata.google.internal",
            "router.lan", "nas.local", "a.localhost", "x.test", "x.invalid", "x.onion", "printer.home.arpa",
            "1.0.0.127.in-addr.arpa", "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1", "ｌocalhost"
        )),
        "http://127.0.0.1#@example.org/", "http://127.0.0.1?@example.org/", "HTTP://127.0.0.1:80/",
        "http://example.org:22/", "http://example.org:6379/", "http://example.org:8080/", "https://example.org:0/",
        "http://127.0.0.1:443/\u0441.jpg"
    ],
    BAD: [
        *(f"http://{host}/a.jpg" for host in (
            "127.1", "127.0.1", "0", "2130706433", "0x7f000001", "0x7f.1", "0X7F.0.0.1", "0x7f.0x0.0x0.0x1",
            "017700000001", "0177.0.0.1", "127.0.0.01", "00127.0.0.1", "127.0.0.1.", "256.1.1.1", "1.2.3.4.5",
            "4294967297", "example.org.", "localhost.", "metadata.google.internal.", "[::1", "[::1%25lo]",
            "[fe80::1%eth0]", "::1", "[v1.x]", "[127.0.0.1]", "a@127.0.0.1", "example.org@127.0.0.1",
            "example.org:80@127.0.0.1", "user:pass@example.org", "127.0.0.1%00.example.org",
            "%31%32%37.0.0.1", "exa mple.org", "-\u00ad.", "", ":80", "a..b", "x" * 64 + ".org",
            "example.org:80:80",
            "example.org:http", "127.0.0.1\\@example.org", "127.0.0.1:80\\.example.org", "a*b.org"
        )),
        "http:/127.0.0.1/", "http:127.0.0.1", "//127.0.0.1/", "/etc/passwd", "127.0.0.1", "", " http://127.0.0.1/",
        "file:///etc/passwd", "gopher://127.0.0.1:70/_x", "ftp://127.0.0.1/a", "dict://127.0.0.1/", "jar:http://x/!",
        "javascript:alert(1)", "data:image/png;base64," + "A" * 5000, "unix:/run/x.sock", "ws://127.0.0.1/",
        "http://example.org/a\r\nHost: 127.0.0.1", "http://example.org/\n", "http://exam\tple.org/",
        "http:\\\\127.0.0.1\\", "http://example.org\\@127.0.0.1/", "http://example.org/\x00", "http://\ufeff127.0.0.1/",
        "http://example.org/" + "a" * 5000
    ]
}  # fmt: skip
ALL = [(reason, url) for reason, urls in VECTORS.items() for url in urls]


@pytest.mark.parametrize(("reason", "url"), ALL)
def test_hostile_urls_are_refused_and_redirects_to_them(reason: Reason, url: str) -> None:
    with pytest.raises(BadSampleError) as refused:
        checked_url(url)
    assert refused.value.reason is reason
    try:  # those that are relative stay on the host that was asked, as a browser reads them
        assert next_address(checked_url("http://example.org/a/b.jpg"), url).host in ("example.org", "")
    except BadSampleError as error:
        assert error.reason in (BAD, FORBIDDEN)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://example.org", "http://example.org/"),
        ("https://Example.ORG:443/A.jpg?b=c#d", "https://example.org/A.jpg?b=c"),
        ("http://example.org:443/", "http://example.org:443/"),
        ("http://bücher.example.org/ü ö.jpg", "http://xn--bcher-kva.example.org/%C3%BC%20%C3%B6.jpg"),
        ("http://my_site.blog-.example.org/%20%zz", "http://my_site.blog-.example.org/%20%zz"),
        ("http://9.9.9.9/?a=b?c", "http://9.9.9.9/?a=b?c"),
        ("http://[2620:FE:0::9]/", "http://[2620:fe::9]/"),
        ("http://example.org//a/../b@c:80", "http://example.org//a/../b@c:80"),
        ("http://example.org:/", "http://example.org/"),
        ('http://example.org/"<a>"', "http://example.org/%22%3Ca%3E%22"),
        ("http://example.org?x", "http://example.org/?x"),
    ],
)
def test_ordinary_urls_are_sent_in_one_spelling(url: str, sent: str) -> None:
    address = checked_url(url)
    assert address.url == sent
    assert address.origin + address.target == sent
    assert checked_url(sent) == address


def test_redirects_are_followed_relatively_and_never_out_of_encryption() -> None:
    start = checked_url("https://example.org/a/b.jpg?q")
    assert next_address(start, "//cdn.example.org/x").url == "https://cdn.example.org/x"
    assert next_address(start, "?r").url == "https://example.org/a/b.jpg?r"
    assert next_address(checked_url("http://example.org/"), "https://a.org/").url == "https://a.org/"
    with pytest.raises(BadSampleError) as refused:
        next_address(start, "http://example.org/")
    assert refused.value.reason is Reason.REDIRECTS


def test_networks_that_are_allowed_by_name_may_be_asked() -> None:
    rules = AddressRules(allow_ports=(8000,), allow_networks=("127.0.0.1/32",))
    assert checked_url("http://127.0.0.1:8000/a", rules).origin == "http://127.0.0.1:8000"
    for host in ("127.0.0.2:8000", "127.0.0.1", "[::ffff:127.0.0.1]:8000", "127.1:8000"):
        with pytest.raises(BadSampleError):
            checked_url(f"http://{host}/", rules)
    for ports, networks in (((0,), ()), ((70000,), ()), ((80,), ("x",))):
        with pytest.raises(SettingsError):
            AddressRules(ports, networks)


def test_neighbors_of_special_networks_are_public() -> None:
    ips = ("1.1.1.1", "9.9.9.9", "172.32.0.1", "172.15.255.255", "100.128.0.1", "198.20.0.1", "192.0.1.1",
           "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "2001:4860::8888")  # fmt: skip
    assert [ip for ip in ips if not is_public(ip_address(ip))] == []


@pytest.mark.parametrize(
    ("ips", "reason"),
    [
        (["127.0.0.1"], FORBIDDEN), (["9.9.9.9", "::1"], FORBIDDEN), (["10.0.0.1", "9.9.9.9"], FORBIDDEN),
        (["::ffff:9.9.9.9"], FORBIDDEN), (["169.254.169.254"], FORBIDDEN),
        (["64:ff9b::a9fe:a9fe"], FORBIDDEN), (["fe80::1%2"], FORBIDDEN), (["0.0.0.0"], FORBIDDEN),
        ([], Reason.NAME_NOT_FOUND), (["nonsense"], Reason.NAME_NOT_FOUND), (["9.9.9.9", "2620:fe::9"], None)
    ]
)  # fmt: skip
def test_a_name_with_any_answer_that_is_not_public_is_refused(ips: list[str], reason: Reason | None) -> None:
    async def lookup(host: str) -> Sequence[str]:
        return ips

    resolving = Resolver(AddressRules(), lookup).resolve("example.org", 80)
    if reason is None:
        assert [result["host"] for result in asyncio.run(resolving)] == ips
        return
    with pytest.raises(BadSampleError) as refused:
        asyncio.run(resolving)
    assert refused.value.reason is reason


def test_no_socket_is_made_for_a_forbidden_address() -> None:
    async def lookup(host: str) -> Sequence[str]:
        return []

    make = Resolver(AddressRules(), lookup).make_socket
    with pytest.raises(BadSampleError):
        make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80)))
    make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("9.9.9.9", 80))).close()
