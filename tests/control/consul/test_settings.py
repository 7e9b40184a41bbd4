"""What the source is told: everything that can be, and that nothing else is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.sources.consul.settings import ConsulSettings, settings_of
from mesh.model.errors import ConfigError

HTTPS = {"CULVERT_CONSUL": "https://consul.example:8501"}


def test_without_an_address_there_is_no_consul() -> None:
    assert settings_of({}) is None
    assert settings_of({"CULVERT_CONSUL": "", "CULVERT_CONSUL_DOMAIN": "NONSENSE"}) is None


def test_defaults() -> None:
    assert settings_of({"CULVERT_CONSUL": "http://127.0.0.1:8500"}) == ConsulSettings(
        address="http://127.0.0.1:8500",
        called="",
        token_file=None,
        ca_file=None,
        certificate_file=None,
        key_file=None,
        server_name="",
        datacenter="",
        partition="",
        consul_namespace="",
        consistency="default",
        namespace="consul",
        domain="consul",
        datacenter_names=False,
        exclude=frozenset({"consul"}),
        proxies=False,
        grace=30.0,
    )


def test_everything_can_be_told() -> None:
    assert settings_of(
        {
            **HTTPS,
            "CULVERT_CONSUL_CALLED": "the one in the cellar",
            "CULVERT_CONSUL_TOKEN_FILE": "/token",
            "CULVERT_CONSUL_CA_FILE": "/ca.pem",
            "CULVERT_CONSUL_CERT_FILE": "/cert.pem",
            "CULVERT_CONSUL_KEY_FILE": "/key.pem",
            "CULVERT_CONSUL_SERVER_NAME": "server.dc1.consul",
            "CULVERT_CONSUL_DATACENTER": "dc1",
            "CULVERT_CONSUL_PARTITION": "team-1",
            "CULVERT_CONSUL_SOURCE_NAMESPACE": "shop",
            "CULVERT_CONSUL_CONSISTENCY": "stale",
            "CULVERT_CONSUL_NAMESPACE": "machines",
            "CULVERT_CONSUL_DOMAIN": "consul.example.net",
            "CULVERT_CONSUL_DATACENTER_NAMES": "true",
            "CULVERT_CONSUL_EXCLUDE": "consul, nomad ,vault",
            "CULVERT_CONSUL_PROXIES": "true",
            "CULVERT_CONSUL_GRACE": "0",
        }
    ) == ConsulSettings(
        address="https://consul.example:8501",
        called="the one in the cellar",
        token_file=Path("/token"),
        ca_file=Path("/ca.pem"),
        certificate_file=Path("/cert.pem"),
        key_file=Path("/key.pem"),
        server_name="server.dc1.consul",
        datacenter="dc1",
        partition="team-1",
        consul_namespace="shop",
        consistency="stale",
        namespace="machines",
        domain="consul.example.net",
        datacenter_names=True,
        exclude=frozenset({"consul", "nomad", "vault"}),
        proxies=True,
        grace=0.0,
    )


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://consul", "http://consul:8500"),
        ("https://consul", "https://consul:8501"),
        ("http://10.0.0.1:80/", "http://10.0.0.1:80"),
        ("http://[fd00::1]", "http://[fd00::1]:8500"),
        ("https://proxy.example/consul/", "https://proxy.example:8501/consul"),
    ],
)
def test_an_address_may_leave_out_what_is_usual(given: str, address: str) -> None:
    found = settings_of({"CULVERT_CONSUL": given})
    assert found is not None
    assert found.address == address


@pytest.mark.parametrize(
    ("variables", "field"),
    [
        ({"CULVERT_CONSUL": "127.0.0.1:8500"}, "CULVERT_CONSUL"),
        ({"CULVERT_CONSUL": "unix:///run/consul.sock"}, "CULVERT_CONSUL"),
        ({"CULVERT_CONSUL": "http://"}, "CULVERT_CONSUL"),
        ({"CULVERT_CONSUL": "http://h:0"}, "CULVERT_CONSUL"),
        ({"CULVERT_CONSUL": "http://h:99999"}, "CULVERT_CONSUL"),
        ({"CULVERT_CONSUL": "http://[::1"}, "CULVERT_CONSUL"),
        ({"CULVERT_CONSUL": "http://h?token=x"}, "CULVERT_CONSUL"),
        ({"CULVERT_CONSUL": "http://h /"}, "CULVERT_CONSUL"),
        ({**HTTPS, "CULVERT_CONSUL_DOMAIN": "Consul"}, "CULVERT_CONSUL_DOMAIN"),
        ({**HTTPS, "CULVERT_CONSUL_NAMESPACE": "a.b"}, "CULVERT_CONSUL_NAMESPACE"),
        ({**HTTPS, "CULVERT_CONSUL_DATACENTER": "dc1&ns=x"}, "CULVERT_CONSUL_DATACENTER"),
        ({**HTTPS, "CULVERT_CONSUL_CONSISTENCY": "strong"}, "CULVERT_CONSUL_CONSISTENCY"),
        ({**HTTPS, "CULVERT_CONSUL_PROXIES": "yes"}, "CULVERT_CONSUL_PROXIES"),
        ({**HTTPS, "CULVERT_CONSUL_GRACE": "30s"}, "CULVERT_CONSUL_GRACE"),
        ({**HTTPS, "CULVERT_CONSUL_GRACE": "3601"}, "CULVERT_CONSUL_GRACE"),
        ({**HTTPS, "CULVERT_CONSUL_CERT_FILE": "/c"}, "CULVERT_CONSUL_KEY_FILE"),
        ({"CULVERT_CONSUL": "http://h", "CULVERT_CONSUL_CA_FILE": "/ca"}, "CULVERT_CONSUL_CA_FILE"),
        ({"CULVERT_CONSUL": "http://h", "CULVERT_CONSUL_SERVER_NAME": "h"}, "CULVERT_CONSUL_SERVER_NAME"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(variables: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(variables)
    assert [refusal.field for refusal in caught.value.refusals] == [field]
    assert all(refusal.accepted for refusal in caught.value.refusals)


def test_everything_that_is_wrong_is_said_at_once_and_no_secret_is_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of({"CULVERT_CONSUL": "http://user:secret@h", "CULVERT_CONSUL_DOMAIN": "-"})
    assert {refusal.field for refusal in caught.value.refusals} == {"CULVERT_CONSUL", "CULVERT_CONSUL_DOMAIN"}
    assert "secret" not in str(caught.value)


def test_nothing_is_excluded_where_that_is_asked_for() -> None:
    found = settings_of({**HTTPS, "CULVERT_CONSUL_EXCLUDE": "-"})
    assert found is not None
    assert found.exclude == frozenset()
