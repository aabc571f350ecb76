"""The probe of `spec.verify: Traffic`, a program of its own beside the operator's: it knows no other room."""
