"""The environment of a tunnel."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.model.errors import ConfigError
from ztunnel.config import duration, from_environment


def test_defaults_are_istios() -> None:
    config = from_environment({})
    assert config.xds_address == config.ca_address == "https://istiod.istio-system.svc:15012"
    assert config.ca_root_ca == config.xds_root_ca == Path("./var/run/secrets/istio/root-cert.pem")
    assert config.auth_token == Path("./var/run/secrets/tokens/istio-token")
    assert (config.admin_address, config.metrics_address, config.readiness_address) == ("127.0.0.1:15000", "[::]:15020", "[::]:15021")
    assert (config.packet_mark, config.mark_file) == (0x539, None)
    assert (config.secret_ttl, config.drain_deadline, config.pool_idle) == (86400, 5, 300)


def test_the_ca_is_where_the_control_plane_is_unless_told() -> None:
    config = from_environment({"XDS_ADDRESS": "http://127.0.0.1:15010", "XDS_ROOT_CA": "SYSTEM", "ALT_XDS_HOSTNAME": "istiod.test"})
    assert (config.ca_address, config.ca_root_ca, config.ca_server_name) == ("http://127.0.0.1:15010", None, "istiod.test")


@pytest.mark.parametrize(
    ("environment", "deadline"),
    [
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "30"}, 25),
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "10"}, 9),
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "0"}, 0),
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "30", "CONNECTION_TERMINATION_DEADLINE": "1m30s"}, 90),
    ],
)
def test_the_drain_ends_before_the_grace_does(environment: dict[str, str], deadline: float) -> None:
    assert from_environment(environment).drain_deadline == deadline


@pytest.mark.parametrize(("raw", "seconds"), [("90", 90), ("24h", 86400), ("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5)])
def test_durations(raw: str, seconds: float) -> None:
    assert duration(raw) == seconds


@pytest.mark.parametrize("raw", ["", "h", "1d", "1 h", "-1s", "1h30"])
def test_bad_durations(raw: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        duration(raw)


def test_every_bad_variable_is_named_at_once() -> None:
    bad = {
        "XDS_ADDRESS": "istiod",
        "CA_ADDRESS": "ftp://istiod:1",
        "INSTANCE_IP": "here",
        "SECRET_TTL": "long",
        "PACKET_MARK": "red",
        "ADMIN_ADDR": "0.0.0.0:15000",
        "STATS_ADDR": "15020",
        "IPV6_ENABLED": "maybe",
        "LOG_FORMAT": "xml",
        "CULVERT_MAX_CONNECTIONS": "-1",
        "POOL_MAX_STREAMS_PER_CONNECTION": "0",
    }
    with pytest.raises(ConfigError) as raised:
        from_environment(bad)
    assert {refusal.field for refusal in raised.value.refusals} == set(bad)


def test_node_metadata() -> None:
    assert from_environment({"ISTIO_META_MESH_ID": "m", "OTHER": "x"}).node_metadata == {"MESH_ID": "m"}
