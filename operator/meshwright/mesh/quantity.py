"""Kubernetes quantities (`500m`, `4Gi`) as exact numbers, and back."""

from __future__ import annotations

from fractions import Fraction

SUFFIXES = {
    "m": Fraction(1, 1000), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9),
    "T": Fraction(10**12), "P": Fraction(10**15), "E": Fraction(10**18),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30),
    "Ti": Fraction(2**40), "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip


def parse(quantity: str | int) -> Fraction:
    """`500m` → 1/2, `4Gi` → 4294967296. Raises ValueError for anything else than a plain quantity."""
    text = str(quantity)
    number = text.rstrip("mkKMGTPEi")
    suffix = text[len(number) :]
    if suffix not in SUFFIXES or not number or not all(part.isdecimal() or not part for part in number.split(".", 1)):
        raise ValueError(f"{text!r} is not a quantity such as 500m or 4Gi")
    return Fraction(number) * SUFFIXES[suffix]


def cpu(cores: Fraction) -> str:
    """Half a core → `500m`; whole cores without a suffix."""
    return str(cores) if cores.denominator == 1 else f"{max(round(cores * 1000), 1)}m"
