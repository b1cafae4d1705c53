"""Shares of tokens: by hand, and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import dnntrain
from dnntrain.choices.model.gpt import Gpt
from dnntrain.cli.main import main
from dnntrain.errors import ConfigError
from dnntrain.explain.method import Aim
from dnntrain.explain.render_tokens import render_tokens
from dnntrain.explain.subject import Subject, show_piece
from dnntrain.explain.token_checks import correlate_visible
from dnntrain.explain.token_gradients import (
    TokenGradients,
    count_tokens,
    find_token_embedding,
    find_visible,
    replace_output,
)
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import InputSpec, ModelSpec, OutputSpec, TargetSpec, Vocabulary
from tests.support.small_texts import RUN, write_texts

SEPARATOR = 6
TOKENS = torch.tensor([[6, 6, 1, 2, 0], [6, 3, 4, 5, 5]])
AIM = Aim(torch.tensor([2, 0]), torch.ones(2))
SHARES = count_tokens(TOKENS, find_visible(TOKENS, SEPARATOR), 7)


class Bag(nn.Module):
    """The sum of the embeddings, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.embed(tokens).sum(1))
        return outputs


def make_decoder(per_token: bool) -> nn.Module:
    shape = ModelShape(7 if per_token else 3, 5, vocabulary=7, separator=SEPARATOR, per_token=per_token)
    model = Gpt(embed_dim=16, depth=2, num_heads=2).build(shape)
    initialize_weights(model, 0)
    return model.eval()


@pytest.mark.parametrize("name", ["integrated_gradients", "gradient"])
def test_the_share_of_a_token_in_a_linear_model_is_its_own_term(name: str) -> None:
    model = Bag()
    method = TokenGradients("embed", SHARES, 5, None, name)  # type: ignore[arg-type]
    mean = SHARES @ model.embed.weight
    expected = ((model.embed(TOKENS) - mean) * model.head.weight[[2, 0]][:, None]).sum(2)
    torch.testing.assert_close(method.compute_maps(model, TOKENS, AIM)[:, 0], expected.detach())


@pytest.mark.parametrize("per_token", [False, True])
def test_the_shares_add_up_to_the_change_from_a_text_of_mean_tokens(per_token: bool) -> None:
    model = make_decoder(per_token)
    method = TokenGradients("embed", SHARES, 5, SEPARATOR)
    shares = method.compute_maps(model, TOKENS, AIM)[:, 0]
    assert shares[0, 0] == 0.0
    scores = []
    for kept in (torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)):
        with torch.no_grad(), replace_output(model, "embed", method.cover(model, TOKENS, kept)):
            outputs = model(TOKENS)
        scores.append(AIM.compute_scores(outputs[:, -1] if per_token else outputs))
    assert float((scores[0] - scores[1]).abs().max()) > 1e-4
    torch.testing.assert_close(shares.sum(1), scores[0] - scores[1], atol=1e-5, rtol=1e-3)


def test_the_embedding_of_tokens_is_that_which_gets_them() -> None:
    assert find_token_embedding(make_decoder(True), TOKENS) == "embed"
    assert find_token_embedding(nn.Linear(5, 2), TOKENS.float()) is None


def test_tokens_of_other_documents_are_unseen_and_uncounted() -> None:
    assert find_visible(TOKENS, SEPARATOR).tolist() == [[False, True, True, True, True], [True] * 5]
    assert find_visible(TOKENS, None).all()
    assert (SHARES * 9).tolist() == pytest.approx([1, 1, 1, 1, 1, 2, 2])


def test_ranks_are_compared_over_visible_tokens_alone() -> None:
    mine, other = torch.tensor([[9.0, 1.0, 2.0, 3.0]]), torch.tensor([[0.0, 3.0, 2.0, 1.0]])
    assert correlate_visible(mine, other, torch.tensor([[False, True, True, True]])).tolist() == pytest.approx([-1.0])


def test_a_token_is_shown_as_text_and_colored_by_its_share() -> None:
    assert [show_piece(piece) for piece in (b"", b"a", b"\xc3")] == ["⟨start⟩", "a", "⟨c3⟩"]
    page = render_tokens([("<", 1.0), ("b", -0.5), ("c", 0.01)], True)
    assert page == (
        '<i style="background:#ec5a32c8" title="+1">&lt;</i><i style="background:#3b7dd864" title="-0.5">b</i>c'
    )
    assert "#8a8a8a" in render_tokens([("a", 1.0)], False)


def write_reviews(root: Path) -> Path:
    """Write texts of two classes that differ in their marks alone."""
    for number in range(60):
        folder = root / ("good" if number % 2 else "bad")
        folder.mkdir(parents=True, exist_ok=True)
        mark = "!" if number % 2 else "?"
        (folder / f"{number}.txt").write_text(f"a b {number % 7}{mark}{mark} c d {number % 5}{mark} e")
    return root


@pytest.mark.slow
def test_the_class_of_a_text_is_explained_by_the_tokens_that_decide_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, text = tmp_path / "run", tmp_path / "new.txt"
    words = ["data=text_folder", f"data.root={write_reviews(tmp_path / 'reviews')}", "data.context=24"]
    words += ["model=gpt", "model.embed_dim=16", "model.depth=1", "model.num_heads=2", "optim.lr=0.01"]
    words += ["train.duration=15ep", "train.batch_size=16", "precision=fp32", "log.report=false"]
    dnntrain.train(*words, f"run_dir={run}", display="quiet")
    text.write_text("a b c d!! e")
    line = ["explain", str(run), "--examples", "random", str(text), "--count", "2", "--json"]
    assert main(line) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["maps"]["method"] == "integrated_gradients"
    checks = {check["name"]: check for check in values["maps"]["checks"]}
    assert checks["insertion against random maps"]["passed"]
    assert checks["deletion against random maps"]["passed"]
    assert checks["deletion against the distance from the end"]["against"] is not None
    assert len(values["shown"]) == 3
    tokens = values["shown"][-1]["tokens"]
    assert "".join(token for token, _ in tokens[1:]) == "a b c d!! e"
    assert values["shown"][-1]["explained"] == "good"
    assert max(tokens, key=lambda item: item[1])[0] == "!"
    assert (run / "explain.html").read_text().count('<figure class="map text') == 3
    for option, reason in ((["--method", "layercam"], "the model reads texts"), (["--layer", "head"], "leave --layer")):
        assert main(["explain", str(run), *option]) == 2
        assert reason in capsys.readouterr().err
    assert main(["explain", str(run), "--count", "1", "--against", str(run), "--directions", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["comparison"]["agreement"] == 1.0
    assert values["comparison"]["figures"]["accuracy"]["value"] == values["comparison"]["figures"]["accuracy"]["other"]
    assert [row[place] for place, row in enumerate(values["comparison"]["cka"])] == pytest.approx(
        [1.0] * len(values["comparison"]["cka"])
    )
    names = [layer["name"] for layer in values["layers"]]
    assert any("mlp" in name for name in names)
    assert {item["layer"] for item in values["blame"]} == set(names)
    assert values["embedding"]["neighbor_agreement"] >= 0.5
    assert len(values["embedding"]["neighbors"][0]) == 5
    assert values["directions"]["training"][8] < values["directions"]["training"][0] + 0.1
    page = (run / "explain.html").read_text()
    for title in ("Layers", "Against the other model", "Which examples are alike?", "Where did the training go?"):
        assert title in page


@pytest.mark.slow
def test_the_next_token_of_a_language_model_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    dnntrain.train(*RUN, f"data.path={write_texts(tmp_path / 'texts')}", f"run_dir={run}", display="quiet")
    line = ["explain", str(run), "--method", "gradient", "--count", "1", "--json"]
    assert main(line) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["labels"] is None
    assert {row["set"] for row in values["shown"]} == {"worst", "uncertain"}
    assert all(len(row["tokens"]) == 16 and row["label"].startswith('"') for row in values["shown"])
    assert values["maps"]["randomization"]["correlations"][-1] < 1
    assert values["layers"]
    assert values["blame_of_all"]["changed"] < 0.2
    assert values["embedding"]["neighbor_agreement"] is None
    assert main([*line, "--against", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["comparison"]["agreement"] == 1.0


def test_an_export_that_gives_outputs_only_is_not_supported() -> None:
    spec = ModelSpec(
        InputSpec((8,), (), (), vocabulary=Vocabulary("byte")), TargetSpec(("a", "b")), OutputSpec((), (2,), "logits")
    )
    subject = Subject(SimpleNamespace(spec=spec, format="onnx"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the export onnx gives outputs only"):
        subject.check_support()
