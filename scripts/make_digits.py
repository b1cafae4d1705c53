"""Makes dnntrain/data/digits.npz from scikit-learn's copy of the digits: `python scripts/make_digits.py`.

The test part is 360 of the 1,797 images, stratified by class and chosen by a fixed key; both parts keep the order of
the original. Pixels are stored as they are, whole numbers from 0 to 16. The file's bytes depend on the installed zlib,
its arrays do not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from dnntrain.input.split import hold_out_examples
from dnntrain.utils.rng import Key

digits = load_digits()
train, test = hold_out_examples(digits.target, 360, Key(1998, "digits test"))
images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
assert (images == digits.images).all()
np.savez_compressed(
    Path(__file__).resolve().parents[1] / "dnntrain" / "choices" / "data" / "digits.npz",
    train_images=images[train],
    train_labels=labels[train],
    test_images=images[test],
    test_labels=labels[test],
)
scaled = ((images[train].astype(np.uint16) * 255 + 8) // 16) / 255
print(f"{len(train)} train, {len(test)} test; mean {scaled.mean():.4f}, std {scaled.std():.4f}")
