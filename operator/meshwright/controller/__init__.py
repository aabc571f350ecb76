"""The operator: events become keys in a queue, and one level-triggered reconcile works them off."""
