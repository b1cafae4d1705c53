"""Every choice: its YAML file and its dataclass say the same, and what is read from source is what is imported."""

from __future__ import annotations

import importlib
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from dnntrain.config.convert import convert_value, to_plain
from dnntrain.config.groups import GROUPS, LISTS, OVERLAYS
from dnntrain.config.key_table import get_root_fields, get_section_fields
from dnntrain.config.registry import Choice, get_builtin_source, load_registry
from dnntrain.config.run_config import ROOT_KEYS, SECTIONS, RootSection
from dnntrain.config.schema import REQUIRED, read_choice_schema
from dnntrain.config.yaml_io import read_yaml

CHOICES = [
    choice
    for group in GROUPS
    if group not in OVERLAYS
    for choice in load_registry().get_choices(group).values()
    if choice.chain[0].path.is_relative_to(get_builtin_source().conf)
]
BASES = [choice for choice in CHOICES if choice.name == choice.base]


def _names(choices: list[Choice]) -> list[str]:
    return [f"{choice.group}-{choice.name}" for choice in choices]


@pytest.mark.parametrize("choice", BASES, ids=_names(BASES))
def test_yaml_and_dataclass_have_the_same_knobs_and_defaults(choice: Choice) -> None:
    knobs = choice.schema.fields
    values = {name: value for name, value in choice.read_values().items() if name != "name" or "name" in knobs}
    assert list(values) == list(knobs)
    for name, knob in knobs.items():
        if knob.default is REQUIRED:
            assert values[name] == "???"
        else:
            assert convert_value(values[name], knob.type) == knob.default


@pytest.mark.parametrize("choice", BASES, ids=_names(BASES))
def test_what_is_read_from_source_is_the_imported_dataclass(choice: Choice) -> None:
    assert choice.module is not None
    kind = getattr(importlib.import_module(choice.module), choice.schema.class_name)
    hints = get_type_hints(kind, include_extras=True)
    imported = {field.name: (hints[field.name], _default(field)) for field in fields(kind)}
    assert {name: (knob.type, knob.default) for name, knob in choice.schema.fields.items()} == imported
    assert kind.__dataclass_params__.frozen


@pytest.mark.parametrize("choice", CHOICES, ids=_names(CHOICES))
def test_a_choice_is_explained(choice: Choice) -> None:
    assert choice.chain[-1].doc
    assert all(knob.doc for knob in choice.schema.fields.values())


@pytest.mark.parametrize("choice", CHOICES, ids=_names(CHOICES))
def test_every_knob_of_a_yaml_has_a_comment(choice: Choice) -> None:
    for line in choice.yaml.read_text(encoding="utf-8").splitlines():
        if re.match(r"[a-z_]+:", line) and not line.startswith(("name:", "defaults:")):
            assert " # " in line, line


@pytest.mark.parametrize("choice", CHOICES, ids=_names(CHOICES))
def test_only_members_of_lists_stand_in_a_package(choice: Choice) -> None:
    assert choice.chain[-1].package == (choice.key if choice.group in LISTS else None)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_root_file_has_the_defaults_of_each_section(section: str) -> None:
    values = read_yaml(load_registry().root).values[section]
    assert values == {name: to_plain(knob.default) for name, knob in get_section_fields(section).items()}
    assert list(values) == [field.name for field in fields(SECTIONS[section])]


def test_the_root_file_has_the_defaults_of_the_plain_values() -> None:
    root = read_yaml(load_registry().root).values
    expected = {field.name: field.default for field in fields(RootSection)} | {"name": root["name"]}
    assert {name: root[name] for name in ROOT_KEYS} == expected
    assert list(get_root_fields()) == list(ROOT_KEYS)


def test_the_root_file_holds_nothing_else() -> None:
    root = read_yaml(load_registry().root).values
    assert {*root} == {*ROOT_KEYS, *SECTIONS, *LISTS, "hydra"}


#: Families of choices that one test file covers, and why.
FAMILIES = {
    "tests/choices/model/test_models.py": (
        "every network is held to the same contract: shapes, parameters, sections and initialization",
        {f"model={name}" for name in ("airbench", "mlp", "mobilenet_v3_small", "resnet18", "resnet_cifar")}
        | {f"model={name}" for name in ("small_cnn", "vit_tiny", "wide_resnet")},
    ),
    "tests/choices/data/test_idx.py": ("the same file format", {"data=mnist", "data=fashion_mnist"}),
    "tests/choices/data/test_cifar.py": ("the same file format", {"data=cifar10", "data=cifar100"}),
    "tests/choices/monitor/test_guards.py": (
        "each is an alarm on a row of numbers",
        {f"monitor={name}" for name in ("data_stall", "dead_units", "gradient_norm")}
        | {f"monitor={name}" for name in ("loss_spike", "non_finite", "straggler")},
    ),
    "tests/choices/norm/test_convert.py": (
        "conversion of a model's layers, and what a choice leaves alone",
        {"norm=layer", "norm=none"},
    ),
    "tests/choices/quant/test_post_training.py": (
        "one export for all",
        {f"quant={name}" for name in ("int8_dynamic", "int8_static", "int8_weight_only", "none")},
    ),
    "tests/choices/sched/test_schedules.py": (
        "each is a curve over the same steps",
        {f"sched={name}" for name in ("constant", "cosine", "cosine_restarts", "exponential", "inverse_sqrt")}
        | {f"sched={name}" for name in ("linear", "multistep", "one_cycle", "polynomial", "sequence", "step")},
    ),
    "tests/choices/precision/test_precision.py": (
        "what each computes in on given hardware",
        {f"precision={name}" for name in ("auto", "bf16", "fp16", "fp32")},
    ),
    "tests/choices/parallel/test_layouts.py": (
        "every layout trains the run of one process",
        {f"parallel={name}" for name in ("fsdp", "hsdp", "pp", "single", "tp")},
    ),
    "tests/choices/parallel/test_refusals.py": ("which degrees it picks, and what it refuses", {"parallel=auto"}),
    "tests/choices/launch/test_two_nodes.py": ("processes that are started by hand", {"launch=local"}),
    "tests/choices/augment/test_mixup.py": ("mixing by the same pairs", {"augment=cutmix"}),
    "tests/choices/distill/test_teacher.py": ("the run without a teacher", {"distill=none"}),
    "tests/config/test_registry.py": ("it does nothing", {"prune=none", "adapt=none"}),
    # Files of one name would be one module to pytest.
    **{
        f"tests/choices/{group}/test_custom_{group}.py": ("code of a user's own", {f"{group}=custom"})
        for group in ("augment", "data", "optim", "sched", "task")
    },
}


def test_modules_yaml_files_and_presets_are_the_same_names() -> None:
    source = get_builtin_source()
    assert source.folder is not None
    modules = {
        (folder.name, path.stem)
        for folder in source.folder.iterdir()
        if folder.is_dir()
        for path in folder.glob("*.py")
        if not path.name.startswith("_")
    }
    assert modules == {(choice.group, choice.name) for choice in BASES}
    assert {choice.base for choice in CHOICES} <= {name for _, name in modules}
    assert all("defaults" in choice.yaml.read_text(encoding="utf-8") for choice in CHOICES if choice not in BASES)
    assert {folder.name for folder in source.conf.iterdir() if folder.is_dir()} == {*GROUPS, "pipeline"}


def test_every_choice_has_a_test_file_of_its_name_or_of_its_family() -> None:
    tests = Path(__file__).parents[1]
    covered = {choice for _, choices in FAMILIES.values() for choice in choices}
    own = {
        f"{choice.group}={choice.name}"
        for choice in BASES
        if (tests / "choices" / choice.group / f"test_{choice.name}.py").is_file()
    }
    assert not {f"{choice.group}={choice.name}" for choice in BASES} - own - covered
    assert not [file for file in FAMILIES if not (tests.parent / file).is_file()]
    assert {folder.name for folder in (tests / "choices").iterdir() if any(folder.glob("test_*.py"))} <= set(GROUPS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "found none"),
        ("@dataclass(frozen=True)\nclass A:\n    x: Tensor = 1\n    def build(self): ...", "must use the names"),
        (
            "@dataclass(frozen=True)\nclass A(B):\n    def build(self): ...",
            "class B is neither defined here nor imported",
        ),
        ("@dataclass(frozen=True)\nclass A:\n    x: int = open('/tmp/never')\n    def build(self): ...", "must use"),
    ],
)
def test_a_module_that_is_no_choice_is_named(tmp_path: Path, source: str, message: str) -> None:
    path = tmp_path / "a.py"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_choice_schema(path)


def _default(field: Any) -> Any:
    return REQUIRED if field.default is MISSING else field.default
