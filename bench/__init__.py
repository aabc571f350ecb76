"""Performance, measured beside what a user would pick instead, in the same run. `make bench` runs all of it."""
