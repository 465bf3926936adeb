"""Every public name has a docstring, and the example in it runs."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import pytest

import gradwire
from gradwire import (
    codecs,
    collectives,
    communicator,
    errors,
    feedback,
    ops,
    prices,
    testing,
    trace,
    trials,
    user_codec,
    work,
)

BASES = [collectives, prices, trials]  # whose examples count, though nobody imports them
MODULES = [gradwire, codecs, communicator, errors, feedback, ops, testing, trace, user_codec, work]
# Explained and shown where they belong.
SHOWN_ELSEWHERE = {
    "Codec": "gradwire.codec",
    "Communicator.recv": "Communicator.send",
    "Communicator.trace_start": "TraceEvent",
    "Communicator.trace_stop": "TraceEvent",
    "Communicator.close": "Communicator",
    "Communicator.abort": "Communicator.reconfigure",
    "Work.done": "Work",
    "Work.wait": "Work",
    "Work.seconds": "Work",
    "Store": "gradwire.init",
    "Hub.delay": "Hub",
    "Hub.drop": "Hub",
    "Hub.close": "Hub",
    "Hub.connect": "Hub",
    "ErrorFeedback.names": "ErrorFeedback.declare",
    "ProcessResult": "run_processes",
    **{f"Policy.{n}": "Policy" for n in ("at", "stage", "choices", "unused")},
    **{f"Stages.{n}": "Stages" for n in ("at", "index")},
    **{f"GlobalTopK.{n}": "GlobalTopK" for n in ("all_reduce", "reduce", "parse", "state_dict")},
    **{f"GlobalTopK.{n}": "GlobalTopK" for n in ("load_state_dict", "warm_state", "load_warm_state")},
    **{f"PowerSGD.{n}": "PowerSGD" for n in ("all_reduce", "reduce", "parse")},
    **{f"PowerSGD.{n}": "PowerSGD" for n in ("state_dict", "load_state_dict")},
    **{f"PowerSGD.{n}": "PowerSGD" for n in ("warm_state", "load_warm_state")},
}


def public_things() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in (gradwire, ops, testing):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.ismodule(thing):
                continue
            found[name] = thing
            if inspect.isclass(thing) and not issubclass(thing, BaseException) and name != "Codec":
                for method, value in inspect.getmembers(thing, callable):
                    if not method.startswith("_") and hasattr(value, "__qualname__"):
                        found[f"{name}.{method}"] = value
    return found


THINGS = public_things()


@pytest.mark.parametrize("name", [n for n in THINGS if n != "Codec"])
def test_a_public_name_says_what_it_does(name: str) -> None:
    owner = name.split(".", maxsplit=1)[0]
    if owner in ("TraceEvent", "Store") and "." in name:
        return  # tuple's own methods; a store's are for those who write one
    assert inspect.getdoc(THINGS[name]), f"{name} has no docstring"


@pytest.mark.parametrize("name", list(THINGS))
def test_a_public_name_shows_an_example(name: str) -> None:
    thing = THINGS[name]
    owner = name.split(".", maxsplit=1)[0]
    if name in SHOWN_ELSEWHERE or owner in ("TraceEvent", "Store", "ProcessResult", "Topology"):
        return
    if inspect.isclass(thing) and issubclass(thing, gradwire.GradwireError):
        return  # GradwireError shows how all of them are used
    assert ">>>" in (inspect.getdoc(thing) or ""), f"{name} has no example"


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    names: dict[str, doctest.DocTest] = {}
    for module in [*MODULES, *BASES]:
        for test in finder.find(module, module.__name__):
            # what needs several processes is shown, not run
            if not all(example.options.get(doctest.SKIP) for example in test.examples):
                names.setdefault(test.name, test)
    return list(names.values())


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_the_example_in_a_docstring_runs(example: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    result = runner.run(example, out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted > 0
