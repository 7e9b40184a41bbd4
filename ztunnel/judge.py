"""Policy, asked: the one place where a connection to a pod of ours meets the policies that apply to it."""

from __future__ import annotations

from mesh.io.log import Log
from mesh.model import policy
from mesh.model.state import MeshState, remember
from mesh.model.workload import Workload

log = Log("policy")


def judge(state: MeshState, workload: Workload, question: policy.Connection) -> policy.Decision:
    """The decision on one connection to `workload`. Denials are the access log's to tell; a dry run is told here."""
    decision = state.verdicts.get((workload.uid, question))
    if decision is None:
        applicable, missing = state.policies_for(workload)
        decision = remember(state.verdicts, (workload.uid, question), policy.evaluate(question, applicable, missing))
    if decision.dry_run:
        log.info(
            "dry run", workload=workload.uid, source=question.source_identity or question.source_ip, matched=", ".join(decision.dry_run)
        )
    if log.enabled(10):
        log.debug("decided", workload=workload.uid, source=question.source_identity or question.source_ip, decision=decision)
    return decision
