"""Meshwright: a Kubernetes operator for the whole life of an Istio service mesh."""

__version__ = "0.1.0"
