"""Pipelines are read, ordered and refused as their page says; nothing here imports torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pipelines import CHAIN, write_pipeline
from short_runs import environment

from dnntrain.errors import ConfigError
from dnntrain.pipeline.definition import Stage, find_circle, list_pipelines, order_stages, read_definition
from dnntrain.pipeline.settings import format_settings, format_value, merge_words


def read_chain(folder: Path, *words: str, text: str = CHAIN):
    return read_definition("chain", words, write_pipeline(folder, text))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.1, "0.1"),
        ("2ep", "2ep"),
        ("a b", "'a b'"),
        ("it's", r"'it\'s'"),
        ([32, 64], "[32,64]"),
        ({"width": 2}, "{width:2}"),
    ],
)
def test_a_value_is_written_as_it_is_typed(value, text):
    assert format_value(value) == text


def test_nested_and_dotted_keys_are_the_same():
    assert format_settings({"train": {"duration": "1ep"}}) == format_settings({"train.duration": "1ep"})


def test_a_later_layer_replaces_values_and_the_options_of_a_replaced_choice():
    words = merge_words([["optim=sgd", "optim.momentum=0.8", "seed=1"], ["optim=adamw", "seed=2"]])
    assert words == ["optim=adamw", "seed=2"]


def test_the_options_of_a_list_stay_if_the_list_still_names_their_choice():
    words = merge_words([["augment=[crop,flip]", "augment.crop.padding=2"], ["augment=[crop]"]])
    assert words == ["augment.crop.padding=2", "augment=[crop]"]


def test_stages_come_after_those_that_they_take_from(tmp_path):
    definition = read_chain(tmp_path)
    assert [stage.name for stage in definition.stages] == ["teacher", "student", "quantize"]
    assert definition.list_sources("quantize") == ["teacher", "student", "quantize"]
    assert definition.list_sources("teacher") == ["teacher"]


def test_a_stage_that_takes_weights_has_the_network_of_its_source(tmp_path):
    definition = read_chain(tmp_path, "student.model.hidden=8")
    words = definition.get_stage("quantize").words
    assert "model=small_cnn" in words
    assert "model.hidden=8" in words
    assert "distill=kd" not in words


def test_words_of_the_line_apply_to_all_stages_and_those_of_a_stage_to_one(tmp_path):
    definition = read_chain(tmp_path, "train.duration=1ep", "student.train.duration=3ep", "seeds=2", "teacher.seeds=1")
    durations = {stage.name: [word for word in stage.words if "duration" in word] for stage in definition.stages}
    assert durations == {
        "teacher": ["train.duration=1ep"],
        "student": ["train.duration=3ep"],
        "quantize": ["train.duration=1ep"],
    }
    assert {stage.name: stage.seeds for stage in definition.stages} == {"teacher": 1, "student": 2, "quantize": 2}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("studnet.train.duration=1ep",), "did you mean student.train.duration?"),
        (("student.distill.teacher=x",), "from: {teacher: STAGE}"),
        (("init_from=x",), "from: {init_from: STAGE}"),
        (("student.run_dir=x",), "leave it out"),
        (("student.seeds=0",), "from 1 to 100"),
    ],
)
def test_words_without_a_meaning_are_refused_with_the_nearest(tmp_path, words, text):
    with pytest.raises(ConfigError) as caught:
        read_chain(tmp_path, *words)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("from: student", "from: studnt", "did you mean 'student'?"),
        ("from: {teacher: teacher}", "from: {teachr: teacher}", "did you mean 'teacher'?"),
        ("  - name: teacher\n", "  - name: teacher\n    from: student\n", "in a circle: "),
        ("    distill: kd\n", "", "set student.distill=kd"),
        ("name: teacher\n    model", "name: model\n    model", "is a key of the configuration"),
        ("name: teacher\n    model", "name: student\n    model", "is used twice"),
        ("stages:", "steps:", "did you mean 'stages'?"),
        ("name: teacher\n    model", "name: teacher\n    seeds: none\n    model", "from 1 to 100"),
    ],
)
def test_a_pipeline_with_a_mistake_is_refused_with_the_nearest(tmp_path, old, new, text):
    assert old in CHAIN
    with pytest.raises(ConfigError) as caught:
        read_chain(tmp_path, text=CHAIN.replace(old, new, 1))
    assert text in str(caught.value)


def test_an_unknown_pipeline_is_refused_with_the_nearest():
    name = next(iter(list_pipelines()))
    with pytest.raises(ConfigError, match=f"did you mean '{name}'"):
        read_definition(name[:-1], ())


def test_a_circle_is_found_wherever_it_is():
    stages = [Stage("a", {}, ()), Stage("b", {"init_from": "d"}, ()), Stage("c", {"teacher": "b"}, ())]
    assert find_circle([*stages, Stage("d", {"init_from": "c"}, ())]) == ["b", "d", "c"]
    assert not find_circle([*stages, Stage("d", {"init_from": "a"}, ())])
    assert find_circle([Stage("a", {"init_from": "a"}, ())]) == ["a"]


def test_stages_keep_their_order_if_nothing_else_decides():
    stages = [Stage("b", {}, ()), Stage("a", {}, ()), Stage("c", {"init_from": "a"}, ())]
    assert [stage.name for stage in order_stages(stages)] == ["b", "a", "c"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code"),
    [(("student.optim.lrr=1",), 2), (("--plan",), 0), (("--status",), 0), (("teacher.train.batch_size=0",), 2)],
)
def test_mistakes_and_plans_need_no_torch(tmp_path, words, code):
    line = [
        "pipeline",
        "chain",
        f"--config-dir={write_pipeline(tmp_path, CHAIN)}",
        f"run_dir={tmp_path / 'made'}",
        *words,
    ]
    script = (
        "import sys; from dnntrain.cli.main import main; "
        f"code = main({line!r}); sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    assert subprocess.run([sys.executable, "-c", script], env=environment(), check=False).returncode == code
