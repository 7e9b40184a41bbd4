"""Every code that a finding may have. A code keeps its meaning and its severity for ever; one that is given up leaves a gap.

CV00  reading            CV04  ServiceEntries, WorkloadEntries           CV08  AuthorizationPolicies, tokens
CV01  namespaces, pods   CV05  where routes lead, VirtualServices        CV09  mutual TLS
CV02  Services           CV06  routes and gateways of the Gateway API    CV10  telemetry
CV03  waypoints          CV07  DestinationRules
"""

from control.analyze.codes import mesh, policy, reading, traffic
from control.analyze.codes.code import CODES, Code, Severity

__all__ = ["CODES", "Code", "Severity", "mesh", "policy", "reading", "traffic"]
