"""Roles, as the sets of what they allow."""

from __future__ import annotations

from typing import Any, NamedTuple


class Permission(NamedTuple):
    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}.{self.group or 'core'}"


def in_rules(rules: list[dict[str, Any]]) -> set[Permission]:
    known = {"apiGroups", "resources", "verbs", "resourceNames"}
    assert all(rule.keys() <= known for rule in rules), "a rule of a kind not known here"
    return {
        Permission(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
