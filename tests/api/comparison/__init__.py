"""Meshwright's objects beside those of `istioctl manifest generate`: the same intent, the same version."""
