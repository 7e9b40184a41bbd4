"""One Linux machine as a cluster: nodes and pods as network namespaces, with the few Kubernetes habits that manifests rely on."""
