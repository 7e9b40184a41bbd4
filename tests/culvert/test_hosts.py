"""/etc/hosts of a pod."""

from __future__ import annotations

from culvert.playground.hosts import LOCAL, ServiceName, render_hosts


def test_a_service_has_its_short_name_only_in_its_own_namespace() -> None:
    text = render_hosts(
        "shop", "web-1", ("10.244.1.2", "fd00::2"), [ServiceName("tools", "log", ("10.96.1.1",)), ServiceName("shop", "db", ("10.96.1.2",))]
    )
    assert text == LOCAL + (
        "10.244.1.2\tweb-1\n"
        "fd00::2\tweb-1\n"
        "10.96.1.2\tdb db.shop.svc.cluster.local db.shop.svc db.shop\n"
        "10.96.1.1\tlog.tools.svc.cluster.local log.tools.svc log.tools\n"
    )


def test_a_service_with_several_addresses_has_a_line_for_each_and_one_without_has_none() -> None:
    text = render_hosts("shop", "p", (), [ServiceName("shop", "peers", ("10.244.1.2", "10.244.2.2")), ServiceName("shop", "empty", ())])
    assert text.count("peers.shop.svc ") == 2
    assert "empty" not in text


def test_names_that_are_no_services_come_last_and_those_that_are_stay_the_services() -> None:
    others = {
        "web.service.consul": ("240.240.1.2", "fd00::2"),
        "api.example.com": ("240.240.1.3",),
        "db.shop.svc.cluster.local": ("240.240.1.4",),
        "db.shop": ("240.240.1.4",),
        "db": ("240.240.1.4",),
        "p": ("240.240.1.4",),
        "short": ("240.240.1.5",),
    }
    text = render_hosts("shop", "p", (), [ServiceName("shop", "db", ("10.96.1.2",))], others)
    assert text == LOCAL + (
        "10.96.1.2\tdb db.shop.svc.cluster.local db.shop.svc db.shop\n"
        "240.240.1.3\tapi.example.com\n"
        "240.240.1.5\tshort\n"
        "240.240.1.2\tweb.service.consul\n"
        "fd00::2\tweb.service.consul\n"
    )
