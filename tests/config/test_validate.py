"""Each rule of a command line: what is refused, with what words; all without a compose."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnntrain.config.compose import compose
from dnntrain.config.overrides import sort_mistakes
from dnntrain.config.validate import validate_overrides
from dnntrain.config.yaml_io import dump_yaml
from dnntrain.errors import ConfigError
from tests.support.plugin import write


def refusal(*words: str, config_dir: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        validate_overrides(words, config_dir)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["paralel=ddp"], ["did you mean 'parallel'?", "conf/parallel/"]),
        (["+paralel=ddp"], ["did you mean 'parallel'?"]),
        (["+typo=5"], ["there is no key 'typo'"]),
        (["++typo=5"], ["there is no key 'typo'"]),
        (["+train.typo=5"], ["train has no key 'typo'", "conf/config.yaml"]),
        (["parallel=ddb"], ["did you mean 'ddp'?", "conf/parallel/"]),
        (["optim=sgd", "optim.momentm=0.9"], ["did you mean 'optim.momentum'?", "conf/optim/sgd.yaml"]),
        (["optim.momentum=0.9"], ["optim=adamw has no 'momentum'", "optim=sgd (conf/optim/sgd.yaml)"]),
        (
            ["reg=[]", "reg.label_smoothing.smoothing=0.2"],
            ["not chosen", "add +reg=[label_smoothing]"],
        ),
        (["+reg=[sam]", "reg.samm.rho=0.9"], ["did you mean 'reg.sam.rho'?"]),
        (["reg=[sam,samm]"], ["reg=samm", "did you mean 'sam'?"]),
        (["optim.name=sgd"], ["because it records the choice", "optim=NAME"]),
        (["optim.lr.x=1"], ["is a value and has no keys below it"]),
        (["train=5"], ["train is a section"]),
        (["train={batch_size: 4}"], ["train is a section"]),
        (["experiment.x=1"], ["experiment=NAME"]),
        (["choices.model=x"], ["there is no key 'choices.model'"]),
    ],
)
def test_an_unknown_name_is_told_the_nearest_and_its_file(words: list[str], messages: list[str]) -> None:
    text = refusal(*words)
    for message in messages:
        assert message in text


def test_a_device_of_another_name_gets_the_line_that_works() -> None:
    assert refusal("device=cup").endswith("'cup' is not one of auto, cpu, cuda, cuda:N, mps\n     write device=auto")


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lr=-1", "-1 is not a number above 0"),
        ("optim.lr=nan", "must be finite"),
        ("optim.lr=inf", "must be finite"),
        ("optim.lr=abc", "'abc' is not a number above 0"),
        ("train.batch_size=0", "0 is not a whole number at least 1"),
        ("train.batch_size=1e2", "write 100"),
        ("train.duration=0ep", "'0ep' is not a duration above 0"),
        ("train.duration=10", "add a unit"),
        ("train.duration=5%", "not a duration"),
        ("train.compile=onn", "did you mean 'on'?"),
        ("eval.run_test=yes", "write true"),
        ("seed=-1", "-1 is not a whole number at least 0"),
        ("name=a/b", "is not a name"),
        ("name=" + "x" * 300, "at most 100"),
        ("run_dir=/", "the path of a folder of its own"),
        ("run_dir=../..", "the path of a folder of its own"),
        ("optim.lr=", "is not a number above 0"),
        ("optim.lr=null", "null is not a number above 0"),
        ("optim.lr=[1]", "is not a number above 0"),
    ],
)
def test_a_value_of_another_type_or_out_of_bounds_is_refused(word: str, message: str) -> None:
    text = refusal(word)
    assert message in text
    assert ".py:" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+parallel=ddp", "parallel=single"], "parallel is set twice, first by +parallel=ddp"),
        (["optim.lr=1", "++optim.lr=2"], "optim.lr is set twice"),
        (["reg=[sam,sam]"], "sam is named twice in reg"),
        (["reg={sam: 1}"], "reg must be the name of a choice"),
        (["reg=null"], "reg must be a list of choices"),
        (["reg=3"], "reg must be a list of choices"),
        (["optim=null"], "optim must be exactly one choice"),
        (["optim=[sgd]"], "write optim=sgd"),
        (["optim="], "optim must be exactly one choice"),
        (["~optim"], "the group optim cannot be removed"),
        (["~reg"], "leave it empty: reg=[]"),
        (["reg=[sam]", "~reg.sam"], "name the choices to keep"),
        (["~optim.lr"], "optim.lr cannot be removed"),
        (["experiment=[a]"], "the name of one choice"),
    ],
)
def test_a_choice_is_made_once_and_in_its_form(words: list[str], message: str) -> None:
    assert message in refusal(*words)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("_target_=os.system", "cannot name code to run"),
        ("model._target_=os.system", "cannot name code to run"),
        ("+model._partial_=true", "cannot name code to run"),
        ("hydra.searchpath=[file:///tmp/x]", "--config-dir DIR"),
        ("hydra.launcher._target_=os.system", "cannot name code to run"),
        ("hydra/launcher=joblib", "external code"),
        ("hydra.callbacks.x=1", "external code"),
        ("hydra.job_logging.x=1", "external code"),
        ("hydra.run.dir=x", "run_dir="),
        ("hydra.verbose=true", "settings of hydra cannot be changed"),
        ("init_from=${oc.env:AWS_SECRET_KEY}", "looks like a secret"),
        ("init_from=${oc.env:'HF_TOKEN'}", "looks like a secret"),
        ("init_from=${oc.env:DBURL}", "looks like a secret"),
        ("init_from=${oc.env:GPG_PHRASE}", "looks like a secret"),
        ("init_from=${oc.env:PGSERVICE}", "only the variables of a list"),
        ("init_from=${oc.env:HOME,${oc.env:PGSERVICE}}", "only the variables of a list"),
        ("init_from=${oc.env:DNNTRAIN_TOKEN}", "looks like a secret"),
        ("init_from=${oc.${name}:PGSERVICE}", "plainly"),
        ("init_from=${oc.env:${name}}", "plainly"),
        ("init_from=${oc.decode:x}", "the resolver 'oc.decode' is not supported"),
        ("init_from=${hydra:runtime.cwd}", "the resolver 'hydra' is not supported"),
        ("name=a\x1b[31mb", "the control character '\\x1b'"),
        ("name=a\nb", "the control character '\\n'"),
        ("name=\udcff", "not UTF-8"),
        ("name=" + "x" * 70_000, "longer than 64 KiB"),
        ("optim@x=sgd", "is not a key"),
        ("reg[0]=sam", "is not a key"),
        ("optim", "the value is missing"),
        ("=5", "is not a key"),
        ("reg=[sam", "are brackets and quotes closed?"),
        ("name='a", "are brackets and quotes closed?"),
    ],
)
def test_what_is_no_plain_setting_is_refused_with_the_reason(word: str, message: str) -> None:
    text = refusal(word)
    assert message in text
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text) < 1000


@pytest.mark.parametrize(
    "word", ["optim=sgd,adamw", "optim.lr=0.1,0.2", "seed=range(3)", "optim.lr=choice(1,2)", "model=glob(*)"]
)
def test_several_values_need_a_sweep(word: str) -> None:
    assert "dnntrain -m" in refusal(word)


def test_a_list_without_brackets_is_told_how_to_write_one() -> None:
    assert "reg=[sam,label_smoothing]" in refusal("reg=sam,label_smoothing")


def test_all_mistakes_are_listed_at_once() -> None:
    words = ["+typo=5", "optim=sdg", "optim.momentm=1", "train.batch_size=0", "reg=[x]"]
    with pytest.raises(ConfigError) as caught:
        validate_overrides(words)
    assert str(caught.value).startswith("5 mistakes:\n  1. +typo=5: ")
    assert [text.partition("=")[0] for text in caught.value.mistakes] == [word.partition("=")[0] for word in words]
    with pytest.raises(ConfigError) as caught:
        validate_overrides(words[::-1])
    assert [text.partition("=")[0] for text in caught.value.mistakes] == [
        word.partition("=")[0] for word in words[::-1]
    ]


def test_mistakes_come_in_the_order_of_their_words() -> None:
    mistakes = ["no word", "sched=b: wrong", "optim.lr=-1: low", "++seed=x: no number", "optim.lr=-2: low", "no word"]
    words = ["optim.lr=-1,-2", "seed=x", "run_dir=a", "sched=a,b"]
    expected = ["optim.lr=-1: low", "optim.lr=-2: low", "++seed=x: no number", "sched=b: wrong", "no word"]
    assert sort_mistakes(mistakes, words) == expected


@pytest.mark.parametrize(
    ("words", "group", "pick"),
    [
        (["parallel=ddp"], "parallel", "ddp"),
        (["+parallel=ddp"], "parallel", "ddp"),
        (["++parallel=ddp"], "parallel", "ddp"),
        (["reg=[sam,label_smoothing]"], "reg", ["sam", "label_smoothing"]),
        (["reg=sam"], "reg", ["sam"]),
        (["+reg=[sam]"], "reg", ["label_smoothing", "sam"]),
        (["+reg=sam"], "reg", ["label_smoothing", "sam"]),
        (["reg=[]"], "reg", []),
        (["~experiment"], "experiment", None),
        (["debug=fast"], "debug", "fast"),
    ],
)
def test_a_group_is_chosen(words: list[str], group: str, pick: object) -> None:
    assert validate_overrides(words).selection.picks[group] == pick


@pytest.mark.parametrize(
    "word",
    [
        "run_dir=/tmp/a b",
        "run_dir=/tmp/ü(1)",
        "run_dir=/tmp/a=b",
        "init_from=C:\\x",
        "+optim.lr=0.1",
        "name=007",
        "name='x y'",
    ],
)
def test_an_odd_but_good_value_is_taken(word: str) -> None:
    validate_overrides([word])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        {
            "experiment/good.yaml": """\
                # @package _global_
                # Mine.
                defaults:
                  - override /optim: sgd
                  - override /reg: [sam]
                optim:
                  lr: 0.5
                reg:
                  sam: {rho: 0.5}
                train:
                  batch_size: 7
                """,
            "experiment/child.yaml": """\
                # @package _global_
                defaults:
                  - good
                  - override /optim: muon
                  - _self_
                train: {batch_size: 9}
                """,
            "experiment/wrong.yaml": """\
                # @package _global_
                defaults:
                  - override /optim: sgd
                optim:
                  momentm: 0.5
                train:
                  batch_size: many
                reg:
                  sam: {rho: 0.5}
                sched: cosine
                hydra:
                  verbose: true
                """,
            "experiment/bare.yaml": "train: {batch_size: 9}\n",
            "experiment/strange.yaml": "# @package _global_\ndefaults:\n  - /optim: sgd\n",
            "experiment/circle.yaml": "# @package _global_\ndefaults:\n  - circle\n",
            "model/narrow.yaml": "defaults: [small_cnn, _self_]\nhidden: 8\n",
            "model/wrong.yaml": "defaults: [small_cnn, _self_]\nhiden: 8\n",
            "model/nothing.yaml": "hidden: 8\n",
            "sched/step.yaml": "defaults: [linear, _self_]\n",
            "reg/unpacked.yaml": "defaults: [sam@_here_, _self_]\n",
        },
    )


def test_an_experiment_chooses_and_the_command_line_appends(folder: Path) -> None:
    picks = validate_overrides(["experiment=good", "+reg=[label_smoothing]"], folder).selection.picks
    assert (picks["optim"], picks["reg"]) == ("sgd", ["sam", "label_smoothing"])


def test_an_experiment_may_build_on_another(folder: Path) -> None:
    picks = validate_overrides(["experiment=child"], folder).selection.picks
    assert (picks["optim"], picks["reg"]) == ("muon", ["sam"])


def test_a_method_that_the_experiment_has_is_not_appended_again(folder: Path) -> None:
    assert "sam is already chosen" in refusal("experiment=good", "+reg=[sam]", config_dir=folder)


def test_mistakes_in_an_experiment_are_named_with_file_and_line(folder: Path) -> None:
    text = refusal("experiment=wrong", config_dir=folder)
    for message in (
        "wrong.yaml:5: optim=sgd has no 'momentm'\n     did you mean 'optim.momentum'?",
        "wrong.yaml:7: 'many' is not a whole number",
        "wrong.yaml:9: reg.sam is not chosen here\n     add `- override /reg: [sam]`",
        "wrong.yaml:10: sched is a group\n     choose it in the defaults list",
        "wrong.yaml:12: settings of hydra cannot be changed",
    ):
        assert message in text


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("experiment=bare", "begin "),
        ("experiment=strange", "write `- override /GROUP: CHOICE`"),
        ("experiment=circle", "refer to each other"),
        ("model=wrong", "wrong.yaml:2: model=wrong has no 'hiden'\n     did you mean 'model.hidden'?"),
        ("model=nothing", "nothing.yaml: model=nothing has no defaults list of a preset"),
        ("sched=step", "sched=step is defined twice"),
        ("reg=[unpacked]", "its head must have `# @package reg.sam`"),
    ],
)
def test_a_user_file_out_of_form_is_told_what_is_missing(folder: Path, word: str, message: str) -> None:
    assert message in refusal(word, config_dir=folder)


def test_a_preset_takes_the_knobs_of_its_base(folder: Path) -> None:
    checked = validate_overrides(["model=narrow", "model.hidden=9"], folder)
    assert checked.selection.choice_by_key["model"].read_values()["hidden"] == 8


def test_values_for_a_replaced_choice_are_dropped_with_a_note(folder: Path) -> None:
    notes = validate_overrides(["experiment=good", "optim=adamw", "reg=[]"], folder).notes
    assert len(notes) == 1
    assert notes[0].endswith("good.yaml: its values for optim, reg.sam are dropped, because their choice was replaced")


_WORDS = st.one_of(
    st.text(max_size=30),
    st.builds(
        lambda sign, key, value: f"{sign}{key}={value}",
        st.sampled_from(["", "+", "++", "~"]),
        st.sampled_from(
            ["optim", "reg", "optim.lr", "name", "train", "train.duration", "reg.sam.rho", "x.y", "hydra.x"]
        ),
        st.text(alphabet="abc019.[]{}(),:'\"$\\ =+-%_?/\u00fc", max_size=16),
    ),
)


def _words_are_taken_or_refused(words: list[str]) -> None:
    with suppress(ConfigError):
        validate_overrides(words)


test_any_words_are_taken_or_refused_and_nothing_else = settings(max_examples=100, deadline=None)(
    given(st.lists(_WORDS, max_size=3))(_words_are_taken_or_refused)
)
test_a_thousand_lines_are_taken_or_refused_and_nothing_else = pytest.mark.slow(
    settings(max_examples=1_000, deadline=None)(given(st.lists(_WORDS, max_size=3))(_words_are_taken_or_refused))
)
test_ten_thousand_lines_are_taken_or_refused_and_nothing_else = pytest.mark.timeout(900)(
    pytest.mark.long(
        settings(max_examples=10_000, deadline=None)(given(st.lists(_WORDS, max_size=3))(_words_are_taken_or_refused))
    )
)

_KEYS = st.sampled_from(
    ["optim", "reg", "sam", "lr", "train", "batch_size", "defaults", "name", "optim.lr", "x", "_target_"]
)
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.floats(), st.sampled_from(["sgd", "${name}", "_self_"])
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(_KEYS, inner, max_size=3)),
    max_leaves=6,
)
_OVERRIDES = st.dictionaries(st.sampled_from(["override /optim", "override /reg", "/optim", "x"]), _TREES, max_size=2)
_DEFAULTS = st.lists(st.one_of(_TREES, _OVERRIDES), max_size=2)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.dictionaries(_KEYS, _TREES, max_size=3), _DEFAULTS)
def test_any_experiment_is_composed_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object], defaults: list[object]
) -> None:
    folder = tmp_path_factory.mktemp("mine")
    text = dump_yaml({**values, "defaults": defaults} if defaults else values)
    write(folder, {"experiment/any.yaml": f"# @package _global_\n{text}"})
    with suppress(ConfigError):
        compose(["experiment=any"], folder, quiet=True)
