"""An API server in memory: objects with versions, lists in pages, watches, conflicts, compaction; and faults on request.

    cluster = FakeCluster(); cluster.serve("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies")
    cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    api = cluster.api(tmp_path)
    cluster.fail(Status(429, after=1), "list", "pods", times=2)

It is a transport of the HTTP client, so everything above that is real. What a real server does otherwise is seen in tests/cluster.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from control.kube.access import Access
from control.kube.client import Api

Object = dict[str, Any]
KUBECONFIG = json.dumps(
    {
        "clusters": [{"name": "c", "cluster": {"server": "http://fake.test"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
)
CORE = {
    "Namespace": ("", "v1", "namespaces"),
    "Node": ("", "v1", "nodes"),
    "ServiceAccount": ("", "v1", "serviceaccounts"),
    "Service": ("", "v1", "services"),
    "Pod": ("", "v1", "pods"),
    "Secret": ("", "v1", "secrets"),
    "Event": ("", "v1", "events"),
    "EndpointSlice": ("discovery.k8s.io", "v1", "endpointslices"),
    "Lease": ("coordination.k8s.io", "v1", "leases"),
}
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Status:
    """A failure instead of an answer. `after`: Retry-After."""

    code: int
    reason: str = ""
    message: str = "injected"
    after: int | None = None
    causes: tuple[str, ...] = ()
    name: str = ""
    """Of the object that it is about."""


@dataclass(frozen=True)
class Raw:
    """These bytes with 200, and then, if `cut`, a broken connection."""

    body: bytes
    cut: bool = False


@dataclass(frozen=True)
class Page:
    """A failure that is no API server's: by default with nothing in it, and nothing said of what that is."""

    code: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Broken:
    """No connection."""


class Hang:
    """An answer that begins and never says anything."""


Fault = Status | Raw | Page | Broken | Hang


@dataclass
class Rule:
    fault: Fault
    verb: str
    resource: str
    times: int | None
    hits: int = 0

    def meets(self, call: Call) -> bool:
        left = self.times is None or self.hits < self.times
        return left and self.verb in ("", call.verb) and self.resource in ("", call.resource)


@dataclass
class Call:
    verb: str
    resource: str
    namespace: str
    name: str
    query: Mapping[str, str]
    body: Any = None
    content_type: str = ""


@dataclass
class Resource:
    group: str
    version: str
    kind: str
    plural: str
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


class FakeCluster(httpx2.AsyncBaseTransport):
    def __init__(self) -> None:
        self.version = 100
        self.calls: list[Call] = []
        self.review: Callable[[str, list[str]], Object] = lambda token, audiences: {"authenticated": False}
        self.pages: dict[str, Any] = {}  # what GETs of other paths are answered with
        self.crds: dict[str, Object] = {}
        self.authorize: Callable[[str], bool] = lambda credential: True
        self.meanwhile: Callable[[Call], None] = lambda call: None
        """What others do after a request has come and before it is answered."""
        self._compacted = 0
        self._history: list[tuple[int, str, str, Object]] = []
        self._resources: dict[str, Resource] = {}
        self._rules: list[Rule] = []
        self._changed = asyncio.Event()
        self._streams: set[_Watch] = set()
        self._lists: dict[str, tuple[int, list[Object]]] = {}
        for kind, (group, version, plural) in CORE.items():
            self._resources[f"{plural}.{group}" if group else plural] = Resource(group, version, kind, plural)

    def api(self, directory: Path) -> Api:
        path = directory / "kubeconfig"
        path.write_text(KUBECONFIG)
        return Api(Access(path), self)

    # What a test does to it

    def serve(self, group: str, version: str, kind: str, plural: str) -> None:
        """A CRD, or another version of one: the objects are the same."""
        name = f"{plural}.{group}"
        self.define(name, version)
        known = self._resources.get(name)
        self._resources[name] = Resource(group, version, kind, plural, known.objects if known is not None else {})

    def define(self, name: str, *versions: str, established: bool = True) -> None:
        """A CRD alone: discovery does not name what it defines."""
        conditions = [{"type": "Established", "status": str(established)}]
        spec = {"versions": [{"name": version, "served": True} for version in versions]}
        self.crds[name] = {"metadata": {"name": name}, "spec": spec, "status": {"conditions": conditions}}

    def withdraw(self, name: str, crd: bool = True) -> None:
        """Not served any more; with `crd`, because its CRD is gone, and its objects with it."""
        if crd:
            for key in list(self._resources[name].objects):
                self.delete(self._resources[name].kind, *key)
            self.crds.pop(name, None)
        del self._resources[name]

    def put(self, value: Object) -> Object:
        """Make or replace an object, as somebody else's client."""
        resource = self._of_kind(value["kind"], value.get("apiVersion", "v1"))
        metadata = value["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        old = resource.objects.get(key)
        self.version += 1
        made = copy.deepcopy(value)
        made["metadata"].setdefault("uid", old["metadata"]["uid"] if old else f"uid-{self.version}")
        generation = old["metadata"]["generation"] + (old.get("spec") != made.get("spec")) if old else 1
        made["metadata"].setdefault("generation", generation)
        made["metadata"]["resourceVersion"] = str(self.version)
        if old is not None and "status" in old:
            made.setdefault("status", old["status"])
        resource.objects[key] = made
        self._record("MODIFIED" if old else "ADDED", resource, made)
        return made

    def delete(self, kind: str, namespace: str, name: str) -> None:
        resource = next(one for one in self._resources.values() if one.kind == kind and (namespace, name) in one.objects)
        gone = resource.objects.pop((namespace, name))
        self.version += 1
        self._record("DELETED", resource, {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}})

    def get(self, kind: str, namespace: str, name: str) -> Object:
        return next(
            one.objects[namespace, name] for one in self._resources.values() if one.kind == kind and (namespace, name) in one.objects
        )

    def all(self, kind: str) -> list[Object]:
        return [value for one in self._resources.values() if one.kind == kind for value in one.objects.values()]

    def compact(self) -> None:
        """Whoever is not watching now has to list anew."""
        self.version += 1
        self._compacted = self.version
        self._history.clear()

    def set_back(self, version: int) -> None:
        """As etcd restored from a backup: versions begin anew lower."""
        self.version, self._compacted = version, 0
        self._history.clear()
        for resource in self._resources.values():
            for value in resource.objects.values():
                value["metadata"]["resourceVersion"] = str(version)

    def cut(self) -> None:
        """Every watch breaks."""
        for stream in list(self._streams):
            stream.broken = True
        self._notify()

    def fail(self, fault: Fault, verb: str = "", resource: str = "", times: int | None = None) -> Rule:
        rule = Rule(fault, verb, resource, times)
        self._rules.append(rule)
        return rule

    def heal(self) -> None:
        self._rules.clear()

    def seen(self, verb: str = "", resource: str = "") -> list[Call]:
        return [call for call in self.calls if verb in ("", call.verb) and resource in ("", call.resource)]

    @property
    def watches(self) -> int:
        return len(self._streams)

    # What it does

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        query = dict(request.url.params)
        call = self._call(request, query)
        self.calls.append(call)
        rule = next((one for one in self._rules if one.meets(call)), None)
        if rule is not None:
            rule.hits += 1
            return await self._broken(rule.fault, request)
        await asyncio.sleep(0)
        if not self.authorize(request.headers.get("authorization", "")):
            return await self._broken(Status(401, "Unauthorized"), request)
        self.meanwhile(call)
        try:
            status, body = self._answer(call, request)
        except _RefusedError as error:
            status, body = error.status.code, _status(error.status)
        stream = body if isinstance(body, httpx2.AsyncByteStream) else _Bytes(json.dumps(body).encode())
        return httpx2.Response(status, stream=stream, headers={"Content-Type": "application/json"})

    async def _broken(self, fault: Fault, request: httpx2.Request) -> httpx2.Response:
        if isinstance(fault, Broken):
            raise httpx2.ConnectError("connection refused", request=request)
        if isinstance(fault, Status):
            headers = {"Retry-After": str(fault.after)} if fault.after is not None else {}
            stream = _Bytes(json.dumps(_status(fault)).encode())
            return httpx2.Response(fault.code, stream=stream, headers={"Content-Type": "application/json", **headers})
        if isinstance(fault, Page):
            return httpx2.Response(fault.code, stream=_Bytes(fault.body), headers=dict(fault.headers))
        if isinstance(fault, Hang):
            return httpx2.Response(200, stream=_Hanging())
        return httpx2.Response(200, stream=_Bytes(fault.body, fault.cut))

    def _call(self, request: httpx2.Request, query: Mapping[str, str]) -> Call:
        parts = request.url.path.strip("/").split("/")
        verb = VERBS[request.method]
        if parts[0] not in ("api", "apis") or len(parts) < 3:
            return Call(verb, request.url.path, "", "", query)
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        resource = f"{rest[0]}.{group}" if group else rest[0]
        name = rest[1] if len(rest) > 1 else ""
        if len(rest) > 2:
            resource += f"/{rest[2]}"
        if verb == "get" and not name:
            verb = "watch" if query.get("watch") else "list"
        body = json.loads(request.content) if request.method != "GET" and request.content else None
        return Call(verb, resource, namespace, name, query, body, request.headers.get("content-type", ""))

    def _answer(self, call: Call, request: httpx2.Request) -> tuple[int, Any]:
        if call.resource == "/apis":
            return 200, self._discovery()
        if call.resource in self.pages:
            return 200, self.pages[call.resource]
        if call.resource == "customresourcedefinitions.apiextensions.k8s.io":
            if call.name not in self.crds:
                raise _RefusedError(Status(404, "NotFound", f"no {call.name}", name=call.name))
            return 200, self.crds[call.name]
        if call.resource == "tokenreviews.authentication.k8s.io":
            spec = call.body["spec"]
            return 201, {"metadata": {}, "spec": {"token": ""}, "status": self.review(spec["token"], spec.get("audiences", []))}
        resource = self._resources.get(call.resource.partition("/")[0])
        version = request.url.path.strip("/").split("/")[1 if not resource or not resource.group else 2]
        if resource is None or version != resource.version:
            raise _RefusedError(Status(404, "", "404 page not found"))
        return getattr(self, f"_{call.verb}")(resource, call)  # type: ignore[no-any-return]

    def _list(self, resource: Resource, call: Call) -> tuple[int, Any]:
        token = call.query.get("continue", "")
        if token:
            if token.partition("/")[0] not in self._lists:
                raise _RefusedError(Status(410, "Expired", "The provided continue parameter is too old"))
            version, items = self._lists[token.partition("/")[0]]
            start = int(token.partition("/")[2])
        else:
            version, items, start = self.version, [copy.deepcopy(value) for value in resource.objects.values()], 0
            token = f"{resource.name}@{version}/0"
            self._lists[token.partition("/")[0]] = (version, items)
        end = start + int(call.query.get("limit") or len(items) or 1)
        more = f"{token.partition('/')[0]}/{end}" if end < len(items) else ""
        return 200, {
            "kind": f"{resource.kind}List",
            "metadata": {"resourceVersion": str(version), "continue": more},
            "items": items[start:end],
        }

    def expire_continue_tokens(self) -> None:
        self._lists.clear()

    def _watch(self, resource: Resource, call: Call) -> tuple[int, Any]:
        since = int(call.query["resourceVersion"])
        if since < self._compacted:
            return 200, _Bytes(_line("ERROR", _status(Status(410, "Expired", f"too old resource version: {since} ({self._compacted})"))))
        if since > self.version:
            raise _RefusedError(
                Status(504, "Timeout", f"Too large resource version: {since}, current: {self.version}", causes=("ResourceVersionTooLarge",))
            )
        stream = _Watch(self, resource.name, since, float(call.query["timeoutSeconds"]))
        return 200, stream

    def bookmark(self) -> None:
        """Say to every watch how far it is."""
        self.version += 1
        for name in list(self._resources):
            self._history.append((self.version, name, "BOOKMARK", {"kind": "Bookmark", "metadata": {"resourceVersion": str(self.version)}}))
        self._notify()

    def send(self, resource: str, type_: str, value: Object) -> None:
        """An event that the server would not send."""
        for stream in self._streams:
            if stream.resource == resource:
                stream.extra.append(_line(type_, value))
        self._notify()

    def _get(self, resource: Resource, call: Call) -> tuple[int, Any]:
        return 200, self._existing(resource, call)

    def _create(self, resource: Resource, call: Call) -> tuple[int, Any]:
        name = call.body["metadata"]["name"]
        if (call.namespace, name) in resource.objects:
            raise _RefusedError(Status(409, "AlreadyExists", f"{resource.plural} {name!r} already exists"))
        call.name = name
        metadata = {**call.body["metadata"], "namespace": call.namespace}
        return 201, self.put({**call.body, "kind": resource.kind, "apiVersion": _api_version(resource), "metadata": metadata})

    def _update(self, resource: Resource, call: Call) -> tuple[int, Any]:
        old = self._existing(resource, call)
        self._compare(old, call.body)
        metadata = {**call.body["metadata"], "uid": old["metadata"]["uid"]}
        return 200, self.put({**call.body, "kind": resource.kind, "apiVersion": _api_version(resource), "metadata": metadata})

    def _patch(self, resource: Resource, call: Call) -> tuple[int, Any]:
        old = self._existing(resource, call)
        self._compare(old, call.body)
        patch = {"status": call.body.get("status")} if call.resource.endswith("/status") else call.body
        if call.content_type == "application/strategic-merge-patch+json":
            return 200, self.put(_merge(old, _by_name(old, patch)))
        return 200, self.put(_merge(old, patch))

    def _existing(self, resource: Resource, call: Call) -> Object:
        found = resource.objects.get((call.namespace, call.name))
        if found is None:
            raise _RefusedError(Status(404, "NotFound", f"{resource.plural} {call.name!r} not found", name=call.name))
        return found

    def _compare(self, old: Object, body: Object) -> None:
        metadata = body.get("metadata", {})
        for name in ("resourceVersion", "uid"):
            if metadata.get(name) and metadata[name] != old["metadata"][name]:
                raise _RefusedError(Status(409, "Conflict", "the object has been modified"))

    def _discovery(self) -> Object:
        groups: dict[str, Object] = {}
        for one in self._resources.values():
            if one.group:
                versions = groups.setdefault(one.group, {"metadata": {"name": one.group}, "versions": []})["versions"]
                kind = {"group": one.group, "version": one.version, "kind": one.kind}
                verbs = ["get", "list", "watch"]
                versions.append({"version": one.version, "resources": [{"resource": one.plural, "responseKind": kind, "verbs": verbs}]})
        return {"kind": "APIGroupDiscoveryList", "items": list(groups.values())}

    def _of_kind(self, kind: str, api_version: str) -> Resource:
        group = api_version.rpartition("/")[0]
        return next(one for one in self._resources.values() if (one.kind, one.group) == (kind, group))

    def _record(self, type_: str, resource: Resource, value: Object) -> None:
        self._history.append((self.version, resource.name, type_, value))
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def events(self, watch: _Watch) -> AsyncIterator[bytes]:
        deadline = asyncio.get_running_loop().time() + watch.seconds
        try:
            self._streams.add(watch)
            while True:
                changed = self._changed
                if watch.broken:
                    raise httpx2.ReadError("connection reset")
                lines = [
                    _line(type_, value) for version, name, type_, value in self._history if name == watch.resource and version > watch.since
                ]
                watch.since = max([watch.since, *(version for version, _, _, _ in self._history)])
                lines, watch.extra = lines + watch.extra, []
                if lines:
                    yield b"".join(lines)
                try:
                    async with asyncio.timeout_at(deadline):
                        await changed.wait()
                except TimeoutError:
                    return
        finally:
            self._streams.discard(watch)


class _RefusedError(Exception):
    def __init__(self, status: Status) -> None:
        self.status = status


class _Watch(httpx2.AsyncByteStream):
    def __init__(self, cluster: FakeCluster, resource: str, since: int, seconds: float) -> None:
        self.resource, self.since, self.seconds = resource, since, seconds
        self.broken = False
        self.extra: list[bytes] = []
        self._cluster = cluster

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._cluster.events(self)


class _Bytes(httpx2.AsyncByteStream):
    def __init__(self, body: bytes, cut: bool = False) -> None:
        self._body, self._cut = body, cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body
        if self._cut:
            raise httpx2.ReadError("connection reset")


class _Hanging(httpx2.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""


def _key(value: Object) -> tuple[str, str]:
    return value["metadata"].get("namespace", ""), value["metadata"]["name"]


def _line(type_: str, value: Object) -> bytes:
    return json.dumps({"type": type_, "object": value}).encode() + b"\n"


def _api_version(resource: Resource) -> str:
    return f"{resource.group}/{resource.version}" if resource.group else resource.version


def _status(status: Status) -> Object:
    details = {"name": status.name, "causes": [{"reason": cause} for cause in status.causes]}
    return {"kind": "Status", "code": status.code, "reason": status.reason, "message": status.message, "details": details}


def _by_name(old: Object, patch: Object) -> Object:
    """A strategic merge patch as a merge patch: of what strategies there are, lists that are merged by their items' names."""
    lists = {}
    for field_name, items in patch.items():
        if isinstance(items, list):
            patched = {item["name"]: item for item in items}
            lists[field_name] = [_merge(item, patched.get(item["name"], {})) for item in old.get(field_name, [])]
    return {**patch, **lists}


def _merge(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged
