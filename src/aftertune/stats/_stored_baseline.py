"""Earlier verdicts as files: read back, refused where they contradict themselves, held against a new one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aftertune.errors import OutputError, PolicyError, SubjectError, UsageError, spelled_out
from aftertune.runs import fingerprint, read_manifest
from aftertune.stats._baseline import FailOn, SinceBaseline, changes_since, decide_since
from aftertune.stats._finding import Decision, Finding, judge
from aftertune.stats._metrics import Worse, find_metric
from aftertune.stats._policy import Policy
from aftertune.stats._verdict import Verdict, decide


def refuse_contradiction(
    verdict: Verdict, findings: Sequence[Finding], since: SinceBaseline | None = None, policy: Policy | None = None
) -> None:
    """Decide anew from stored findings and refuse another verdict.

    A stored *inconclusive* stands above findings that pass: that is what a model compared with itself gets.

    Args:
        verdict: as stored.
        findings: as stored, breakdowns included.
        since: what changed since a baseline, as stored.
        policy: by which it was decided, where that is known.

    Raises:
        ValueError: says what contradicts what, in part of a line.
    """
    for finding in findings:
        wrong = contradiction(finding, policy)
        if wrong:
            raise ValueError(wrong)
    for change in since.changes if since else ():
        if not any(f.metric == change.metric and f.decision == change.after for f in findings):
            raise ValueError(spelled_out(f"{change.metric} is {change.after} since the baseline, but not in its row"))
    expected = decide(findings)
    if since:
        expected = decide_since(expected, findings, since)
    itself = (verdict.decision, expected.decision) == ("inconclusive", "pass")
    if verdict.decision != expected.decision and not (itself and (verdict.note or verdict.reasons)):
        raise ValueError(f"it says {verdict.decision}, its findings make it {expected.decision}")


def contradiction(finding: Finding, policy: Policy | None = None) -> str:
    """What a stored finding says against itself or against the policy; "" where nothing does.

    Args:
        finding: as stored.
        policy: by which it was decided, where that is known.
    """
    wrong = _against_its_numbers(finding) or (_against(policy, finding) if policy else "")
    return spelled_out(f"{finding.metric} {wrong}") if wrong else ""


def _against_its_numbers(finding: Finding) -> str:
    decided: Decision = "inconclusive"
    if finding.items:
        decided = judge(finding.worse, finding.worsening, finding.tolerance)
    said = finding.decision
    metric = find_metric(finding.metric)
    if metric is not None and metric.worse != finding.worse:
        return f"is worse where it is {finding.worse}, but damage is {metric.worse}"
    if said in ("pass", "not testable") and (decided != "pass" or finding.hides_a_group):
        return f"is {said}, but its interval and tolerance make it no pass"
    if said == "fail" and (decided != "fail" or finding.p_value > 0.25):
        return "is fail, but its interval, tolerance and p-value do not make it one"
    if said == "inconclusive" and decided != "inconclusive" and not finding.note:
        return f"is inconclusive, but its interval and tolerance make it {decided}"
    if finding.allowed and said != "not testable":
        return f"is {said}, and allowed as if it were not testable"
    return ""


def _against(policy: Policy, finding: Finding) -> str:
    if find_metric(finding.metric) is None:
        return ""  # of another version
    if finding.tolerance != policy.tolerance(finding.metric):
        return f"has the tolerance {finding.tolerance:g}, the policy {policy.tolerance(finding.metric):g}"
    if finding.decides != policy.deciding(finding.metric):
        return f"{'decides' if finding.decides else 'informs'}, by the policy it does not"
    if finding.allowed and policy.untestable != "allow":
        return "is allowed though not testable, by the policy it is not"
    if finding.decision in ("pass", "fail") and finding.clusters < policy.minimum_clusters:
        return f"is {finding.decision} on {finding.clusters} prompts, fewer than the policy's {policy.minimum_clusters}"
    return ""


Verb = Literal["audit", "compare"]

_COMPARED = {
    "weights_sha256": "other weights",
    "template_sha256": "another chat template",
    "config_sha256": "another configuration",
    "tokenizer_sha256": "another tokenizer",
    "spec": "another name",
    "base_url": "another address",
    "model_args": "other arguments",
}
_WEIGHED: tuple[str, ...] = ("weights_sha256", "template_sha256")
# Compared where both are known: older runs and logs of others lack them.
_LATER: tuple[str, ...] = ("config_sha256", "tokenizer_sha256")
_NAMED = ("spec", "base_url", "model_args")
_JUDGED = ("graders", "rubrics", "task_version")


@dataclass(frozen=True)
class Baseline:
    """An earlier finished audit, or comparison of logs.

    Attributes:
        folder: its run folder.
        verb: which of the two.
        findings: its findings, without breakdowns.
        base: identity record of the base it was measured against.
        confidence: of its policy.
        minimum_clusters: of its policy.
        asked: what each of its tasks asked and how, by the task's name.
    """

    folder: Path
    verb: Verb
    findings: tuple[Finding, ...]
    base: Mapping[str, Any]
    confidence: float
    minimum_clusters: int
    asked: Mapping[str, Mapping[str, Any]]

    @property
    def content(self) -> str:
        """A digest of all that a later audit takes from it; where it lies and what it is called do not matter."""
        base = {key: self.base[key] for key in _keys(self.verb, self.base)}
        found = [f.as_dict() for f in self.findings]
        return fingerprint([found, base, self.confidence, self.minimum_clusters, self.asked])

    def since(self, now: Sequence[Finding], fail_on: FailOn) -> SinceBaseline:
        """Hold the findings of a later audit against these.

        Args:
            now: the later findings.
            fail_on: whether all of them decide, or only what these do not excuse.
        """
        measured = {f.metric for f in now}
        bad = (f.metric for f in self.findings if f.stands_in_the_way)
        gone = tuple(metric for metric in bad if metric not in measured)
        return SinceBaseline(str(self.folder), fail_on, changes_since(self.findings, now), gone)

    def refuse_this_run(self, run: Path) -> None:
        """Refuse to hold a run against itself.

        Raises:
            OutputError: the baseline lies in the folder ``run``.
        """
        if run.resolve() == self.folder.resolve():
            raise OutputError(f"--baseline {self.folder}: is the folder of this very run; name an earlier one's")

    def refuse_other_policy(self, policy: Policy) -> None:
        """Refuse decisions that were made by other rules.

        Raises:
            PolicyError: confidence, minimum clusters, or a metric's tolerance or role differ; tolerances of metrics
                that only inform may.
        """
        differing = list(self._differences(policy))
        if differing:
            more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise PolicyError(
                f"--baseline {self.folder}: was decided by other rules ({', '.join(differing[:3])}{more}); "
                f"{self.verb} it again with this policy"
            )

    def _differences(self, policy: Policy) -> Iterator[str]:
        if self.confidence != policy.confidence:
            yield f"confidence was {self.confidence:g}, is {policy.confidence:g}"
        if self.minimum_clusters != policy.minimum_clusters:
            yield f"minimum_clusters was {self.minimum_clusters}, is {policy.minimum_clusters}"
        for finding in self.findings:
            metric = finding.metric
            if find_metric(metric) is None:
                continue
            decides, tolerance = policy.deciding(metric), policy.tolerance(metric)
            if finding.decides != decides:
                yield f"{metric} {'informs, decided then' if finding.decides else 'decides, informed then'}"
            elif decides and finding.tolerance != tolerance:
                yield f"tolerance of {metric} was {finding.tolerance:g}, is {tolerance:g}"

    def refuse_other_base(self, base: Mapping[str, Any]) -> None:
        """Refuse differences from another model.

        Args:
            base: identity record of the base of this audit.

        Raises:
            SubjectError: weights, configuration, tokenizer or chat template differ.
        """
        keys = dict.fromkeys((*_keys(self.verb, self.base), *_keys(self.verb, base)))
        later = [key for key in _LATER if None not in (self.base.get(key), base.get(key))]
        differing = [key for key in (*keys, *later) if self.base[key] != base[key]]
        if differing:
            what = " and ".join(_COMPARED[key] for key in differing)
            then, now = (_named(identity, differing[0]) for identity in (self.base, base))
            raise SubjectError(
                f"--baseline {self.folder}: was measured against a base with {what} ({then}; now {now}); "
                f"{self.verb} it against this base first"
            )

    def refuse_other_judges(self, asked: Iterable[Mapping[str, Any]]) -> None:
        """Refuse decisions on a task that was judged otherwise; what was asked may differ, as items of probes may.

        Args:
            asked: of the tasks now, see `aftertune.inspect_bridge.LoggedRun`.

        Raises:
            UsageError: a task in both differs.
        """
        for now in asked:
            then = self.asked.get(str(now["task"]), now)
            differing = [key for key in _JUDGED if then.get(key) != now[key]]
            if differing:
                key = differing[0]
                raise UsageError(
                    f"--baseline {self.folder}: its {now['task']} was judged otherwise ({key} then {then.get(key)!r}, "
                    f"now {now[key]!r}); have both judged alike"
                )


def _keys(verb: Verb, base: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells a base from another: its weights where they are known, else what it is called and where it is."""
    if verb == "audit":
        return _WEIGHED
    return _WEIGHED[:1] if base["weights_sha256"] else _NAMED


def _named(base: Mapping[str, Any], key: str) -> str:
    return " ".join(str(part) for part in (base.get("spec"), base.get("dtype"), str(base[key])[:12]) if part)


def read_baseline(folder: Path, policy: Policy, verb: Verb = "audit") -> Baseline:
    """Read an earlier run; of its folder only ``manifest.json`` and ``verdict.json`` are needed.

    Args:
        folder: its run folder.
        policy: the rules of the run that is to be held against it.
        verb: what that is; of the same kind must the earlier one be.

    Raises:
        OutputError: the folder holds no finished run of the kind.
        PolicyError: it was decided by other rules.
    """
    baseline = _read(folder, verb)
    baseline.refuse_other_policy(policy)
    return baseline


def _read(folder: Path, verb: Verb) -> Baseline:
    try:
        manifest = read_manifest(folder)
        if manifest["verb"] != verb:
            raise ValueError(f"a run of `{manifest['verb']}`")
        if manifest["status"] != "finished":
            raise ValueError("one that was not brought to its end")
        document = json.loads((folder / "verdict.json").read_text("utf-8"))
        rules, base = manifest["config"]["policy"], document["base"]
        findings = tuple(_finding(fields) for fields in document["findings"])
        _refuse_edited(document, findings)
        compared = (*_WEIGHED, "spec", "dtype") if verb == "audit" else (_WEIGHED[0], *_NAMED)
        return Baseline(
            folder,
            verb,
            findings,
            {key: base[key] for key in compared},
            float(rules["confidence"]),
            int(rules["minimum_clusters"]),
            {str(one["task"]): one for one in manifest.get("asked", [])},
        )
    except OutputError:
        reason = "no readable manifest.json"
    except (OSError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        reason = "its files are incomplete"
    except (json.JSONDecodeError, UnicodeDecodeError):
        reason = "its verdict.json is broken"
    except ValueError as error:
        reason = str(error)
    raise OutputError(
        f"--baseline {folder}: holds no finished {verb} ({reason}); name the run folder of an earlier "
        f"`aftertune {verb}`"
    )


def _refuse_edited(document: Mapping[str, Any], findings: Sequence[Finding]) -> None:
    since = document.get("baseline")
    verdict = Verdict(document["verdict"], tuple(document["reasons"]), document["note"])
    try:
        refuse_contradiction(verdict, findings, SinceBaseline.from_dict(since) if since else None)
    except ValueError as error:
        raise ValueError(f"its verdict.json contradicts itself: {error}") from None


def _finding(fields: Mapping[str, Any]) -> Finding:
    """A finding of a file that anybody may have written."""
    try:
        finding = Finding.from_dict(fields)
        if finding.worse not in get_args(Worse):
            raise ValueError(f"damage is {finding.worse!r}")
        if not all(map(math.isfinite, (finding.difference, *finding.interval, finding.tolerance))):
            raise ValueError("a number is too large")
    except ValueError as error:
        raise ValueError(f"a finding in its verdict.json is broken: {error}") from None
    return finding
