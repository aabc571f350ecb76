"""One API server: the only room that speaks HTTP to Kubernetes."""
