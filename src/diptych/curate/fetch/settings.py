"""The settings of `fetch`."""

import re
from dataclasses import dataclass
from typing import Literal

from diptych.core.errors import SettingsError
from diptych.curate.fetch.addresses import WEB_PORTS, AddressRules
from diptych.curate.fetch.robots import SIGNALS
from diptych.data.images.formats import WEB_FORMATS
from diptych.data.images.limits import MAX_BYTES, MAX_PIXELS, ImageLimits
from diptych.data.images.sandbox import DECODER, JPEG_QUALITY, DecoderSettings

_PRODUCT = re.compile(r"[A-Za-z_-]+(?:/[\x21-\x7e]+)?(?: [\x20-\x7e]+)?")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_AT_LEAST = dict.fromkeys(("concurrency", "per_host", "size", "max_bytes"), 1) | dict.fromkeys(
    ("retries", "decoders", "max_redirects", "delay_seconds", "max_crawl_delay_seconds", "backoff_seconds"), 0
)


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How images are fetched.

    Attributes:
        user_agent: product and version (RFC 9110, section 10.1.5); robots.txt is read for the product.
        contact: e-mail address or page of whoever runs this, sent to every server; only hosts given by
            `allow_networks` are asked without.
        concurrency, per_host: requests at a time, in all and to one host.
        delay_seconds: between the starts of two requests to one host.
        max_crawl_delay_seconds: the longest Crawl-delay of a robots.txt that is kept to.
        timeout_seconds: of one try, redirects and body included.
        deadline_seconds: of an image, all tries and the waits between them included.
        backoff_seconds: before the first retry, on average; doubled with each.
        respect_opt_out: which signals against training drop an image, of `robots.SIGNALS`.
        verify_sha256: drop a downloaded image whose SHA-256 is not the `sha256` of the candidate's fields.
            Images that candidates bring are not compared: img2dataset notes the digest of the download, and
            stores the image encoded again.
        resize: "none" keeps the bytes; "keep_ratio" scales the shortest side down to `size` pixels;
            "center_crop" keeps the square in the center of that. Nothing is ever enlarged.
        quality: of the JPEGs that resizing writes.
        formats: Pillow's names of those that are kept.
        decoders: processes that decode; 0 decodes in this one, unprotected.
        decoder: the function that decodes, as "module:name".
        allow_networks: that may be requested although they are not public, such as "127.0.0.1/32".
    """

    user_agent: str = "diptych/0.1"
    contact: str = ""
    concurrency: int = 128
    per_host: int = 2
    delay_seconds: float = 0.1
    max_crawl_delay_seconds: float = 5.0
    timeout_seconds: float = 15.0
    deadline_seconds: float = 60.0
    retries: int = 2
    backoff_seconds: float = 1.0
    max_redirects: int = 5
    robots: bool = True
    respect_opt_out: tuple[str, ...] = SIGNALS
    verify_sha256: bool = True
    resize: Literal["none", "keep_ratio", "center_crop"] = "none"
    size: int = 256
    quality: int = JPEG_QUALITY
    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    formats: tuple[str, ...] = WEB_FORMATS
    decoders: int = 2
    decoder: str = DECODER
    decode_seconds: float = 20.0
    allow_ports: tuple[int, ...] = WEB_PORTS
    allow_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise SettingsError for what cannot be meant."""
        for name, least in _AT_LEAST.items():
            if (value := getattr(self, name)) < least:
                raise SettingsError(f"{name} is too small", found=value, expected=f"{least} or more")
        if min(self.timeout_seconds, self.deadline_seconds, self.decode_seconds) <= 0:
            raise SettingsError("a time limit must be positive")
        if not 1 <= self.quality <= 100:
            raise SettingsError("there is no such quality", found=self.quality, expected="1 to 100")
        if unknown := set(self.respect_opt_out) - set(SIGNALS):
            raise SettingsError("unknown signal", found=", ".join(unknown), expected=", ".join(SIGNALS))
        if not _PRODUCT.fullmatch(self.user_agent) or not _PRINTABLE.fullmatch(self.contact):
            found, expected = repr(self.user_agent), "such as name/1.0"
            raise SettingsError("the user agent is no product", found=found, expected=expected)
        self.rules(), self.decoding()

    def agent(self) -> str:
        """Return the User-Agent header."""
        return f"{self.user_agent} (+{self.contact})" if self.contact else self.user_agent

    def token(self) -> str:
        """Return the product by which robots.txt may speak to us, such as "diptych"."""
        return self.user_agent.split(" ")[0].split("/")[0]

    def rules(self) -> AddressRules:
        """Return which addresses may be requested."""
        return AddressRules(self.allow_ports, self.allow_networks)

    def decoding(self) -> DecoderSettings:
        """Return how images are checked and made smaller."""
        return DecoderSettings(
            limits=ImageLimits(max_bytes=self.max_bytes, max_pixels=self.max_pixels, formats=self.formats),
            resize=None if self.resize == "none" else self.size,
            crop=self.resize == "center_crop",
            quality=self.quality,
            timeout_seconds=self.decode_seconds,
            decoder=self.decoder,
        )
