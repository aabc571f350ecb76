"""`make demo`: what a new user sees first."""
