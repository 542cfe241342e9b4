"""The one formatter of settings' errors, and the presets beside the defaults."""

import copy
import pickle
from typing import Annotated, Any, Self

import numpy as np
import pytest
import yaml
from pydantic import Field, model_validator
from suites.scores import ScoreSettings

from csb.cli.commands import CONF
from csb.errors import CSBError
from csb.process import SCHEDULES
from csb.runs.presets import PRESETS, SCHEMAS
from csb.schema import Count, Distinct, Kept, Name, OneOf, Place, Positive, Schema, Share, Whole
from csb.training.settings import TrainingSettings


class Inner(Schema):
    group = "inner"

    size: Count = 3


class Example(Schema):
    """Of every kind of field."""

    group = "group"
    alone = ("L",)

    L: Annotated[int, Field(ge=1, le=9)] = 1
    """Iterations."""
    count: Count = 1
    whole: Whole = 0
    share: Share = 0.5
    inside: Annotated[float, Field(gt=0, lt=1)] | None = 0.5
    above: Positive = 1.0
    any_number: float = 0.0
    flag: bool = False
    choice: Annotated[str, OneOf(("best", "last"))] = "best"
    text: Name = "x"
    either: bool | Name | None = None
    place: Place = "here"
    counts: Annotated[list[Count], Distinct, Field(min_length=1)] = [1]
    table: dict[Annotated[str, OneOf(("dps", "sda"))], list[Annotated[Positive, Kept]]] = {}
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.whole > self.count + 10:
            raise CSBError(f"group.whole={self.whole} is far above group.count={self.count}; lower it")
        return self


AT_LEAST_1 = "is not possible; give an integer of at least 1"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"L": 0}, "L=0 is not possible; give an integer in 1..9"),
    ({"count": 0}, f"group.count=0 {AT_LEAST_1}"),
    ({"count": True}, f"group.count=True {AT_LEAST_1}"),
    ({"count": 1.0}, f"group.count=1.0 {AT_LEAST_1}"),
    ({"count": "3"}, f"group.count='3' {AT_LEAST_1}"),
    ({"count": 2**63}, f"group.count={2**63} {AT_LEAST_1}"),
    ({"count": 10**400}, f"group.count={10**78}… {AT_LEAST_1}"),
    ({"share": 1.5}, "group.share=1.5 is not possible; give a number in [0, 1]"),
    ({"share": "1e-3"}, "group.share='1e-3' is not possible; give a number in [0, 1]"),
    ({"share": False}, "group.share=False is not possible; give a number in [0, 1]"),
    ({"inside": 1}, "group.inside=1 is not possible; give a number in (0, 1) or null"),
    ({"above": float("inf")}, "group.above=inf is not possible; give a finite number above 0"),
    ({"any_number": float("nan")}, "group.any_number=nan is not possible; give a finite number"),
    ({"flag": 1}, "group.flag=1 is not possible; give true or false"),
    ({"choice": "bset"}, "group.choice='bset' is unknown; choose one of best, last (did you mean best?)"),
    ({"choice": ["best"]}, "group.choice=['best'] is unknown; choose one of best, last"),
    ({"text": ""}, "group.text='' is not possible; give a text"),
    ({"either": 3}, "group.either=3 is not possible; give true or false or a text or null"),
    ({"place": " "}, "group.place=' ' names no folder or file; give its path"),
    ({"place": "x" * 300}, f"group.place='{'x' * 78}… is longer than names of files can be; give a shorter one"),
    ({"place": None}, "group.place=None is not possible; give a path"),
    ({"counts": 3}, "group.counts=3 is not possible; give a list that is not empty, each an integer of at least 1"),
    ({"counts": [2, 0]}, f"group.counts[1]=0 {AT_LEAST_1}"),
    ({"counts": [2, 2]}, "group.counts=[2, 2] repeats an entry; give each once"),
    ({"table": None}, "group.table=None is not possible; give a table {key: value, …}"),
    ({"table": {"tds": [1]}}, "group.table has no setting 'tds'; choose among dps, sda (did you mean dps?)"),
    ({"table": {"dps": [1, 0]}}, "group.table.dps[1]=0 is not possible; give a finite number above 0"),
    ({"inner": {"size": 0}}, f"inner.size=0 {AT_LEAST_1}"),
    ({"inner": 3}, "group.inner=3 is not possible; give a table {key: value, …}"),
    ({"whole": 12}, "group.whole=12 is far above group.count=1; lower it"),
    ({"shar": 1, "L": 0}, "group has no setting 'shar'; choose among L, count, whole, share, "),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[str(values)[:40] for values, _ in REFUSED])
def test_one_line_with_key_value_and_what_is_allowed(values, message):
    for make in (lambda: Example(**values), lambda: Example.read(values), lambda: Example().replace(**values)):
        with pytest.raises(CSBError) as error:
            make()
        assert str(error.value).startswith(message)


def test_what_is_missing_and_what_is_no_group():
    with pytest.raises(CSBError, match=r"^training.steps is missing; give training.steps=…$"):
        TrainingSettings(L=1, first_steps=1)  # type: ignore[call-arg]
    with pytest.raises(CSBError, match=r"^group=3 is not a group of settings; give \{key: value, …\}$"):
        Example.read(3)
    with pytest.raises(CSBError, match=r"^other.count=0"):
        Example.read({"count": 0}, "other")


def test_what_is_accepted():
    found = Example(2, np.int64(3), above=2, share=np.float32(0.5), table={"dps": [1, 0.5]}, inner={"size": 4})
    assert (found.L, found.count, found.above, found.share, found.inner.size) == (2, 3, 2.0, 0.5, 4)
    assert [type(value) for value in (found.count, *found.table["dps"])] == [int, int, float]
    assert found == copy.deepcopy(found) == pickle.loads(pickle.dumps(found)) == Example(**vars(found))
    assert Example.model_fields["L"].description == "Iterations."
    with pytest.raises(ValueError, match="frozen"):
        found.count = 4


def defaults(kind):
    return {name: field.get_default() for name, field in kind.model_fields.items() if not field.is_required()}


@pytest.mark.parametrize("group", SCHEMAS)
def test_a_preset_names_what_differs_from_the_defaults(group):
    given = defaults(SCHEMAS[group])
    for name, values in PRESETS[group].items():
        assert set(values) <= set(SCHEMAS[group].model_fields), name
        assert [key for key in values if key != "name" and values[key] == given.get(key, ...)] == [], name


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_presets_of_a_schedule_are_its_defaults(name):
    given, values = defaults(SCHEDULES[name]), PRESETS["schedule"][name]
    assert {key: values[key] for key in given if key in values} == given


def test_the_suite_has_the_defaults_of_its_scores():
    conf = yaml.safe_load((CONF / "suite" / "sbi.yaml").read_text())["score"]
    given = defaults(ScoreSettings)
    assert {key: given[key] for key in conf if key in given} == {key: conf[key] for key in conf if key in given}
