"""Filter state: what one listener tells the next of a connection that it hands on."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import substitution_format_string_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2 as http_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2 as network_pb2

Request, Connection = http_pb2.Config, network_pb2.Config
TEXT, ADDRESS = "envoy.string", "envoy.network.ip"
HASHED_TEXT = "envoy.hashable_string"
"""Connections whose values differ are never shared: what is in it has to be said of a connection to an endpoint."""
ORIGINAL_LOCAL, ORIGINAL_REMOTE = "envoy.filters.listener.original_dst.local_ip", "envoy.filters.listener.original_dst.remote_ip"
ORIGINAL_DESTINATION = "envoy.network.transport_socket.original_dst_address"
PEER_NAMES = "envoy.network.upstream_subject_alt_names"


def value(key: str, template: str, factory: str = "") -> Any:
    """`template` is a format string; `factory` makes the object where the key alone does not say how. It goes one hop and no further."""
    made = value_pb2.FilterStateValue(
        object_key=key,
        factory_key=factory,
        format_string=substitution_format_string_pb2.SubstitutionFormatString(),
        shared_with_upstream=value_pb2.FilterStateValue.ONCE,
    )
    made.format_string.text_format_source.inline_string = template
    return made
