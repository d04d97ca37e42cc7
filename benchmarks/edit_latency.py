"""From a slider's value to the picture: how long the computing takes, in CPU time on one thread.

Random weights of the shape of the demo's (MSP for 64×64 pixels with a latent of 128, a C-MAF of 10 layers of 10 blocks with
batch norm): time does not depend on what they say. Writes ``outputs/benchmarks/edit_latency.json``.
"""

import argparse
import time

import numpy as np
import torch
from tqdm.auto import trange

from fpnlib import artifacts
from fpnlib.attributes import Attributes
from fpnlib.base_models import MSP
from fpnlib.data.drawn_faces import load_drawn_faces
from fpnlib.plugin import FlowPlugin, FlowPluginNetwork
from fpnlib.widgets import AttributeEditor, png

STAGES = ("flow", "decoder", "PNG", "all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drags", type=int, default=300, help="slider values to time")
    parser.add_argument("--width", type=int, default=128, help="hidden features of the flow")
    parser.add_argument("--out", default=str(artifacts.PROJECT / "outputs" / "benchmarks"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    faces = load_drawn_faces(train=600, validation=1, test=8)
    editor = AttributeEditor(network(faces, given.width), faces.test.x, faces.test.y)
    seconds = drags(editor, given.drags)
    quantiles = {
        stage: dict(zip(("median", "p95"), np.quantile(times, (0.5, 0.95)))) for stage, times in seconds.items()
    }
    for stage, times in quantiles.items():
        print(f"{stage:>8}: median {1e3 * times['median']:6.2f} ms, 95th percentile {1e3 * times['p95']:6.2f} ms")
    settings = {"drags": given.drags, "latent_dim": 128, "layers": 10, "blocks": 10, "width": given.width, "threads": 1}
    kept = {"seconds": quantiles, "settings": settings, "environment": artifacts.environment()}
    artifacts.write_json(f"{given.out}/edit_latency.json", kept)


def network(faces, width: int) -> FlowPluginNetwork:
    """The demo's network, its flow fitted for one epoch so that its statistics are those of latents."""
    base = MSP(len(faces.classes), 64, 16).eval()
    shape = {"hidden_features": width, "num_layers": 10, "num_blocks": 10, "batch_norm": True, "embedding_features": 64}
    plugin = FlowPlugin(base.latent_dim, Attributes(faces.classes), "maf", **shape)
    fpn = FlowPluginNetwork(base, plugin)
    plugin.fit(base.encode(faces.train.x), faces.train.y, epochs=1, batch_size=64)
    return fpn


@torch.no_grad()
def drags(editor: AttributeEditor, n: int, warm_up: int = 10) -> dict[str, list[float]]:
    """CPU seconds of each stage for n random slider values of random faces, after a few that don't count."""
    base, plugin = editor.network.base, editor.network.plugin
    seconds = {stage: [] for stage in STAGES}
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
        if k >= warm_up:
            for stage, spent in zip(STAGES, [*np.diff(ticks), ticks[-1] - ticks[0]]):
                seconds[stage].append(float(spent))
    return seconds


if __name__ == "__main__":
    main()
