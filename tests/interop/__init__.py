"""Real peers of others: Envoy, and gRPC's own clients."""

import pytest

# Tests that are inherited: a failure shows its values there too.
pytest.register_assert_rewrite("tests.interop.grpc_contract", "tests.interop.grpc_mesh")
