"""Policies by name and codecs by step."""

from __future__ import annotations

import pytest

import gradwire
from gradwire import ArgumentError, Policy, PowerSGD, Stages, ramp, warmup


def test_the_first_pattern_that_matches_decides() -> None:
    policy = Policy({"*.bias": None, "embed.*": "int8", "*": "int4"})
    assert policy.at("embed.bias") is None
    assert repr(policy.at("embed.weight")) == "int8(block=128)"
    assert policy.at("layers.3.weight") is policy.at("head")


def test_a_name_that_nothing_matches_is_an_error_unless_there_is_a_default() -> None:
    with pytest.raises(ArgumentError, match=r"'head'.*'\*\.bias'.*default"):
        Policy({"*.bias": None}).at("head")
    assert Policy({"*.bias": "int8"}, default=None).at("head") is None
    assert repr(Policy({"*.bias": None}, default="bf16").at("head")) == "bf16"


def test_case_matters_and_patterns_that_decide_nothing_are_named() -> None:
    policy = Policy({"Embed.*": "int8", "*": None, "late": "int4"})
    assert policy.unused(["embed.weight", "late"]) == ["Embed.*", "late"]


def test_a_misspelt_codec_is_found_before_the_first_step() -> None:
    for choice in ("int9", "powersgd(rank=0)", 7, Stages({0: None, 9: "nope"})):
        with pytest.raises(ArgumentError):
            Policy({"*": choice})


def test_stages_switch_at_their_steps_and_so_does_a_policy() -> None:
    policy = Policy({"*.bias": None, "*": Stages({0: None, 3: "int8", 5: "powersgd(rank=2)"})})
    seen = [str(policy.at("w", step)) for step in range(7)]
    assert seen == ["None"] * 3 + ["int8(block=128)"] * 2 + ["powersgd(rank=2)"] * 2
    assert [policy.stage(s) for s in (0, 2, 3, 4, 5)] == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 2)]
    assert isinstance(policy.at("w", 6), PowerSGD) and policy.at("w", 6) is policy.at("w", 99)


def test_a_ramp_has_the_stages_of_deep_gradient_compression() -> None:
    stages = ramp("topk(ratio={})", 0.25, 0.25 / 256, steps=20, dense_steps=10)
    assert stages.firsts == [0, 10, 14, 18, 22, 26]
    ratios = [c.split("=")[1].rstrip(")") for c in stages.choices[1:]]
    assert [float(r) for r in ratios] == [0.25, 0.0625, 0.015625, 0.00390625, 0.000976562]
    for choice in stages.choices[1:]:
        gradwire.codec(choice)


def test_a_linear_ramp_of_bits_takes_whole_numbers() -> None:
    assert ramp("int{}", 8, 4, steps=90, curve="linear", stages=2).choices == ["int8", "int4"]
    assert len(ramp("int{}", 8, 8, steps=90, stages=3).choices) == 1


def test_warmup_of_no_steps_is_the_codec_alone() -> None:
    assert warmup("int8", 0).choices == ["int8"]
    assert warmup("int4", 5, before="int8").at(4) == "int8"


@pytest.mark.parametrize(
    "call",
    [
        lambda: Stages({}),
        lambda: Stages({1: None}),
        lambda: Stages({-1: None, 0: "int8"}),
        lambda: warmup("int8", -1),
        lambda: ramp("int8", 8, 4, steps=10),
        lambda: ramp("int{}", 0, 4, steps=10),
        lambda: ramp("int{}", 8, 4, steps=10, curve="cubic"),
        lambda: ramp("int{}", 8, 4, steps=1),
    ],
)
def test_what_makes_no_sense_is_refused(call: object) -> None:
    with pytest.raises(ArgumentError):
        call()  # type: ignore[operator]
