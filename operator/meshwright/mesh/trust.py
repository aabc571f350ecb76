"""What the rest of Meshwright may know about a CA: fingerprints and expiries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Trust:
    root_fingerprint: str  # SHA-256 of the certificate, hexadecimal
    root_expires: datetime
    intermediate_fingerprint: str
    intermediate_expires: datetime
