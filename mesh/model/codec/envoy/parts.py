"""Small parts of Envoy's messages that every encoder needs. Only what is written here decides what bytes they become: no defaults of theirs
are relied on where ours differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, extension_pb2
from envoy.type.matcher.v3 import filter_state_pb2, metadata_pb2, regex_pb2, string_pb2, value_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2
from google.protobuf.message import Message

from mesh.model.identity import SCHEME
from mesh.model.l7.names import FILTER_STATE_PRINCIPAL
from mesh.model.l7.routes import MILLION, HeaderOps
from mesh.model.l7.texts import TextKind, TextMatch, quoted
from mesh.model.workload import IPNetwork

TYPE_PREFIX = "type.googleapis.com/"


def serialized(message: Message) -> bytes:
    """Equal messages give equal bytes."""
    return message.SerializeToString(deterministic=True)


def packed(message: Message) -> any_pb2.Any:
    return any_pb2.Any(type_url=TYPE_PREFIX + message.DESCRIPTOR.full_name, value=serialized(message))


def extension(name: str, message: Message) -> Any:
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(message))


def duration(value: timedelta | None) -> duration_pb2.Duration:
    """None is "no limit", which Envoy writes as 0."""
    found = duration_pb2.Duration()
    found.FromTimedelta(value or timedelta())
    return found


def uint32(value: int) -> wrappers_pb2.UInt32Value:
    return wrappers_pb2.UInt32Value(value=value)


def flag(value: bool) -> wrappers_pb2.BoolValue:
    return wrappers_pb2.BoolValue(value=value)


def percent(value: float) -> Any:
    return percent_pb2.Percent(value=value)


def share(value: int) -> Any:
    """Parts per million."""
    return percent_pb2.FractionalPercent(numerator=min(value, MILLION), denominator=percent_pb2.FractionalPercent.MILLION)


def runtime_share(value: int) -> Any:
    return base_pb2.RuntimeFractionalPercent(default_value=share(value))


def socket_address(host: str, port: int) -> Any:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def internal_address(listener: str, endpoint: str = "") -> Any:
    return address_pb2.Address(envoy_internal_address=address_pb2.EnvoyInternalAddress(server_listener_name=listener, endpoint_id=endpoint))


def cidr(network: IPNetwork) -> Any:
    return address_pb2.CidrRange(address_prefix=str(network.network_address), prefix_len=uint32(network.prefixlen))


def ads() -> Any:
    """From the stream that this resource came by. Waits as long as it takes: what is half there is not used."""
    source = config_source_pb2.ConfigSource(resource_api_version=config_source_pb2.ApiVersion.V3)
    source.ads.SetInParent()
    source.initial_fetch_timeout.SetInParent()
    return source


def regex(pattern: str) -> Any:
    """Envoy has no empty expression; this one takes the same."""
    return regex_pb2.RegexMatcher(regex=pattern or "(?:)")


def substitution(pattern: str, value: str) -> Any:
    return regex_pb2.RegexMatchAndSubstitute(pattern=regex(pattern), substitution=value)


def text(match: TextMatch) -> Any:
    """PRESENT is any text, also an empty one."""
    made = string_pb2.StringMatcher(ignore_case=match.ignore_case and match.kind is not TextKind.REGEX)
    match match.kind:
        case TextKind.EXACT:
            made.exact = match.value
        case TextKind.PREFIX | TextKind.SUFFIX | TextKind.CONTAINS if not match.value:
            made.safe_regex.regex = "(?s).*"
        case TextKind.PREFIX:
            made.prefix = match.value
        case TextKind.SUFFIX:
            made.suffix = match.value
        case TextKind.CONTAINS:
            made.contains = match.value
        case TextKind.REGEX:
            made.safe_regex.CopyFrom(regex(match.value))
        case TextKind.PRESENT:
            made.safe_regex.regex = "(?s).*"
    if made.HasField("safe_regex"):
        made.ignore_case = False
    return made


def added_headers(ops: HeaderOps) -> list[Any]:
    """Envoy removes first, then does these in order."""
    replace = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    append = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
    pairs = [(name, value, replace) for name, value in ops.set] + [(name, value, append) for name, value in ops.add]
    return [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value), append_action=action, keep_empty_value=value == "")
        for name, value, action in pairs
    ]


def metadata(filters: Mapping[str, Mapping[str, str | int]]) -> Any:
    made = base_pb2.Metadata()
    for name, values in filters.items():
        fields = made.filter_metadata[name].fields
        for key, value in values.items():
            if isinstance(value, str):
                fields[key].string_value = value
            else:
                fields[key].number_value = value
    return made


def metadata_matches(filter_name: str, path: Iterable[str], match: TextMatch) -> Any:
    """A text in a filter's metadata, or one of a list of texts. Not there: no match."""
    one = value_pb2.ValueMatcher(string_match=text(match))
    several = value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=one))
    return metadata_pb2.MetadataMatcher(
        filter=filter_name,
        path=[metadata_pb2.MetadataMatcher.PathSegment(key=key) for key in path],
        value=value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=[one, several])),
    )


def principal_matches(match: TextMatch) -> Any:
    """The SPIFFE URI of the peer at the other end of the tunnel, as the listener that ended it left it for us."""
    return filter_state_pb2.FilterStateMatcher(key=FILTER_STATE_PRINCIPAL, string_match=text(match))


def spiffe(domain: str = "[^/]+", namespace: str = "[^/]+", account: str = "[^/]+") -> TextMatch:
    """Identities by parts, each a regular expression."""
    return TextMatch(TextKind.REGEX, f"{SCHEME}{domain}/ns/{namespace}/sa/{account}")


def of_namespace(namespace: str) -> Any:
    return principal_matches(spiffe(namespace=quoted(namespace)))
