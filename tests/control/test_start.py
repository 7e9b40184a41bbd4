"""What a control plane says that cannot start, in one line that names what to change."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from control.app import ControlPlane
from mesh.model.errors import ConfigError
from tests.control.plane import Plane, running

VARIABLES = {"xds_address": "CULVERT_XDS_ADDRESS", "xds_plaintext": "CULVERT_XDS_PLAINTEXT", "http_address": "CULVERT_HTTP_ADDRESS"}


@pytest.mark.parametrize(("field", "variable"), VARIABLES.items())
def test_a_port_that_is_taken_is_named_by_its_variable(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], field: str, variable: str
) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            plane = ControlPlane(replace(Plane(tmp_path).plane.config, **{field: address}))
            try:
                with pytest.raises(ConfigError, match=rf"{variable}: {address} is not accepted; accepted: an address .* in use"):
                    await plane.start()
            finally:
                await plane.close()

    asyncio.run(main())
    assert "add_port" not in capfd.readouterr().err  # gRPC's own words


def test_a_second_control_plane_leaves_the_first_ones_socket_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {}) as first:
            inode = (tmp_path / "ca" / "command.sock").stat().st_ino
            second = ControlPlane(first.plane.config)
            with pytest.raises(ConfigError, match="CULVERT_CA_DIR"):
                await second.start()
            await second.close()
            assert (tmp_path / "ca" / "command.sock").stat().st_ino == inode

    asyncio.run(main())
