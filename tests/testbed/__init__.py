"""The local test bed: real Kubernetes clusters on one Linux machine, without container engine or registry."""
