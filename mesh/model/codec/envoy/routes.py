"""Route tables → RouteConfiguration, for Envoy. What proxyless gRPC reads of the same message is written in `grpc`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as pb
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.common.fault.v3 import fault_pb2 as common_fault_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2

from mesh.model.codec.envoy import parts
from mesh.model.l7.names import parse_cluster_name
from mesh.model.l7.routes import (
    MILLION,
    NO_OPS,
    Cors,
    Destination,
    Fault,
    Forward,
    Hash,
    HashKind,
    HeaderMatch,
    HeaderOps,
    Mirror,
    PathKind,
    PathMatch,
    PathRewrite,
    Redirect,
    Respond,
    Retry,
    RewriteKind,
    Route,
    RouteMatch,
    RouteTable,
    VirtualHost,
)
from mesh.model.l7.texts import TextKind, quoted

CORS_FILTER, FAULT_FILTER = "envoy.filters.http.cors", "envoy.filters.http.fault"
JWT_FILTER, JWT_PAYLOAD = "envoy.filters.http.jwt_authn", "payload"
PREVIOUS_HOSTS = "envoy.retry_host_predicates.previous_hosts"
PREVIOUS_PRIORITIES = "envoy.retry_priorities.previous_priorities"
MAX_DIRECT_BODY = 1 << 20
MAX_BACKOFF_FACTOR = 10
MISSING = {
    404: pb.RouteAction.NOT_FOUND,
    500: pb.RouteAction.INTERNAL_SERVER_ERROR,
    503: pb.RouteAction.SERVICE_UNAVAILABLE,
}
REDIRECTS = {
    301: pb.RedirectAction.MOVED_PERMANENTLY,
    302: pb.RedirectAction.FOUND,
    303: pb.RedirectAction.SEE_OTHER,
    307: pb.RedirectAction.TEMPORARY_REDIRECT,
    308: pb.RedirectAction.PERMANENT_REDIRECT,
}


def route_table(table: RouteTable) -> Any:
    """Clusters that a route names need not exist: its own status answers then."""
    made = route_pb2.RouteConfiguration(
        name=table.name,
        virtual_hosts=[virtual_host(host) for host in table.hosts],
        max_direct_response_body_size_bytes=parts.uint32(MAX_DIRECT_BODY),
    )
    made.validate_clusters.value = False
    return made


def virtual_host(host: VirtualHost) -> Any:
    return pb.VirtualHost(
        name=host.name, domains=host.domains, routes=[route(entry) for entry in host.routes], include_request_attempt_count=True
    )


def route(entry: Route) -> Any:
    entry = _with_ops_in_one_place(entry)
    made = pb.Route(name=entry.name, match=route_match(entry.match))
    _header_ops(made, entry.request, entry.response)
    match entry.action:
        case Forward():
            made.route.CopyFrom(_forward(entry.action, entry.match.path))
            operation = _operation(entry.action)
            if operation:
                made.decorator.operation = operation
        case Redirect():
            made.redirect.CopyFrom(_redirect(entry.action, entry.match.path))
        case Respond():
            made.direct_response.status = entry.action.status
            if entry.action.body:
                made.direct_response.body.inline_bytes = entry.action.body
    if entry.cors is not None:
        made.typed_per_filter_config[CORS_FILTER].CopyFrom(parts.packed(_cors(entry.cors)))
    if entry.fault is not None:
        made.typed_per_filter_config[FAULT_FILTER].CopyFrom(parts.packed(fault(entry.fault)))
    return made


def _with_ops_in_one_place(entry: Route) -> Route:
    """Envoy does a destination's header ops before its route's, whose come first. So where there are both, each destination gets both."""
    action = entry.action
    if not isinstance(action, Forward) or all(one.request == one.response == NO_OPS for one in action.destinations):
        return entry
    destinations = tuple(
        replace(one, request=_then(entry.request, one.request), response=_then(entry.response, one.response)) for one in action.destinations
    )
    return replace(entry, action=replace(action, destinations=destinations), request=NO_OPS, response=NO_OPS)


def _then(first: HeaderOps, second: HeaderOps) -> HeaderOps:
    """One after the other, as ops that are done at once."""
    gone = {name.lower() for name in (*second.remove, *(name for name, _ in second.set))}
    return HeaderOps(
        set=(*(pair for pair in first.set if pair[0].lower() not in gone), *second.set),
        add=(*(pair for pair in first.add if pair[0].lower() not in gone), *second.add),
        remove=(*first.remove, *second.remove),
    )


def _header_ops(made: Any, request: HeaderOps, response: HeaderOps) -> None:
    """Into a Route or one of its weighted clusters."""
    made.request_headers_to_add.extend(parts.added_headers(request))
    made.request_headers_to_remove.extend(request.remove)
    made.response_headers_to_add.extend(parts.added_headers(response))
    made.response_headers_to_remove.extend(response.remove)


def route_match(match: RouteMatch) -> Any:
    made = pb.RouteMatch()
    path = match.path
    match path.kind:
        case PathKind.EXACT:
            made.path = path.value
        case PathKind.PREFIX:
            made.prefix = path.value
        case PathKind.SEGMENTS:
            made.path_separated_prefix = path.value
        case PathKind.REGEX:
            made.safe_regex.CopyFrom(parts.regex(path.value))
    if path.ignore_case and path.kind is not PathKind.REGEX:
        made.case_sensitive.value = False
    made.headers.extend(header_match(entry) for entry in match.headers)
    for query in match.query:
        if query.text.kind is TextKind.PRESENT:
            made.query_parameters.add(name=query.name, present_match=True)
        else:
            made.query_parameters.add(name=query.name, string_match=parts.text(query.text))
    for claim in match.claims:
        found = made.dynamic_metadata.add()
        found.CopyFrom(parts.metadata_matches(JWT_FILTER, (JWT_PAYLOAD, *claim.path), claim.text))
        found.invert = claim.negated
    if match.source_namespace:
        made.filter_state.append(parts.of_namespace(match.source_namespace))
    return made


def header_match(entry: HeaderMatch) -> Any:
    made = pb.HeaderMatcher(name=entry.name, invert_match=entry.negated)
    if entry.text.kind is TextKind.PRESENT:
        made.present_match = True
    else:
        made.string_match.CopyFrom(parts.text(entry.text))
        made.treat_missing_header_as_empty = entry.negated
    return made


def _forward(action: Forward, path: PathMatch) -> Any:
    made = pb.RouteAction(
        # Not max_stream_duration beside it: Envoy then ignores this one. A gRPC client's own deadline is kept by both of its ends.
        timeout=parts.duration(action.timeout),
        cluster_not_found_response_code=MISSING[action.missing_status],
        request_mirror_policies=[_mirror(entry) for entry in action.mirrors],
        hash_policy=[hash_policy(entry) for entry in action.hashes],
    )
    only = action.destinations[0] if len(action.destinations) == 1 else None
    if only is not None and only == Destination(only.cluster, only.weight):
        made.cluster = only.cluster
    else:
        made.weighted_clusters.clusters.extend(_weighted(entry) for entry in action.destinations)
    if action.authority:
        made.host_rewrite_literal = action.authority
    if action.retry is not None and action.retry.attempts:
        made.retry_policy.CopyFrom(retry_policy(action.retry))
    if action.path is not None:
        _rewrite(made, action.path, path)
    return made


def _weighted(entry: Destination) -> Any:
    made = pb.WeightedCluster.ClusterWeight(
        name=entry.cluster, weight=parts.uint32(entry.weight), host_rewrite_literal=entry.authority or None
    )
    _header_ops(made, entry.request, entry.response)
    return made


def _operation(action: Forward) -> str:
    """What spans of the route are called."""
    named = parse_cluster_name(action.destinations[0].cluster)
    return f"{named.host}:{named.port}/*" if named is not None else ""


def _mirror(entry: Mirror) -> Any:
    made = pb.RouteAction.RequestMirrorPolicy(
        cluster=entry.cluster, runtime_fraction=parts.runtime_share(entry.share), disable_shadow_host_suffix_append=True
    )
    made.trace_sampled.value = False
    return made


def retry_policy(retry: Retry) -> Any:
    made = pb.RetryPolicy(retry_on=",".join(retry.on), num_retries=parts.uint32(retry.attempts), retriable_status_codes=retry.codes)
    if retry.per_try is not None:
        made.per_try_timeout.CopyFrom(parts.duration(retry.per_try))
    if retry.backoff is not None:
        made.retry_back_off.base_interval.CopyFrom(parts.duration(retry.backoff))
        made.retry_back_off.max_interval.CopyFrom(parts.duration(retry.backoff * MAX_BACKOFF_FACTOR))
    if retry.elsewhere:
        made.host_selection_retry_max_attempts = retry.reselect
        made.retry_host_predicate.add(name=PREVIOUS_HOSTS, typed_config=parts.packed(previous_hosts_pb2.PreviousHostsPredicate()))
    if retry.spread:
        made.retry_priority.name = PREVIOUS_PRIORITIES
        config = previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=2)
        made.retry_priority.typed_config.CopyFrom(parts.packed(config))
    return made


def hash_policy(entry: Hash) -> Any:
    made = pb.RouteAction.HashPolicy()
    match entry.kind:
        case HashKind.HEADER:
            made.header.header_name = entry.name
        case HashKind.COOKIE:
            made.cookie.name = entry.name
            made.cookie.path = entry.path
            if entry.ttl is not None:
                made.cookie.ttl.CopyFrom(parts.duration(entry.ttl))
            for name, value in entry.attributes:
                made.cookie.attributes.add(name=name, value=value)
        case HashKind.SOURCE_IP:
            made.connection_properties.source_ip = True
        case HashKind.QUERY:
            made.query_parameter.name = entry.name
    return made


def _rewrite(made: Any, rewrite: PathRewrite, match: PathMatch) -> None:
    """Into a RouteAction or a RedirectAction, which call the same things by the same names."""
    match rewrite.kind:
        case RewriteKind.PREFIX:
            made.prefix_rewrite = rewrite.value
        case RewriteKind.FULL if match.kind is PathKind.EXACT:
            made.prefix_rewrite = rewrite.value
        case RewriteKind.FULL:
            made.regex_rewrite.CopyFrom(parts.substitution("^/.*$", _literal(rewrite.value)))
        case RewriteKind.REGEX:
            made.regex_rewrite.CopyFrom(parts.substitution(rewrite.pattern, rewrite.value))
        case RewriteKind.SEGMENTS:
            matched, value = match.value.rstrip("/"), rewrite.value.rstrip("/")
            if matched and value:
                made.prefix_rewrite = value
            else:
                # Envoy swaps text: an empty side would leave two slashes, or none.
                case = "(?i)" if match.ignore_case else ""
                made.regex_rewrite.CopyFrom(parts.substitution(f"{case}^{quoted(matched)}/?(.*)$", _literal(value) + r"/\1"))


def _literal(value: str) -> str:
    """As it stands in a substitution, where a backslash begins a reference."""
    return value.replace("\\", "\\\\")


def _redirect(action: Redirect, path: PathMatch) -> Any:
    made = pb.RedirectAction(
        scheme_redirect=action.scheme or None,
        host_redirect=action.authority,
        port_redirect=action.port or 0,
        response_code=REDIRECTS[action.status],
    )
    if action.path is None:
        return made
    if action.path.kind is RewriteKind.FULL:
        made.path_redirect = action.path.value
    else:
        _rewrite(made, action.path, path)
    return made


def _cors(cors: Cors) -> Any:
    return cors_pb2.CorsPolicy(
        allow_origin_string_match=[parts.text(entry) for entry in cors.origins],
        allow_methods=",".join(cors.methods),
        allow_headers=",".join(cors.headers),
        expose_headers=",".join(cors.expose),
        max_age=str(int(cors.max_age.total_seconds())) if cors.max_age is not None else "",
        allow_credentials=parts.flag(cors.credentials),
        forward_not_matching_preflights=parts.flag(cors.forward_unmatched),
        filter_enabled=parts.runtime_share(MILLION),
    )


def fault(entry: Fault) -> Any:
    made = fault_pb2.HTTPFault()
    if entry.delay is not None and entry.delay > timedelta():
        delay = common_fault_pb2.FaultDelay(fixed_delay=parts.duration(entry.delay), percentage=parts.share(entry.delay_share))
        made.delay.CopyFrom(delay)
    if entry.abort_status is not None:
        made.abort.http_status = entry.abort_status
        made.abort.percentage.CopyFrom(parts.share(entry.abort_share))
    elif entry.abort_grpc is not None:
        made.abort.grpc_status = entry.abort_grpc
        made.abort.percentage.CopyFrom(parts.share(entry.abort_share))
    return made


def joined(tables: Iterable[Any], name: str) -> Any:
    """One RouteConfiguration of the virtual hosts of several that are encoded already."""
    made = route_table(RouteTable(name, ()))
    for table in tables:
        made.virtual_hosts.extend(table.virtual_hosts)
    return made
