"""Stages are keyed by their content: what changes, what stays, what is stale, and which models fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pipelines import CHAIN, write_pipeline

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.pipeline import keys
from dnntrain.pipeline.check_stages import check_stages
from dnntrain.pipeline.definition import read_definition
from dnntrain.pipeline.prepare import Pipeline, prepare_pipeline
from dnntrain.pipeline.stage_runs import check_stale, find_stale, read_stage_status, write_record
from dnntrain.utils.sealed_json import write_sealed_json


def prepare_chain(folder: Path, *words: str) -> Pipeline:
    config_dir = write_pipeline(folder, CHAIN)
    words = (*words, f"run_dir={folder / 'made'}")
    return prepare_pipeline(read_definition("chain", words, config_dir), config_dir)


def get_keys(pipeline: Pipeline) -> dict[str, str]:
    return {run.label: run.key for run in pipeline.runs}


def finish_stages(pipeline: Pipeline) -> None:
    """Write what finished runs leave, as far as a pipeline reads it."""
    for run in pipeline.runs:
        run.folder.mkdir(parents=True)
        (run.folder / "model.safetensors").write_bytes(run.key.encode())
        write_sealed_json(run.folder / "result.json", {"status": "done", "digest": run.key[:8], "steps": 3})
        write_record(run, pipeline.code)


@pytest.mark.slow
def test_a_changed_setting_renews_its_stage_and_those_after_it(tmp_path):
    before, after = (get_keys(prepare_chain(tmp_path, *words)) for words in ((), ("student.optim.lr=0.01",)))
    assert before["teacher"] == after["teacher"]
    assert before["student"] != after["student"]
    assert before["quantize"] != after["quantize"]


@pytest.mark.slow
def test_the_name_of_the_folder_does_not_count(tmp_path):
    keys = [get_keys(prepare_chain(tmp_path / name)) for name in ("a", "b")]
    assert keys[0] == keys[1]


@pytest.mark.slow
def test_another_version_of_the_code_renews_every_stage(tmp_path, monkeypatch):
    before = get_keys(prepare_chain(tmp_path))
    monkeypatch.setattr("dnntrain.pipeline.prepare.compute_code_digest", lambda: "other")
    after = get_keys(prepare_chain(tmp_path))
    assert not set(before.values()) & set(after.values())


def test_a_changed_file_of_code_or_data_renews_a_stage(tmp_path):
    file = tmp_path / "mine.py"
    found = set()
    for text in ("a = 1", "a = 2"):
        file.write_text(text)
        keys._digest_file.cache_clear()
        for config in ({"task": {"file": str(file)}}, {"augment": {"custom": {"file": str(file)}}}):
            found.add(keys.compute_stage_key(config, {}, "code"))
    assert len(found) == 4


@pytest.mark.parametrize(
    "make_config",
    [
        lambda path: {"task": {"class_weights": str(path)}},
        lambda path: {"task": {"label_weights": str(path)}},
        lambda path: {"data": {"classes": str(path)}},
        lambda path: {"init_from": str(path)},
        lambda path: {"distill": {"teacher": [str(path)]}},
    ],
)
def test_every_file_that_a_setting_names_renews_a_stage(tmp_path, make_config):
    (tmp_path / "run").mkdir()
    for file, named in (
        (tmp_path / "w.csv", tmp_path / "w.csv"),
        (tmp_path / "run" / "model.safetensors", tmp_path / "run"),
    ):
        found = set()
        for text in ("1", "2"):
            file.write_text(text)
            keys._digest_file.cache_clear()
            found.add(keys.compute_stage_key(make_config(named), {}, "code"))
        assert len(found) == 2


def test_a_text_that_cannot_be_a_path_is_not_a_file():
    config = {"a": "x" * 5000, "b": "nul\0", "c": "~nobody-of-this-name/x", "d": "", "e": 3, "f": None}
    assert list(keys._digest_files(config, "")) == []


@pytest.mark.slow
def test_a_stage_of_several_seeds_takes_the_same_seed_of_its_source(tmp_path):
    pipeline = prepare_chain(tmp_path, "student.seeds=3", "quantize.seeds=2", "seed=5")
    students, quantized = pipeline.list_runs("student"), pipeline.list_runs("quantize")
    assert [run.config["seed"] for run in students] == [5, 6, 7]
    assert [run.inputs["init_from"] for run in quantized] == students[:2]
    assert {run.inputs["teacher"].stage for run in students} == {"teacher"}
    assert students[0].key == prepare_chain(tmp_path, "seed=5").list_runs("student")[0].key


def test_a_finished_stage_is_known_by_its_key(tmp_path):
    pipeline = prepare_chain(tmp_path)
    assert {read_stage_status(run)[0] for run in pipeline.runs} == {"waiting"}
    finish_stages(pipeline)
    assert {read_stage_status(run) for run in pipeline.runs} == {("done", 3)}
    assert read_stage_status(replace(pipeline.runs[0], key="other"))[0] == "waiting"
    assert not find_stale(pipeline.runs)


@pytest.mark.slow
def test_a_model_that_was_changed_after_its_stage_is_refused(tmp_path):
    pipeline = prepare_chain(tmp_path)
    finish_stages(pipeline)
    teacher = pipeline.runs[0]
    (teacher.folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError) as caught:
        check_stale(pipeline.runs)
    assert "model.safetensors was changed" in str(caught.value)
    assert f"delete {teacher.folder}" in str(caught.value)


@pytest.mark.slow
def test_an_export_that_is_missing_or_altered_is_named(tmp_path):
    pipeline = prepare_chain(tmp_path)
    finish_stages(pipeline)
    final = pipeline.final_run
    export = final.folder / "exports" / "onnx_int8" / "model.onnx"
    export.parent.mkdir(parents=True)
    export.write_bytes(b"model")
    assert not find_stale(pipeline.runs)
    write_record(final, pipeline.code)
    assert not find_stale(pipeline.runs)
    export.write_bytes(b"other")
    assert [f"{export} was changed" in text for text in find_stale(pipeline.runs)] == [True]
    export.unlink()
    assert [f"{export} is missing" in text for text in find_stale(pipeline.runs)] == [True]


@pytest.mark.slow
def test_a_stage_whose_source_was_made_again_is_stale(tmp_path):
    pipeline = prepare_chain(tmp_path)
    finish_stages(pipeline)
    teacher, student, _ = pipeline.runs
    (teacher.folder / "model.safetensors").write_bytes(b"other")
    write_record(teacher, pipeline.code)
    with pytest.raises(ConfigError) as caught:
        check_stale(pipeline.runs)
    assert "stage student is stale" in str(caught.value)
    assert f"delete {student.folder}" in str(caught.value)


@pytest.mark.slow
def test_an_altered_record_is_refused(tmp_path):
    pipeline = prepare_chain(tmp_path)
    finish_stages(pipeline)
    record = pipeline.runs[0].folder / "stage.json"
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(CheckpointError, match="altered"):
        find_stale(pipeline.runs)


def test_all_mistakes_of_all_stages_are_listed(tmp_path):
    with pytest.raises(ConfigError) as caught:
        prepare_chain(tmp_path, "teacher.optim.lrr=1", "student.optim=sgdd", "quantize.quant=int8_statc")
    text = str(caught.value)
    assert "stage teacher" in text
    assert "lr" in text


@pytest.mark.slow
def test_a_teacher_for_other_classes_is_refused_before_anything_trains(tmp_path):
    with pytest.raises(ConfigError) as caught:
        prepare_chain(tmp_path, "teacher.data=synthetic", "teacher.data.image_size=8", "teacher.data.num_classes=4")
    assert "use student.data=synthetic, or teacher.data=digits" in str(caught.value)


@pytest.mark.slow
def test_a_stage_that_cannot_be_planned_is_refused_before_anything_trains(tmp_path):
    words = ("student.prune=structured", "student.prune.ratio=0.999", "quantize.prune=structured")
    pipeline = prepare_chain(tmp_path, *words, "quantize.prune.exclude=[nothing]")
    said: list[str] = []
    with pytest.raises(ConfigError) as caught:
        check_stages(pipeline.runs, said.append)
    assert "stage student: prune.ratio=0.999 cannot be reached" in str(caught.value)
    assert "stage quantize: prune.exclude=nothing does not match a module" in str(caught.value)
    assert said == ["planning 3 stages"]
    assert not list(tmp_path.glob("**/checkpoints"))


def test_the_code_digest_covers_what_computes_and_not_what_shows(tmp_path, monkeypatch):
    for name in ("training", "report"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("1")
    monkeypatch.setattr(keys, "PACKAGE_FOLDER", tmp_path)
    digests = []
    for changed in (None, "report", "training"):
        if changed:
            (tmp_path / changed / "a.py").write_text("2")
        keys.compute_code_digest.cache_clear()
        digests.append(keys.compute_code_digest())
    keys.compute_code_digest.cache_clear()
    assert digests[0] == digests[1] != digests[2]
