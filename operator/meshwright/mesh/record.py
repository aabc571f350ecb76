"""A scaling decision as JSON: all that it rests on, and what came of it, so that anybody can make it again."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from meshwright.api.errors import InvalidSpec
from meshwright.mesh.scaling import Question, Step, step

QUESTION, ANSWER = TypeAdapter(Question), TypeAdapter(Step)
VERSION = 1


def record(question: Question, answer: Step) -> str:
    """The same decision gives the same bytes."""
    return canonical({
        "version": VERSION,
        "question": QUESTION.dump_python(question, mode="json"),
        "answer": ANSWER.dump_python(answer, mode="json"),
    })  # fmt: skip


def replay(text: str) -> tuple[str, str]:
    """The answer as it was recorded, and as it is decided now. Raises InvalidSpec for what is no record."""
    try:
        found = json.loads(text)
        question = QUESTION.validate_python(found["question"])
        recorded = canonical(found["answer"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise InvalidSpec(f"this is no record of a scaling decision: {error}") from None
    return recorded, canonical(ANSWER.dump_python(step(question), mode="json"))


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
