"""Sounds by class: WAV files of every depth and rate become the same spectrogram; broken ones are named."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import write_wav
from numpy.typing import NDArray

import dnntrain
from dnntrain.choices.data.audio_folder import AudioFolder
from dnntrain.cli.main import main
from dnntrain.errors import DataError
from dnntrain.input.audio import compute_spectrogram, cut_sound, read_sound, read_spectrogram, resample
from dnntrain.protocols.audio_reading import AudioReading
from dnntrain.training.evaluation import describe_example
from dnntrain.utils.rng import Key

READING = AudioReading(sample_rate=8000, seconds=0.25, window=256, hop=128, n_mels=24)


def tone(frequency: float, seconds: float = 0.25, rate: int = 8000) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * math.pi * frequency * np.arange(round(seconds * rate)) / rate)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of noisy tones of different length."""
    folder, random = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for number in range(60):
        for name, low in (("high", 2000), ("low", 400)):
            values = tone(low + 20 * number, 0.15 + 0.005 * number)
            write_wav(folder / name / f"{number}.wav", values + 0.05 * random.standard_normal(len(values)))
    return folder


@pytest.mark.parametrize(("width", "error"), [(1, 8e-3), (2, 5e-5), (3, 3e-7), (4, 1e-7)])
def test_every_depth_is_the_same_sound(width: int, error: float, tmp_path: Path) -> None:
    values = tone(440)
    for channels in (1, 2):
        read = read_sound(write_wav(tmp_path / "a.wav", values, width, channels=channels), 8000)
        assert np.abs(read - values).max() < error


def make_extensible(path: Path, guid_tag: int = 1) -> Path:
    """Rewrite the header of a WAV file as a recorder of 24 bits does: in the extensible format."""
    data = path.read_bytes()
    form = data[20:36]
    valid_bits = form[14:16]
    guid = guid_tag.to_bytes(2, "little") + bytes.fromhex("000000001000800000aa00389b71")
    chunk = b"\xfe\xff" + form[2:] + (22).to_bytes(2, "little") + valid_bits + bytes(4) + guid
    extra = b"LIST" + (3).to_bytes(4, "little") + b"abc\0"  # an odd chunk, which is padded
    body = b"WAVEfmt " + len(chunk).to_bytes(4, "little") + chunk + extra + data[36:]
    path.write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_the_extensible_format_is_the_same_sound(width: int, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(440), width, channels=2)
    plain = read_sound(path, 8000)
    assert np.array_equal(read_sound(make_extensible(path), 8000), plain)
    assert len(plain) == 2000


def test_the_extensible_format_of_floats_is_not_read_as_integers(tmp_path: Path) -> None:
    path = make_extensible(write_wav(tmp_path / "a.wav", tone(440), 4), guid_tag=3)
    with pytest.raises(DataError, match=r"is not a WAV file of PCM \(format 3\)"):
        read_sound(path, 8000)


def claim(path: Path, size_bytes: int, rate: int = 2**21) -> Path:
    """Let a WAV file claim a number of bytes and a rate."""
    data = bytearray(path.read_bytes())
    data[24:28], data[40:44] = rate.to_bytes(4, "little"), size_bytes.to_bytes(4, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("size_bytes", [2**32 - 2, 4002])
def test_a_file_that_is_cut_off_is_named_and_takes_no_memory(size_bytes: int, tmp_path: Path) -> None:
    path = claim(write_wav(tmp_path / "a.wav", tone(440)), size_bytes)
    tracemalloc.start()
    with pytest.raises(DataError, match=f"is cut off: it has 2000 of {size_bytes // 2} samples"):
        read_sound(path, 2**21)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_file_that_was_written_into_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(440))
    plain = read_sound(path, 8000)
    assert np.array_equal(read_sound(claim(path, 2**32 - 1, 8000), 8000), plain)


def test_another_rate_is_resampled() -> None:
    values = resample(tone(440, 0.5, 16000), 16000, 8000)
    assert len(values) == 4000
    assert np.abs(values - tone(440, 0.5)).max() < 0.02
    assert np.abs(resample(tone(5000, 0.5, 16000), 16000, 8000)).max() < 0.02  # above half of the new rate


def test_a_tone_is_loudest_in_its_band() -> None:
    low, high = (
        compute_spectrogram(tone(frequency).astype(np.float32), READING)[0].float().mean(1).argmax()
        for frequency in (300, 3000)
    )
    assert low > high  # the highest band is the first row


def test_loudness_does_not_matter() -> None:
    values = tone(700).astype(np.float32)
    difference = compute_spectrogram(values, READING).int() - compute_spectrogram(values / 4, READING).int()
    assert int(difference.abs().max()) <= 1


def test_silence_is_dark() -> None:
    assert compute_spectrogram(np.zeros(2000, np.float32), READING).unique().tolist() == [0]
    noise = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    assert int(compute_spectrogram(1e-7 * noise, READING).max()) < 30  # rounding errors of an encoder
    assert int(compute_spectrogram(1e-2 * noise, READING).max()) == 255


def test_a_sound_is_cut_or_padded() -> None:
    values = np.arange(1, 6, dtype=np.float32)
    assert cut_sound(values, 3).tolist() == [2, 3, 4]
    assert [cut_sound(values, 3, place).tolist() for place in (0.0, 0.99)] == [[1, 2, 3], [3, 4, 5]]
    assert cut_sound(values, 8).tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert cut_sound(values, 8, 0.0).tolist() == [1, 2, 3, 4, 5, 0, 0, 0]


def test_the_formula_of_the_manifest_gives_the_bytes(tmp_path: Path) -> None:
    """The steps of `AudioReading.describe` in numpy alone."""
    path = write_wav(tmp_path / "a.wav", tone(500, 0.2) + tone(1500, 0.2))
    sound = np.pad(read_sound(path, 8000).astype(np.float64), (200, 200))
    padded = np.pad(sound, 128)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    starts = range(0, len(sound) + 1, 128)
    power = np.stack([np.abs(np.fft.rfft(padded[start : start + 256] * hann)) ** 2 for start in starts], 1)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 26) / 2595) - 1)
    frequency = np.fft.rfftfreq(256, 1 / 8000)
    bands = np.stack([np.interp(frequency, edges[band : band + 3], [0, 1, 0], left=0, right=0) for band in range(24)])
    decibels = 10 * np.log10(np.maximum(bands @ power, 1e-10))
    expected = np.round(np.clip(255 + (decibels - max(decibels.max(), -20)) * 255 / 80, 0, 255))[::-1]
    read = read_spectrogram(path, READING)[0].numpy()
    assert read.shape == (24, READING.frames)
    assert np.abs(read - expected).max() <= 1


def test_a_random_part_is_keyed(tones: Path) -> None:
    data = AudioFolder(root=str(tones), sample_rate=8000, seconds=0.1, window=256, hop=128, n_mels=24, random_part=True)
    source = data.build().train
    parts = [source.read_for_training(3, Key(0, "", epoch), 3) for epoch in (0, 0, 1)]  # type: ignore[attr-defined]
    assert torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[0], parts[2])


def test_the_report_shows_spectrograms(tones: Path) -> None:
    data = AudioFolder(root=str(tones), sample_rate=8000, seconds=0.1, window=256, hop=128, n_mels=24)
    assert describe_example(data.build().test, 0)["image"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", "is not a WAV file of PCM"),
        (b"\xff\xfbhello" * 50, "is not a WAV file of PCM"),
    ],
)
def test_a_broken_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_spectrogram(tmp_path / "broken.wav", READING)
    assert "broken.wav" in str(caught.value)
    assert message in str(caught.value)


def test_wrong_folders_and_settings_are_named(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    write_wav(tmp_path / "train" / "b" / "1.wav", tone(300))
    with pytest.raises(DataError, match="class a has no WAV file"):
        AudioFolder(root=str(tmp_path)).build()
    with pytest.raises(ValueError, match="hop=500 must be at most window=400"):
        AudioFolder(hop=500)


def test_splits_have_the_names_that_folders_of_images_have(tmp_path: Path) -> None:
    for part in ("Training", "valid", "Testing"):
        for number, label in enumerate("ab"):
            write_wav(tmp_path / "archive" / part / label / f"{part}.wav", tone(300 + 100 * number))
    dataset = AudioFolder(root=str(tmp_path), sample_rate=8000, seconds=0.1).build()
    assert dataset.train.labels.tolist() == [0, 1, 0, 1]
    assert dataset.val_index is not None
    assert dataset.val_index.tolist() == [2, 3]
    assert len(dataset.test) == 2
    assert dataset.notes == (
        "the sounds are in archive/",
        "Training/ for training, valid/ for validation, Testing/ for the test",
    )
    with pytest.raises(DataError, match="put sounds in ROOT/train/CLASS/") as caught:
        AudioFolder(root=str(tmp_path / "archive" / "valid" / "a")).build()
    assert "image" not in str(caught.value)


WORDS = (
    "data=audio_folder",
    "data.sample_rate=8000",
    "data.seconds=0.25",
    "data.window=256",
    "data.hop=128",
    "data.n_mels=24",
)


@pytest.mark.slow
def test_a_run_learns_the_tones_and_predicts_files(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = (
        *WORDS,
        f"data.root={tones}",
        "train.duration=6ep",
        "train.cpu_threads=1",
        "data.val_fraction=0.2",
        "precision=fp32",
    )
    result = dnntrain.train(*words, f"run_dir={run}", display="quiet")
    assert result["value"] > 0.9
    assert dnntrain.predict(run, tones / "low" / "3.wav")[0]["class"] == "low"
    assert dnntrain.load(run).predict(str(tones / "high" / "9.wav"))["class"] == "high"
    assert len(dnntrain.predict(run, tones / "low")) == 60

    assert main(["export", str(run), "--format", "onnx", "--path", str(tmp_path / "onnx")]) == 0
    manifest = json.loads((tmp_path / "onnx" / "manifest.json").read_text())
    assert "8000 Hz; 2000 samples" in manifest["input"]["preprocessing"]
    assert "resize" not in manifest["input"]
    rows = [dnntrain.predict(path, tones / "low" / "3.wav")[0] for path in (run, tmp_path / "onnx")]
    assert rows[0]["probability"] == pytest.approx(rows[1]["probability"], abs=1e-5)

    (tones / "low" / "3.wav").write_bytes(b"RIFF")
    capsys.readouterr()
    assert main(["train", *words, f"run_dir={tmp_path / 'broken'}"]) == 3
    assert "3.wav" in capsys.readouterr().err
