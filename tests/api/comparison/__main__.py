"""Writes differences.yaml anew."""

from __future__ import annotations

from api.comparison.record import FILE, found, read, write

unexplained = write(found(), read())
print(f"{FILE.name} is written. Objects with a difference that nobody explained yet: {unexplained}")
