"""From a slider's value to the picture: how long the computing takes, in CPU time on one thread.

The demo's own network (MSP for 64×64 pixels with a latent of 128, a C-MAF of 10 layers of 10 blocks with batch norm) with its
weights from outputs/pretrained. Writes edit_latency.csv.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import trange

from fpnlib import artifacts
from fpnlib.experiments import pretrained_faces
from fpnlib.widgets import AttributeEditor, png

STAGES = ("flow", "decoder", "PNG", "all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drags", type=int, default=1_000, help="slider values to time")
    parser.add_argument("--out", type=Path, default=artifacts.PROJECT / "outputs" / "benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    seconds = drags(AttributeEditor(*pretrained_faces()), options.drags)
    columns = {"median ms": seconds.median(), "95th percentile ms": seconds.quantile(0.95), "longest ms": seconds.max()}
    table = pd.DataFrame(columns).mul(1e3).assign(drags=len(seconds)).rename_axis("stage").reset_index()
    print(table.to_string(index=False, float_format="%.2f"))
    artifacts.write_text(options.out / "edit_latency.csv", table.to_csv(index=False, float_format="%.3f"))


@torch.no_grad()
def drags(editor: AttributeEditor, n: int, warm_up: int = 10) -> pd.DataFrame:
    """CPU seconds of each stage (columns) for n random slider values of random faces (rows), after a few that don't count."""
    base, plugin = editor.network.base, editor.network.plugin
    seconds = []
    for k in trange(n + warm_up, desc="drags", unit="drag"):
        face = k % len(editor.x)
        context = editor.y[face : face + 1].clone()
        context[0, k % context.shape[1]] = torch.rand(()) * 2 - 0.5
        ticks = [time.process_time()]
        z = plugin.from_noise(editor.noise[face : face + 1], context)
        ticks.append(time.process_time())
        image = base.decode(z)[0]
        ticks.append(time.process_time())
        png(image)
        ticks.append(time.process_time())
        seconds.append([*np.diff(ticks), ticks[-1] - ticks[0]])
    return pd.DataFrame(seconds[warm_up:], columns=STAGES)


if __name__ == "__main__":
    main()
