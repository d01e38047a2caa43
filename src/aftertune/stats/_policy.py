"""What a release may cost: tolerances, which metrics decide, how sure to be."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from aftertune.errors import DataError, PolicyError
from aftertune.runs import read_yaml
from aftertune.stats._metrics import all_metrics, base_metric, find_metric

MAX_BYTES = 2**18

Tolerance = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False, strict=True)]


class Policy(BaseModel):
    """A gate's rules. Unknown keys are errors.

    Metrics are named by id; ``preference.margin`` speaks for every ``preference.margin:STEM`` too, unless the
    full name is given as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float = Field(0.95, gt=0.5, lt=1, description="coverage of intervals; 1 minus it is the error rate")
    minimum_clusters: int = Field(10, ge=2, description="a deciding metric with fewer prompts is inconclusive")
    untestable: Literal["block", "allow"] = Field(
        "block", description="whether a deciding metric that is not testable on this base stands in the way of a pass"
    )
    tolerances: dict[str, Tolerance] = Field(default_factory=dict, description="tolerated worsening by metric id")
    decides: dict[str, bool] = Field(default_factory=dict, description="whether a metric decides, by metric id")

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "margins" in fields:  # as it was called in version 0.1
            if "tolerances" in fields:
                raise ValueError("margins is the old name of tolerances; give one of them")
            return {"tolerances" if name == "margins" else name: value for name, value in fields.items()}
        return fields

    @field_validator("tolerances", "decides")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if find_metric(name) is None:
                close = difflib.get_close_matches(name, [metric.id for metric in all_metrics()], n=3)
                mend = f"did you mean {' or '.join(close)}?" if close else "aftertune metrics lists them"
                raise ValueError(f"metric {name!r} is unknown; {mend}")
        return value

    @field_validator("decides")
    @classmethod
    def _no_groups(cls, value: dict[str, bool]) -> dict[str, bool]:
        for name in value:
            if "/" in name:
                raise ValueError(f"{name!r} is a breakdown, which only informs; name the whole metric")
        return value

    def tolerance(self, metric: str) -> float:
        """The tolerated worsening of a metric."""
        found = find_metric(metric)
        assert found is not None, metric
        return self.tolerances.get(metric, self.tolerances.get(base_metric(metric), found.tolerance))

    def deciding(self, metric: str) -> bool:
        """Whether a metric decides the verdict. Breakdowns by group (``…/GROUP``) never do."""
        found = find_metric(metric)
        assert found is not None, metric
        if "/" in metric:
            return False
        return self.decides.get(metric, self.decides.get(base_metric(metric), found.decides))


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{field}: {message}")
    return _one_line("; ".join(parts))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def read_policy(
    path: Path | None = None, tolerances: tuple[str, ...] = (), *, allow_untestable: bool = False
) -> Policy:
    """A policy from YAML, with what flags say on top.

    Args:
        path: the YAML file, or None for the defaults.
        tolerances: ``METRIC=VALUE`` strings.
        allow_untestable: let metrics stand that are not testable on the base, whatever the file says.

    Raises:
        PolicyError: not readable, unknown key or metric, or a value out of range.
    """
    fields: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = read_yaml(path, MAX_BYTES).value
        except DataError as error:
            raise PolicyError(str(error)) from None
        if loaded is not None and not isinstance(loaded, dict):
            raise PolicyError(f"{path}: must hold a mapping, not {type(loaded).__name__}")
        fields = dict(loaded or {})
    if "margins" in fields:
        print(f"{path}: margins is called tolerances now; the old name works in this version", file=sys.stderr)
    flagged: dict[str, float] = {}
    for text in tolerances:
        name, separator, value = text.rpartition("=")
        try:
            flagged[name] = float(value)
        except ValueError:
            separator = ""
        if not separator or not name:
            raise PolicyError(f"--tolerance {text}: must be METRIC=NUMBER, such as preference.margin=0.1")
    policy = _checked(fields, f"{path}")
    if allow_untestable:
        policy = policy.model_copy(update={"untestable": "allow"})
    return _checked({**policy.model_dump(), "tolerances": {**policy.tolerances, **flagged}}, "--tolerance")


def _checked(fields: dict[str, Any], where: str) -> Policy:
    try:
        return Policy.model_validate(fields)
    except ValidationError as error:
        raise PolicyError(f"{where}: {_explain(error)}") from None
