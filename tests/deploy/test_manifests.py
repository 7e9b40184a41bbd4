"""What is to be applied to a cluster, before Kubernetes' own schemas (PyPI kubernetes-validate), with unknown fields as errors.

Objects of our own kinds have no schema there: a real API server takes or refuses them, by our CRDs (tests/cluster/test_crds.py), and there,
too, everything under deploy/ together (tests/cluster/test_kubernetes_rbac.py).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.model.objects import SPECS

ROOT = Path(__file__).parents[2]
DEPLOYED, EXAMPLES = (sorted((ROOT / room).rglob("*.yaml")) for room in ("deploy", "examples"))
FILES = [str(path.relative_to(ROOT)) for path in (*DEPLOYED, *EXAMPLES)]
# The first in which the rules of our CRDs (CEL) are no preview, and the newest that the schemas are there for.
VERSIONS = ("1.29", kubernetes_validate.latest_version())


@cache
def documents(file: str) -> tuple[dict[str, Any], ...]:
    # The CRDs are more than a megabyte: the loader in C reads them in a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(each for each in yaml.load_all((ROOT / file).read_text(), loader) if each)


def ours(entry: dict[str, Any]) -> bool:
    return (entry["apiVersion"].rpartition("/")[0], entry["kind"]) in SPECS


@pytest.mark.parametrize("file", FILES)
def test_every_manifest_is_what_kubernetes_says(file: str) -> None:
    for entry in documents(file):
        for version in VERSIONS if not ours(entry) else ():
            kubernetes_validate.validate(entry, version, strict=True)


def test_what_is_deployed_is_all_of_their_kinds() -> None:
    entries = [entry for file in FILES if file.startswith("deploy/") for entry in documents(file)]
    assert len(entries) > 20
    assert not any(ours(entry) for entry in entries)


def test_a_field_that_does_not_exist_is_noticed() -> None:
    text = (ROOT / "deploy/control/deployment.yaml").read_text().replace("readinessProbe", "readynessProbe")
    deployment = next(yaml.safe_load_all(text))
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)
