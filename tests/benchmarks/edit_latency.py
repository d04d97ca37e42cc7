"""From a slider's value to the picture: how long the computing takes, in CPU time on one thread.

The demo's own network (MSP for 64×64 pixels with a latent of 128, a C-MAF of 10 layers of 10 blocks with batch norm) with its
weights from outputs/pretrained. Writes edit_latency.csv.

The first drag stands by itself: it reads the flow's kernels from disk, or compiles them where this machine has none yet. The
longest of the others is one in hundreds in which Python looks through all of its objects for garbage.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import trange

from fpnlib import store
from fpnlib.data import load_drawn_faces
from fpnlib.families.pretrained import pretrained
from fpnlib.widgets import AttributeEditor
from fpnlib.widgets.parts import png

STAGES = ("flow", "decoder", "PNG", "all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drags", type=int, default=1_000, help="slider values to time")
    parser.add_argument("--out", type=Path, default=store.PROJECT / "outputs" / "benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    test = load_drawn_faces().test.first(100)
    editor = AttributeEditor(pretrained("faces"), test.x, test.y)
    seconds = drags(editor, options.drags + 1)
    first, others = seconds.iloc[0], seconds.iloc[1:]
    columns = {
        "median ms": others.median(),
        "95th percentile ms": others.quantile(0.95),
        "longest ms": others.max(),
    }
    table = pd.DataFrame(columns | {"first ms": first}).mul(1e3).assign(drags=len(others))
    table = table.rename_axis("stage").reset_index()
    print(__doc__.split("\n\n")[-1])
    print(table.to_string(index=False, float_format="%.2f"))
    store.write(options.out / "edit_latency.csv", table.to_csv(index=False, float_format="%.3f"))


@torch.no_grad()
def drags(editor: AttributeEditor, n: int) -> pd.DataFrame:
    """CPU seconds of each stage (columns) for n random slider values, of one face and one slider after another (rows)."""
    names, seconds = list(editor.sliders), []
    for k in trange(n, desc="drags", unit="drag"):
        values = {names[k % len(names)]: float(torch.rand(())) * 2 - 0.5}
        ticks = [time.process_time()]
        z = editor.latent(k % len(editor.x), values)
        ticks.append(time.process_time())
        image = editor.network.base.decode(z)[0]
        ticks.append(time.process_time())
        png(image)
        ticks.append(time.process_time())
        seconds.append([*np.diff(ticks), ticks[-1] - ticks[0]])
    return pd.DataFrame(seconds, columns=STAGES)


if __name__ == "__main__":
    main()
