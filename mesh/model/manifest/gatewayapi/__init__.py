"""The resources of gateway.networking.k8s.io, those of its standard channel and the experimental fields of them."""

GROUP = "gateway.networking.k8s.io"
