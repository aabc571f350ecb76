"""The local test bed: real Kubernetes clusters on one Linux machine, without a container engine or a registry."""
