"""Languages of telephone prompts: Debian's asterisk-core-sounds-*-wav, whose packages are unpacked into a folder.

    for l in en es fr it ru; do apt-get download asterisk-core-sounds-$l-wav; done
    apt-get download asterisk-prompt-it-menardi-wav
    for d in *.deb; do dpkg-deb -x $d sounds; done
    python scripts/bench/audio.py sounds work train.duration=15ep

Each language has one speaker, so a language is a voice here. A phrase is in the training split of all
languages or in the test split of all. Italian of another voice shows how much of it is the voice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path

import dnntrain

#: Language → folder of its speaker.
VOICES = {
    "english": "en_US_f_Allison",
    "spanish": "es_MX_f_Allison",
    "french": "fr_CA_f_June",
    "italian": "it_IT_m_Carlo",
    "russian": "ru_RU_f_IvrvoiceRU",
}
OTHER_VOICE = ("italian", "it_IT_f_Menardi")

TEST_SHARE = 0.25
SETTINGS = (
    "data=audio_folder",
    "data.sample_rate=8000",
    "data.seconds=1.5",
    "data.window=256",
    "data.hop=128",
    "data.n_mels=40",
    "log.report=false",
)


def main(sounds: str, work: str, *overrides: str) -> None:
    """Make the folders, train, and print a row of figures as JSON."""
    folder = Path(work)
    shutil.rmtree(folder / "languages", ignore_errors=True)
    shutil.rmtree(folder / "other", ignore_errors=True)
    counts = link_prompts(Path(sounds), folder)
    start_s = time.perf_counter()
    data = f"data.root={folder / 'languages'}"
    result = dnntrain.train(*SETTINGS, data, *overrides, f"run_dir={folder / 'run'}", display="quiet")
    train_s = time.perf_counter() - start_s
    test = dnntrain.evaluate(folder / "run")
    other = dnntrain.evaluate(folder / "run", f"data.root={folder / 'other'}", split="all")
    figures = {
        "files": counts,
        "accuracy": test["accuracy"],
        "macro_f1": test.get("macro_f1"),
        f"recall of {OTHER_VOICE[0]} of another voice": other["accuracy"],
        "train_s": round(train_s),
        "status": result["status"],
    }
    print(json.dumps(figures, indent=1))


def link_prompts(sounds: Path, folder: Path) -> dict[str, int]:
    """Link the prompts into folders of classes; those with the same bytes in two languages are no speech."""
    files = {language: find_prompts(sounds, voice) for language, voice in VOICES.items()}
    digests = [digest_file(file) for prompts in files.values() for file in prompts.values()]
    shared = {digest for digest in digests if digests.count(digest) > 1}
    counts = dict.fromkeys(("train", "test", "other"), 0)
    for language, prompts in files.items():
        for phrase, file in prompts.items():
            if digest_file(file) not in shared:
                split = "test" if hash_phrase(phrase) < TEST_SHARE else "train"
                link(file, folder / "languages" / split / language / f"{phrase.replace('/', '-')}.wav")
                counts[split] += 1
    language, voice = OTHER_VOICE
    for phrase, file in find_prompts(sounds, voice).items():
        if hash_phrase(phrase) < TEST_SHARE and digest_file(file) not in shared:
            link(file, folder / "other" / language / f"{phrase.replace('/', '-')}.wav")
            counts["other"] += 1
    return counts


def find_prompts(sounds: Path, voice: str) -> dict[str, Path]:
    """Return the files of a voice by phrase, without silence."""
    (root,) = [path for path in sounds.rglob(voice) if path.is_dir()]
    files = {file.relative_to(root).with_suffix("").as_posix(): file for file in sorted(root.rglob("*.wav"))}
    return {phrase: file for phrase, file in files.items() if "silence" not in phrase and file.stat().st_size > 2000}


def hash_phrase(phrase: str) -> float:
    """Return a number in [0, 1) that follows from the phrase alone."""
    return int.from_bytes(hashlib.sha256(phrase.encode()).digest()[:4], "little") / 2**32


def digest_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def link(file: Path, place: Path) -> None:
    """Link `place` to `file`."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(file.resolve())


if __name__ == "__main__":
    main(*sys.argv[1:])
