"""The programs at work: loaded or adopted, their maps written, namespaces enrolled. This is what the agent calls.

Life of a namespace, each step idempotent and safe in the presence of traffic:
    prepare   its addresses are known; the tunnel's deliveries work; nothing is captured or steered yet
    enrol     inbound is steered to the tunnel, outbound captured (call it once the tunnel has acknowledged, so listeners are there)
    release   nothing new is captured or steered; what the tunnel carries goes on
    unenrol   nothing is left

Adoption. All maps and links are pinned (`pins`). A new process takes the pinned maps over, loads its programs onto them with the mark
from the pinned config, and exchanges each link's program atomically: there is no moment without programs. Whatever happens to this
process, kernel state stays and enforces.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
from collections.abc import Iterable
from ctypes import c_uint32, c_uint64

from agent.bpf import abi, cgroups, libbpf
from agent.bpf.events import EventRing, KernelEvent
from agent.bpf.libbpf import check, library
from agent.bpf.links import Link
from agent.bpf.maps import Layout, Map, PerCpuCounters
from agent.bpf.objects import Loaded, ObjectFile, Program
from agent.bpf.pins import DEFAULT_ROOT, REMEDY, AdoptionError, Pins, remove_link
from agent.bpf.probe import ADOPTER, OBJECT, adopts_listeners
from mesh.io.log import Log
from mesh.io.netns import Namespace
from mesh.model.errors import BugError, CulvertError
from mesh.model.workload import IPAddress

STEERER = "cvt_sk_lookup"
log = Log("bpf")


class AddressTakenError(CulvertError):
    """A namespace has an address that is another one's. The text is for `pending: why`."""


class Programs:
    """One instance's programs, maps and links. Made by `load_or_adopt`; `close` leaves everything at work in the kernel."""

    def __init__(self, pins: Pins, loaded: Loaded, mark: int) -> None:
        self._pins = pins
        self._programs = loaded.programs
        fds = loaded.maps
        self._fds = fds
        self._pods = Map("cvt_pods", fds["cvt_pods"], c_uint64, abi.Pod)
        self._addresses = Map("cvt_addresses", fds["cvt_addresses"], abi.Addr, abi.Home)
        self._listeners = Map("cvt_listeners", fds["cvt_listeners"], abi.Listener, c_uint64)
        self._counters = PerCpuCounters("cvt_counters", fds["cvt_counters"])
        self._events = EventRing(fds["cvt_events"])
        self._mark = mark
        self._leaving: set[int] = set()  # released and not yet unenrolled: their addresses may be taken over
        self._link_local: dict[int, set[IPAddress]] = {}  # by cookie: what the namespace has, registered or not
        for address, home in self._addresses.items():
            if address.ip.is_link_local:
                self._link_local.setdefault(home.netns, set()).add(address.ip)

    @classmethod
    def load_or_adopt(
        cls, instance: str, bpffs_root: str = DEFAULT_ROOT, cgroup_path: str | None = None, node_cookie: int = 0, object_path: str = OBJECT
    ) -> Programs:
        """Load the programs of `instance`, taking over what an earlier agent left pinned.

        `cgroup_path` is the cgroup2 root (found or mounted where None). `node_cookie` is the cookie of the node's own network namespace,
        whose processes may probe pods directly; 0: nobody may. Raises AdoptionError (pins of another layout: nothing was changed),
        BusyError (the instance has a living agent), BpfError (the kernel refused; its log inside), OSError, ValueError.
        """
        pins = Pins(bpffs_root, instance)
        try:
            mark = _pinned_mark(pins) or _new_mark()
            loaded = _load(pins, object_path, abi.Constants(node_netns=node_cookie, mark=mark))
            config: Map[c_uint32, abi.Config] = Map("cvt_config", loaded.maps["cvt_config"], c_uint32, abi.Config)
            config.put(c_uint32(0), abi.Config(abi_version=abi.ABI_VERSION, mark=mark, node_netns=node_cookie))
            programs = cls(pins, loaded, mark)
            programs._attach(cgroup_path)
        except BaseException:
            pins.close()
            raise
        return programs

    @property
    def mark(self) -> int:
        """SO_MARK of every socket of the tunnel: a secret above the low 12 bits 0x539. Kept as long as the pins exist."""
        return self._mark

    @property
    def event_fd(self) -> int:
        """Readable when `drain_events` has something."""
        return self._events.fd

    def drain_events(self) -> list[KernelEvent]:
        """The refusals since the last call, rate-bounded by the kernel (20 per reason, CPU and second)."""
        return self._events.drain()

    def prepare(self, cookie: int, addresses: Iterable[IPAddress]) -> None:
        """Make a namespace known: its addresses, and the tunnel's right to deliver to them. Keeps the capture flag as it is.

        An address belongs to one namespace (docs/decisions/0009). Raises AddressTakenError where one is that of another that has not been
        released; nothing new is registered then. A link-local address that two have is registered for neither: inbound to it is refused.
        """
        known = self._pods.get(c_uint64(cookie))
        self._put_pod(cookie, list(addresses), known.flags if known else 0)

    def enrol(self, cookie: int, netns_fd: int, addresses: Iterable[IPAddress]) -> None:
        """Steer the namespace's inbound TCP to the tunnel and capture its outbound TCP. Idempotent; also updates the addresses.

        Inbound comes first: a pod is never captured while it is still open from outside. Raises BpfError, AddressTakenError.
        """
        wanted = list(addresses)
        self.prepare(cookie, wanted)
        self._steer(cookie, netns_fd)
        self._put_pod(cookie, wanted, abi.POD_CAPTURE)

    def release(self, cookie: int) -> None:
        """Stop capturing and steering; the tunnel may still deliver what it carries, until another namespace claims the address."""
        self._leaving.add(cookie)
        pod = self._pods.get(c_uint64(cookie))
        if pod is not None:
            pod.flags = 0
            self._pods.put(c_uint64(cookie), pod)
        remove_link(self._pins.steer_path(cookie))

    def unenrol(self, cookie: int) -> None:
        """Forget the namespace: the exact inverse of `enrol`. Works after the namespace is gone, too."""
        self.release(cookie)
        self._pods.discard(c_uint64(cookie))
        self._drop_addresses(cookie, keep=set())
        self._leaving.discard(cookie)
        for ip in self._link_local.pop(cookie, set()):
            self._settle(ip)

    def enrolled(self) -> dict[int, list[IPAddress]]:
        """Cookie -> addresses of every namespace that is captured, in this process's time or before it."""
        found: dict[int, list[IPAddress]] = {cookie.value: [] for cookie, pod in self._pods.items() if pod.flags & abi.POD_CAPTURE}
        for address, home in self._addresses.items():
            if home.netns in found:
                found[home.netns].append(address.ip)
        return found

    def adopt_listeners(self, netns: Namespace) -> bool:
        """Register the tunnel's plaintext listener of that namespace if it got its mark only after listen(2). True if there is one now.

        Listeners that were marked before listen(2) are registered by the kernel itself. On kernels before 6.5 only those are.
        """
        if (adopter := self._programs.get(ADOPTER)) is not None:
            netns.run(lambda: _run_iterator(adopter))
        return self.has_listener(netns.cookie)

    def has_listener(self, cookie: int) -> bool:
        """Whether inbound plaintext of this namespace has a listener to go to."""
        families = (socket.AF_INET, socket.AF_INET6)
        return any(self._listeners.get(abi.Listener(netns=cookie, family=family)) is not None for family in families)

    def counters(self) -> dict[str, int]:
        """Every counter since the maps were made, by its word: `captured`, `steered`, `kernel_no_listener`, …"""
        return {counter.word: self._counters.get(counter) for counter in abi.Counter}

    def map_fd(self, name: str) -> int:
        """A map's descriptor, for those who look on: `culvert` commands and tests. It stays ours."""
        return self._fds[name]

    def close(self) -> None:
        """Let go of the descriptors and of the instance's lock. Pins stay: capture and steering go on."""
        self._events.close()
        for fd in (*self._fds.values(), *(program.fd for program in self._programs.values())):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds, self._programs = {}, {}
        self._pins.close()

    def _attach(self, cgroup_path: str | None) -> None:
        """Exchange the programs of all links, make the missing ones, and remove what is stale."""
        hooks = {name: program for name, program in self._programs.items() if name not in (STEERER, ADOPTER)}
        root = cgroups.open_root(cgroup_path)
        try:
            for name, program in hooks.items():
                _attach_one(self._pins.link_path(name), program, root)
        finally:
            os.close(root)
        self._pins.drop_unknown(set(self._fds), set(hooks))
        for cookie in self._pins.steered():
            self._adopt_steering(cookie)
        self._forget_unfinished()

    def _adopt_steering(self, cookie: int) -> None:
        path = self._pins.steer_path(cookie)
        with Link.pinned(path) as link:
            if link.info().target != 0:
                link.update(self._programs[STEERER].fd)
                return
        self.unenrol(cookie)  # the namespace went away while no agent looked

    def _forget_unfinished(self) -> None:
        """What an agent left that died in the middle of `enrol` or `unenrol`: the namespace is not steered, so it is not in the mesh."""
        steered = set(self._pins.steered())
        known = {cookie.value for cookie, _ in self._pods.items()} | {home.netns for _, home in self._addresses.items()}
        for cookie in known - steered:
            self.unenrol(cookie)

    def _steer(self, cookie: int, netns_fd: int) -> None:
        steerer, path = self._programs[STEERER], self._pins.steer_path(cookie)
        if cookie in self._pins.steered():
            with Link.pinned(path) as link:
                if link.info().target != 0:
                    return
            remove_link(path)
        with Link.create(steerer.fd, netns_fd, steerer.attach_type) as link:
            link.pin(path)

    def _put_pod(self, cookie: int, addresses: list[IPAddress], flags: int) -> None:
        pod = abi.Pod(flags=flags)
        for ip in reversed(addresses):  # the first of each family wins
            if ip.version == 4:
                pod.own4 = abi.Addr.of(ip)
            else:
                pod.own6 = abi.Addr.of(ip)
        keys = {key.ip: key for key in map(abi.Addr.of, addresses)}  # a mapped address is its IPv4 address
        self._leaving.discard(cookie)
        self._drop_addresses(cookie, keep=set(keys))
        routable = [ip for ip in keys if not ip.is_link_local]
        for ip in routable:
            if self._is_taken(ip, cookie):
                raise AddressTakenError(f"address {ip} belongs to another pod's namespace")
        for ip in routable:
            self._addresses.put(keys[ip], abi.Home(netns=cookie))
        claimed = self._link_local.get(cookie, set())
        self._link_local[cookie] = keys.keys() - set(routable)
        for ip in claimed | self._link_local[cookie]:
            self._settle(ip, cookie)
        self._pods.put(c_uint64(cookie), pod)

    def _is_taken(self, ip: IPAddress, cookie: int) -> bool:
        home = self._addresses.get(abi.Addr.of(ip))
        return home is not None and home.netns != cookie and self._lives(home.netns)

    def _lives(self, cookie: int) -> bool:
        return cookie not in self._leaving and self._pods.get(c_uint64(cookie)) is not None

    def _settle(self, ip: IPAddress, newcomer: int = 0) -> None:
        """Register a link-local address for the one living namespace that has it, for nobody if two have it.

        Nobody, not the first: `is_self_call` in the other's namespace would take all that comes from the first for the pod's own.
        """
        claimants = {cookie for cookie, claimed in self._link_local.items() if ip in claimed}
        claimants = {cookie for cookie in claimants if cookie == newcomer or self._lives(cookie)} or claimants
        if len(claimants) == 1:
            self._addresses.put(abi.Addr.of(ip), abi.Home(netns=claimants.pop()))
        elif self._addresses.discard(abi.Addr.of(ip)):
            log.warning("namespaces share a link-local address; inbound to it is refused", address=ip, cookies=sorted(claimants))

    def _drop_addresses(self, cookie: int, keep: set[IPAddress]) -> None:
        """Only entries that lead to this namespace: its address may already be another pod's."""
        for address, home in self._addresses.items():
            if home.netns == cookie and address.ip not in keep:
                self._addresses.discard(address)


def _pinned_mark(pins: Pins) -> int | None:
    """The mark that the pinned programs know, None where there are no (finished) pins. Raises AdoptionError for another ABI version."""
    fd = pins.open_map("cvt_config")
    if fd is None:
        return None
    size = max(ctypes.sizeof(abi.Config), Layout.of_fd(fd).value_size)
    raw, key = ctypes.create_string_buffer(size), c_uint32(0)
    try:
        check(library().bpf_map_lookup_elem(fd, ctypes.byref(key), raw), "read the pinned config")
    finally:
        os.close(fd)
    found = abi.Config.from_buffer_copy(raw.raw[: ctypes.sizeof(abi.Config)])
    if found.abi_version not in (0, abi.ABI_VERSION):
        raise AdoptionError(
            f"the pins under {pins.directory} were made by ABI version {found.abi_version}, and this agent has {abi.ABI_VERSION}; {REMEDY}"
        )
    return found.mark or None  # 0: an agent died before it had written the config; no program is attached yet


def _new_mark() -> int:
    """Bit 31 stays clear: SO_MARK is a C int, and Python (as many other languages) takes no larger number for one."""
    return (secrets.randbelow((1 << 19) - 1) + 1) << 12 | abi.MARK_TUNNEL_LOW


def _load(pins: Pins, object_path: str, constants: abi.Constants) -> Loaded:
    """Load onto the pinned maps, and pin the maps that were not. Raises AdoptionError, BpfError."""
    with ObjectFile(object_path) as opened:
        opened.set_constants(".rodata.culvert", constants)
        if not adopts_listeners():
            opened.leave_out(ADOPTER)
        pinned = pins.open_maps(opened.layouts())
        try:
            for name, fd in pinned.items():
                opened.reuse(name, fd)
            loaded = opened.load()
        finally:
            for fd in pinned.values():
                os.close(fd)
    for name, fd in loaded.maps.items():
        if name not in pinned:
            libbpf.pin(fd, pins.map_path(name))
    return loaded


def _attach_one(path: str, program: Program, cgroup_fd: int) -> None:
    try:
        with Link.pinned(path) as link:
            if link.info().target != 0:
                link.update(program.fd)
                return
    except FileNotFoundError:
        pass
    else:
        remove_link(path)
    with Link.create(program.fd, cgroup_fd, program.attach_type) as link:
        link.pin(path)


def _run_iterator(adopter: Program) -> None:
    """Walk all TCP sockets of the calling thread's namespace through the program."""
    with Link.create(adopter.fd, 0, adopter.attach_type) as link:
        fd = check(library().bpf_iter_create(link.fd), "start the listener walk")
        try:
            while os.read(fd, 4096):
                raise BugError("the listener walk prints nothing")
        finally:
            os.close(fd)
