"""End to end: real cluster, real istiod, real Envoy, real traffic."""
