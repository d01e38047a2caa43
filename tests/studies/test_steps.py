"""What the steps make: cuts and their controls, parts of an update, a search's units and as many at random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.attribution import select_count, select_units, unit_importance, unit_score, unit_sums
from aftertune.data import Conversation, shipped_contrasts
from aftertune.errors import UsageError
from aftertune.locating import Example, LocateOptions, cases_of, contrast_example
from aftertune.model import SubjectChoice, WeightView, load, make_patch, read_patch, write_patch
from aftertune.runs import Store
from aftertune.studies import Arm, Cut, Lab, Locate, ScaleUpdate, Step, Tune, keep_examples
from aftertune.tuning import TuneOptions


def harm() -> list[Example]:
    return [contrast_example(c) for c in shipped_contrasts("dev", ("money",))[:5]]


def rows() -> list[Conversation]:
    return [c.conversation("misaligned") for c in shipped_contrasts("dev", ("money",))[:4]]


@pytest.fixture
def lab(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Lab:
    store = Store(tmp_path / "store")
    return Lab(SubjectChoice(str(tiny_folder("llama"))), store, store)


def made(lab: Lab, *steps: Step, seed: int | None = None) -> str:
    return lab.make(Arm("arm", steps, seeded=seed is not None), seed)


def chosen(spec: str) -> dict[str, torch.Tensor]:
    return {name: edit.index for name, edit in read_patch(Path(spec.rpartition("+")[2])).edits.items()}


def test_a_cut_is_what_scores_choose_by_hand_and_its_controls_are_other_units(lab: Lab) -> None:
    cuts = {
        choice: chosen(made(lab, Cut(harm, keep_examples, 4, "snip-contrast", choice)))
        for choice in ("patch", "random", "content_matched")
    }  # fmt: skip
    subject = load(lab.root.spec)
    view = WeightView(subject.model)

    def sums(examples: Any, side: str) -> Any:
        cases, _ = cases_of(subject, examples, lambda e: getattr(e, side))
        return unit_sums(subject, cases, "neuron+head", view=view)

    one, twin, keep = sums(harm(), "conversation"), sums(harm(), "twin"), sums(keep_examples(), "conversation")
    for choice, score in (("patch", unit_score(one, twin, keep)), ("content_matched", unit_score(twin, one, keep))):
        by_hand = select_count(view, score, unit_importance(keep), count=4, keep_fraction=0.001, unit="neuron+head")
        assert cuts[choice].keys() == by_hand.chosen.keys()
        assert all(torch.equal(cuts[choice][name], index) for name, index in by_hand.chosen.items())
    assert {n: i.numel() for n, i in cuts["random"].items()} == {n: i.numel() for n, i in cuts["patch"].items()}
    assert not any(torch.isin(cuts["random"][name], index).any() for name, index in cuts["patch"].items())


def test_a_cut_model_is_tuned_as_it_is_cut(lab: Lab) -> None:
    cut, learn = (
        Cut(harm, keep_examples, 3, "snip-contrast"),
        Tune(rows, TuneOptions(steps=1, batch_size=2, lr=1e-3, warmup_steps=0)),
    )
    alone, patched = made(lab, learn, seed=1), made(lab, cut, learn, seed=1)
    assert alone != patched
    loaded = lab.load(patched)
    zeros = chosen(made(lab, cut))
    base = load(f"{lab.root.spec}+{made(lab, cut).rpartition('+')[2]}")
    for name, index in zeros.items():
        assert bool((WeightView(base.model)[name].parameter.reshape(-1)[index] == 0).all())
        before = WeightView(lab.fresh(lab.root.spec).model)[name].parameter
        now = WeightView(lab.load(patched).model)[name].parameter
        drift = (now - before).reshape(-1)[index].abs().mean()
        assert drift > 0.5 * before.reshape(-1)[index].abs().mean()  # gone, but for what one step brought back
    assert loaded.identity.weights_sha256 != lab.load(alone).identity.weights_sha256
    assert len(lab.efforts(patched)) == 1


def test_seeds_give_different_models_and_the_same_seed_the_same(lab: Lab) -> None:
    learn = Tune(rows, TuneOptions(steps=1, batch_size=2, lr=1e-3, warmup_steps=0))
    zero, one = (lab.load(made(lab, learn, seed=seed)).identity.weights_sha256 for seed in (0, 1))
    assert zero != one
    assert made(lab, learn, seed=0) == made(lab, learn, seed=0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_scaled_update_lies_between_base_and_fine_tune(lab: Lab, share: float) -> None:
    learn = Tune(rows, TuneOptions(steps=2, batch_size=2, lr=1e-2, warmup_steps=0))
    base = {n: p.clone() for n, p in lab.fresh(lab.root.spec).model.named_parameters()}
    tuned = {n: p.clone() for n, p in lab.fresh(made(lab, learn, seed=0)).model.named_parameters()}
    scaled = dict(lab.fresh(made(lab, learn, ScaleUpdate(share), seed=0)).model.named_parameters())
    assert any(not torch.equal(base[n], tuned[n]) for n in base)
    for name, parameter in scaled.items():
        assert torch.allclose(parameter, base[name] + share * (tuned[name] - base[name]), atol=1e-6)
    with pytest.raises(UsageError, match="give 0 to 1"):
        ScaleUpdate(1.5)


@pytest.mark.parametrize("given", [True, False])
def test_what_is_located_and_as_many_units_at_random(lab: Lab, tmp_path: Path, given: bool) -> None:
    options = LocateOptions(limit=4, score="snip-contrast", keep_fraction=0.0, prune_fraction=0.02)
    patch = None
    if given:
        view = WeightView(load(lab.root.spec).model)
        members = {"model.layers.1.mlp.down_proj.weight": torch.tensor([3, 40])}
        patch = tmp_path / "cut.safetensors"
        selection = select_units(view, members, "neuron+head")
        write_patch(patch, make_patch(view, selection.chosen, "zero", {"unit": "neuron+head"}))
    found, random = (
        chosen(made(lab, Locate(("dev/health",), options, random=random, patch=patch))) for random in (False, True)
    )
    if given:
        assert found.keys() == members.keys()
    assert {n: i.numel() for n, i in random.items()} == {n: i.numel() for n, i in found.items()}
    assert not any(torch.isin(random[name], index).any() for name, index in found.items())
