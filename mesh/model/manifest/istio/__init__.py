"""The resources of networking.istio.io and telemetry.istio.io. Every version of a kind has the same schema."""

NETWORKING_VERSIONS = ("networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")
