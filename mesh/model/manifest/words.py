"""The words of Istio's and the Gateway API's resources: hosts, durations, regular expressions, references.

What means the same in several spellings becomes one: hosts and names of headers are in lower case, durations are seconds as float.
A regular expression stays the text that it is; that RE2, the engine of every proxy that will run it, takes it is known here.
"""

from __future__ import annotations

import base64
import re
from functools import lru_cache
from ipaddress import ip_address
from math import inf

import re2

from mesh.model.manifest.shapes import IPV4, IPV6, Integer, Parsed, Text
from mesh.model.workload import IPAddress

NONEMPTY = Text(r"(?s).+", "a string that is not empty")
NAME = Text(r"(?s).+", "a name of up to 253 characters", 253)
WEIGHT = Integer(0, 2**31 - 1)
COUNT = Integer(0, 2**31 - 1)
UNSIGNED = Integer(0, 2**32 - 1)

# Hosts. Letters of either case, as everywhere in DNS; kept in lower case.

_LABEL = r"[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
DNS = rf"{_LABEL}(?:\.{_LABEL})*"

HOST = Parsed(str.lower, "a DNS name", DNS, 253)
WILD_HOST = Parsed(str.lower, "a DNS name, which may begin with '*.'", rf"(?:\*\.)?{DNS}", 253)
ANY_HOST = Parsed(str.lower, "a DNS name, which may begin with '*.', or '*'", rf"\*|(?:\*\.)?{DNS}", 253)

NAMESPACE = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
EXPORT = Text(rf"\.|\*|{NAMESPACE}", "'.' for its own namespace, '*' for all, or a namespace's name", 63)
GATEWAY_NAME = Text(rf"(?:(?:\.|{NAMESPACE})/)?[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?", "a gateway's name, <namespace>/<name>, or mesh", 317)

_LOWER = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*"


def _no_address(text: str) -> str:
    if re.fullmatch(IPV4, text):
        raise ValueError(text)
    return text


HOSTNAME = Parsed(_no_address, "a DNS name in lower case, which may begin with '*.', and no IP address", rf"(?:\*\.)?{_LOWER}", 253)
PRECISE_HOSTNAME = Parsed(_no_address, "a DNS name in lower case, without '*', and no IP address", _LOWER, 253)


# Addresses


def _address(text: str) -> IPAddress:
    address = ip_address(text)
    if address.version == 6 and address.ipv4_mapped is not None:
        raise ValueError(text)
    return address


ADDRESS = Parsed(_address, "an IPv4 or IPv6 address (IPv4 in its own form)", rf"{IPV4}|{IPV6}", 64)

# Durations

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"
_GO = rf"0|(?:{_PART.replace('([0-9]+', '(?:[0-9]+').replace('(ns', '(?:ns')})+"
_LONGEST = 9.2e9  # Go counts nanoseconds in 63 bits; so does everyone who will read it


def seconds(text: str) -> float:
    """`1h2m3.5s` → 3723.5. Text that is no duration gives nonsense: the shapes see to that."""
    return sum((float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text)), 0.0)


def duration(lowest: str = "", highest: float = inf) -> Parsed:
    """A duration in Go's syntax, as Istio takes it, within bounds."""
    floor = seconds(lowest)

    def parse(text: str) -> float:
        value = seconds(text)
        if not floor <= value <= min(highest, _LONGEST):
            raise ValueError(text)
        return value

    accepted = "a duration such as 1h30m, 2.5s or 100ms" + (f", {lowest} or more" if lowest else "")
    return Parsed(parse, accepted, _GO, 64, f"duration(self) >= duration('{lowest}')" if lowest else "")


DURATION = duration()
POSITIVE = duration("1ms")
GATEWAY_DURATION = Parsed(
    seconds, "a duration such as 1h30m, 10s or 100ms: up to four whole numbers of up to five digits", r"(?:[0-9]{1,5}(?:h|m|s|ms)){1,4}", 32
)

# Regular expressions


def _quiet() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    return options


_QUIET = _quiet()
MAX_EXPRESSION = 1024


@lru_cache(maxsize=4096)
def _expression(text: str) -> str:
    try:
        re2.compile(text, _QUIET)
    except re2.error as error:
        raise ValueError(text) from error
    return text


def expression(text: str) -> bool:
    """Whether RE2 takes it, and it is no longer than Envoy does."""
    try:
        return len(_expression(text)) <= MAX_EXPRESSION
    except ValueError:
        return False


REGEX = Parsed(_expression, "a regular expression that RE2 takes, of up to 1024 characters", r"(?s).+", 1024)
PRESENT = "*"
REGEX_OR_PRESENT = Parsed(
    lambda text: text if text == PRESENT else _expression(text),
    "a regular expression that RE2 takes, of up to 1024 characters, or '*'",
    r"(?s).+",
    1024,
)
"""`*` is no expression, but Istio's way of asking whether a header is there at all."""

# HTTP

TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - RFC 9110 calls it so
HEADER_NAME = Parsed(str.lower, "a header's name", TOKEN, 256)
HEADER_OF_GATEWAY = Text(TOKEN, "a header's name of up to 256 letters, digits and !#$%&'*+-.^_`|~", 256)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
CLAIM = r"@request\.auth\.claims(?:\.[^\[\]\s]+|(?:\[[^\[\]]+\])+)"
# What Istio looks up in fields of their own; under these names in `headers` it would look for nothing at all.
NOT_HEADERS = ("uri", "scheme", "method", "authority")


def _matched_header(text: str) -> str:
    if text.lower() in NOT_HEADERS:
        raise ValueError(text)
    return text if text.startswith("@") else text.lower()


MATCHED_HEADER = Parsed(
    _matched_header,
    "a header's name (but uri, scheme, method and authority have fields of their own), or @request.auth.claims[<claim>]",
    rf"{TOKEN}|{CLAIM}",
    1024,
)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


BYTES = Parsed(
    _decoded, "bytes in base64, up to 1 MB of them", r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", 1_400_000
)


def upper(words: tuple[str, ...]) -> Parsed:
    """One of a few words, in letters of whatever case; becomes upper case."""
    pattern = "|".join(
        "".join(f"[{letter}{letter.lower()}]" if letter.isalpha() else re.escape(letter) for letter in word) for word in words
    )
    return Parsed(str.upper, "one of " + ", ".join(words), pattern, 32)
