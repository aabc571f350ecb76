"""The only room that sees key material. What leaves it is a fingerprint and an expiry."""
