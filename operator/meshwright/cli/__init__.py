"""kubectl-mesh: what people type."""
