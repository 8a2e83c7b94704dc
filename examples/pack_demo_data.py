"""Makes the Fashion-MNIST subset that travels with podar: 1,200 training pictures a class and all test pictures.

python examples/pack_demo_data.py        needs the whole data set, installed or downloadable
"""

from __future__ import annotations

import io
import lzma

import numpy as np
import torch

import podar.data
from podar.data.fashion import PACKAGED
from podar.data.pictures.splitting import stratified
from podar.files import write_atomic

PER_CLASS = 1200


def main() -> None:
    """Write the packaged file, and say how large it is."""
    whole = podar.data.load("fashion-mnist")
    chosen, _ = stratified(whole.train.labels, PER_CLASS * len(whole.classes), seed=0)
    arrays = {}
    for name, split in (("train", whole.train.subset(chosen)), ("test", whole.test)):
        arrays[f"x_{name}"] = split.pixels(split.rows).squeeze(1).numpy()
        arrays[f"y_{name}"] = split.labels.to(torch.uint8).numpy()
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    write_atomic(PACKAGED, lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{PACKAGED}: {PACKAGED.stat().st_size:,} bytes, {len(chosen):,} + {len(whole.test):,} pictures")


if __name__ == "__main__":
    main()
