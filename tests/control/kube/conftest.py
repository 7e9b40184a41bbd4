"""What tests of Kubernetes' tokens are done with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.control.kube.desk import NOW, Desk


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """At NOW, also for PyJWT, which looks at the clock itself."""

    class Frozen(jwt.api_jwt.datetime):  # type: ignore[misc, name-defined]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(NOW, tz)

    monkeypatch.setattr(jwt.api_jwt, "datetime", Frozen)
    return Desk(tmp_path)
