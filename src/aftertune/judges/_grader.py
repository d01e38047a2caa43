"""Which model judges: the one in the grader role, and never the subject itself."""

from __future__ import annotations

import json

from inspect_ai.model import Model, get_model, model_roles

from aftertune.errors import UsageError
from aftertune.model import Subject

ROLE = "grader"


def grader() -> Model:
    """The judge of the running evaluation: the first model in the role "grader".

    Raises:
        UsageError: no model has the role, or the one that has it is the subject.
    """
    return graders()[0]


def graders() -> tuple[Model, ...]:
    """Every model in the role "grader"; those after the first give second opinions.

    Raises:
        UsageError: no model has the role, or one that has it is the subject.
    """
    bound = model_roles().get(ROLE)
    judges = tuple(bound) if isinstance(bound, list) else () if bound is None else (bound,)
    if not judges:
        raise UsageError(f"answers are judged, and no judge is named; add --model-role {ROLE}=PROVIDER/MODEL")
    subject = _subject()
    for judge in judges:
        if subject is not None and same_model(judge, subject):
            raise UsageError(
                f"{judge} is the model under evaluation and may not judge itself; "
                f"name another with --model-role {ROLE}=PROVIDER/MODEL"
            )
    return judges


def same_model(first: Model, second: Model) -> bool:
    """Whether two models are one.

    They are if they share a provider object; if both are subjects of ours with the same weights and patches, however
    they are named; or if name, arguments and address are the same.
    """
    if first.api is second.api:
        return True
    ours = [s for model in (first, second) if isinstance(s := getattr(model.api, "present", None), Subject)]
    if len(ours) == 2:
        one, other = (subject.identity for subject in ours)
        return (one.weights_sha256, one.patches) == (other.weights_sha256, other.patches)
    return (
        str(first) == str(second)
        and first.api.base_url == second.api.base_url
        and _arguments(first) == _arguments(second)
    )


def _subject() -> Model | None:
    try:
        return get_model()
    except ValueError:  # no evaluation runs
        return None


def _arguments(model: Model) -> str:
    # Live objects, such as weights in memory, are the same only if they are one object.
    return json.dumps(model.model_args, sort_keys=True, default=lambda value: f"{type(value).__name__}@{id(value)}")
