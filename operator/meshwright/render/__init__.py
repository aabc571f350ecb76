"""Desired state to Kubernetes objects, through templates/. Pure: the same intents give the same bytes."""
