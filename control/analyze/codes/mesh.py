"""Waypoints and ServiceEntries: CV03 and CV04."""

from __future__ import annotations

from typing import Final

from control.analyze.codes.code import ERROR, INFO, WARNING, Code

# Waypoints

NO_WAYPOINT: Final = Code(
    "CV0301",
    ERROR,
    "The waypoint that is asked for is not there",
    "Traffic goes without one, and policies that need it deny. Create the Gateway, or mend the label.",
)
NO_SUCH_CLASS_OF_WAYPOINT: Final = Code(
    "CV0302", ERROR, "The Gateway that is asked for is no waypoint", "Its gatewayClassName must be istio-waypoint."
)
WAYPOINT_NOT_READY: Final = Code(
    "CV0303", WARNING, "The waypoint that is asked for is not ready", "Traffic goes without one until its Service is there."
)
WAYPOINT_CLOSED: Final = Code(
    "CV0304",
    ERROR,
    "The waypoint does not let the namespace in",
    "Set allowedRoutes.namespaces of one of its listeners, or use a waypoint of the namespace's own.",
)
WAYPOINT_MISMATCH: Final = Code(
    "CV0305",
    WARNING,
    "The waypoint is not for what asks for it",
    "The label istio.io/waypoint-for of the Gateway says whether Services or workloads go through it: service, workload or all.",
)
UNKNOWN_WAYPOINT_FOR: Final = Code(
    "CV0306",
    WARNING,
    "istio.io/waypoint-for has an unknown value",
    "Nothing goes through such a waypoint. Write service, workload, all or none.",
)
WAYPOINT_OUTSIDE: Final = Code(
    "CV0307",
    WARNING,
    "A waypoint is asked for outside the mesh",
    "Pods outside the mesh are not reached through a waypoint. Label the namespace istio.io/dataplane-mode=ambient.",
)
UNUSED_WAYPOINT: Final = Code("CV0308", INFO, "Nobody uses the waypoint", "Label what is to go through it istio.io/use-waypoint.")

# ServiceEntries and WorkloadEntries

SAME_HOST: Final = Code(
    "CV0401", WARNING, "Several objects declare one host", "One of them says what it is; the ports of the others do not count. Keep one."
)
NO_ENDPOINT: Final = Code(
    "CV0402", WARNING, "A ServiceEntry has no endpoint", "Connections to it fail. List endpoints, or set workloadSelector."
)
NO_ADDRESS: Final = Code(
    "CV0403",
    WARNING,
    "Nothing leads to a ServiceEntry",
    "No connection is recognised as one to it: it has no address and gets none. Add addresses, resolve it by DNS, or give it a waypoint.",
)
SELECTS_NO_ENDPOINT: Final = Code(
    "CV0404",
    WARNING,
    "A ServiceEntry selects nothing",
    "Connections to it fail. Compare workloadSelector with the labels of pods and WorkloadEntries of its namespace.",
)
UNUSED_ENTRY: Final = Code(
    "CV0405",
    INFO,
    "No service selects the WorkloadEntry",
    "It is reached by its own address only. Compare its labels with services' selectors.",
)
