"""How well plugins keep to what was asked of them, for each kind of condition.

On MNIST, with the kept ConvVAE and its judge: a quantity, a class with a quantity, labels of which
half are unknown, a pair of colour and digit that was never seen, and classes with a flow of zuko's.
On drawn faces, with the kept MSP and its judge: attributes of which half are unknown. On ModelNet,
with the kept PointFlow and its judge: 183 shapes and the default settings. Each part trains its
plugin on one thread and replaces its rows in conditions.csv. MNIST and ModelNet lie in FPN_DATA.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
import zuko
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fpnlib import Attributes, Classes, FlowPlugin, FlowPluginNetwork, Reals, Several, store
from fpnlib.base_models import ConvVAE, PointFlow
from fpnlib.data import load_drawn_faces, load_mnist
from fpnlib.data.point_clouds import load_modelnet
from fpnlib.families.pretrained import pretrained
from fpnlib.families.shapes import SIZES
from fpnlib.metrics.judge import Judge, cloud_judge, digit_judge, face_judge
from fpnlib.rivals import ClassGaussians
from fpnlib.store.tensors import load_module
from fpnlib.training import fit

MODELS = store.PROJECT / "outputs" / "paper" / "models"
PRETRAINED = store.PROJECT / "outputs" / "pretrained"
DIGITS = range(10)
LEVELS = torch.tensor([0.1, 0.5, 0.9])
TINTS = torch.eye(3) * 0.85 + 0.15  # red, green and blue, which show a little in the other channels
COLOURS = ["red", "green", "blue"]
DRAWS = 10_000  # of each request that leaves the other attributes unsaid
CONFIDENCE = 0.5  # with which the plugin reads what is not drawn again
FEW, CATEGORIES = 183, ("airplane", "chair", "sofa", "table")  # shapes to fit, in all
UNSEEN = (0, 7)  # no base model and no plugin sees a red 7
TRAINING = {"batch_size": 1024, "learning_rate": 3e-3, "progress": False}

Row = tuple[str, float, str]  # what is measured, its value, and what is to be reached


class Digits:
    """MNIST, its latents under the kept ConvVAE, and the kept judge."""

    def __init__(self) -> None:
        self.base, self.judge = ConvVAE(), digit_judge(10)
        load_module(MODELS / "ConvVAE.safetensors", self.base.eval())
        load_module(MODELS / "digits_judge.safetensors", self.judge.eval())
        data = load_mnist()
        self.train, self.validation, self.test = data.train, data.validation, data.test

    @torch.no_grad()
    def fitted(self, condition, labels: Callable, epochs: int, width: int) -> FlowPlugin:
        """A plugin on the posteriors of all training digits. ``labels`` are those of a split."""
        posteriors = [_posterior(self.base, part.x) for part in (self.train, self.validation)]
        (mean, std), (held_out, deviation) = posteriors
        held_out = held_out + deviation * torch.randn(held_out.shape, generator=_seeded(0))
        plugin = FlowPlugin(self.base.latent_dim, condition, hidden_features=width)
        validation = (held_out, labels(self.validation))
        with torch.enable_grad():
            plugin.fit(
                mean, labels(self.train), std=std, validation=validation, epochs=epochs, **TRAINING
            )
        return plugin

    def drawn(self, plugin: FlowPlugin, request: object) -> Tensor:
        """A thousand digits of one request."""
        return FlowPluginNetwork(self.base, plugin).generate(request, n=1_000, seed=0)


def quantity() -> Iterator[Row]:
    """Digits with the ink that was asked for: the mean of their pixels."""
    digits = Digits()
    plugin = digits.fitted(Reals(["ink"]), _ink, epochs=20, width=128)
    for level, asked in zip(LEVELS, _ink(digits.test).quantile(LEVELS).tolist()):
        got = digits.drawn(plugin, {"ink": asked}).mean().item()
        yield f"ink, asked for percentile {100 * level:.0f}: mean got - asked", got - asked, "±.01"


def class_and_quantity() -> Iterator[Row]:
    """A digit and its ink, at percentiles of the ink of that digit."""
    digits = Digits()
    condition = Several(digit=Classes(DIGITS), ink=Reals(["ink"], unknown=True))
    plugin = digits.fitted(
        condition, lambda part: {"digit": part.y, "ink": _ink(part)}, epochs=40, width=224
    )
    right, errors = [], []
    for digit in DIGITS:
        own = _ink(digits.test)[digits.test.y == digit]
        for asked in own.quantile(LEVELS).tolist():
            images = digits.drawn(plugin, {"digit": digit, "ink": asked})
            right.append(_share(digits.judge.predict(images) == digit))
            errors.append(abs(images.mean().item() - asked))
    yield "digit and ink: right digit", sum(right) / len(right), "≥ .95"
    yield "digit and ink: largest error of the mean ink", max(errors), "≤ .01"


def half_unknown() -> Iterator[Row]:
    """Half of the labels unknown at random, beside all labels known."""
    digits = Digits()
    hidden = torch.rand(len(digits.train), generator=_seeded(0)) < 0.5
    mean, std = _posterior(digits.base, digits.test.x)
    draw = mean + std * torch.randn(mean.shape, generator=_seeded(0))

    def partly(part) -> Tensor:
        return part.y.float().masked_fill(hidden, torch.nan) if part is digits.train else part.y

    for name, labels, unknown in (("all", lambda part: part.y, False), ("half", partly, True)):
        plugin = digits.fitted(Classes(DIGITS, unknown=unknown), labels, epochs=40, width=160)
        goal = "" if name == "all" else "within .01 of all"
        for kind, z in (("means", mean), ("draws", draw)):
            accuracy = _share(plugin.predict(z) == digits.test.y)
            yield f"digits, {name} of the labels known: accuracy on {kind}", accuracy, goal


def tinted_digits() -> Iterator[Row]:
    """Colour and digit asked together, one pair of which neither base nor plugin has seen."""
    digits = Digits()
    (x, tints, y), (held_out, *_) = map(_seen, (digits.train, digits.validation))
    base, training = TintedVAE(), {"epochs": 8, "batch_size": 128, "learning_rate": 2e-3}
    fit(base, base.loss, (x,), (held_out,), seed=1, **training)
    condition = Several(colour=Classes(COLOURS, unknown=True), digit=Classes(DIGITS, unknown=True))
    network = FlowPluginNetwork(base, condition, hidden_features=224)
    network.fit(x, {"colour": tints, "digit": y}, epochs=40, progress=False)
    for confidence, how in ((0.0, ""), (CONFIDENCE, ", drawn again")):
        right: dict[tuple[int, int], float] = {}
        for tint, colour in enumerate(COLOURS):
            for digit in DIGITS:
                request = {"colour": colour, "digit": digit}
                images = network.generate(request, n=1_000, confidence=confidence, seed=0)
                found = digits.judge.predict(images.amax(1, keepdim=True)) == digit
                right[tint, digit] = _share(found & (images.mean((2, 3)).argmax(1) == tint))
        yield f"tinted digits, the pair never seen{how}: right pair", right.pop(UNSEEN), "≥ .9"
        yield (
            f"tinted digits, other pairs{how}: right pair",
            sum(right.values()) / len(right),
            "≥ .95",
        )
    yield "tinted digits: share drawn again", network.plugin.redrawn_ / 30_000, ""
    x, tints = _tinted(digits.test.x[:2_000])
    read = network.read(x)
    right_digit = _share(
        torch.from_numpy(read["digit"].to_numpy(copy=True)) == digits.test.y[:2_000]
    )
    right_colour = _share(torch.from_numpy(read["colour"].to_numpy(copy=True)) == tints)
    yield "tinted digits, the colour unknown: digits read right", right_digit, "≥ .95"
    yield "tinted digits, the digit unknown: colours read right", right_colour, "≥ .95"


def zuko_flow() -> Iterator[Row]:
    """A neural spline flow of zuko's as the plugin: classes of 12,000 digits."""
    digits = Digits()

    def build() -> zuko.flows.NSF:
        torch.manual_seed(0)
        return zuko.flows.NSF(digits.base.latent_dim, len(DIGITS), transforms=3)

    network = FlowPluginNetwork(digits.base, classes=DIGITS, flow=build())
    train, test = digits.train.first(12_000), digits.test.first(1_000)
    network.fit(train.x, train.y, epochs=16, batch_size=256, learning_rate=5e-3, progress=False)
    asked = torch.tensor(DIGITS).repeat_interleave(100)
    made = network.generate(DIGITS, n=100, seed=0)
    opposite = (test.y + 5) % 10
    edited = network.edit(test.x, test.y, to=opposite)
    with TemporaryDirectory() as folder:
        network.save(f"{folder}/plugin.safetensors")
        loaded = FlowPluginNetwork.load(f"{folder}/plugin.safetensors", digits.base, build())
    same = (loaded.generate(DIGITS, n=100, seed=0) == made).flatten(1).all(1)
    name = "zuko's NSF on digits"
    yield f"{name}: accuracy on means", _share(network.classify(test.x) == test.y), ""
    yield f"{name}: right class of samples", _share(digits.judge.predict(made) == asked), ""
    yield f"{name}: right class of edits", _share(digits.judge.predict(edited) == opposite), ""
    yield f"{name}: samples that are the same after saving and loading", _share(same), "1"


def few_shapes() -> Iterator[Row]:
    """183 shapes of four categories with the default settings, beside category Gaussians."""
    data, base, judge = load_modelnet(points=256), PointFlow(**SIZES["small"]), cloud_judge(11)
    load_module(PRETRAINED / "modelnet_PointFlow.safetensors", base.eval())
    load_module(PRETRAINED / "modelnet_shapes_judge.safetensors", judge.eval())
    chosen = torch.tensor([data.classes.index(name) for name in CATEGORIES])
    rows = torch.isin(data.train.y, chosen).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=_seeded(0))[:FEW]]
    x, y = data.train.x[rows], torch.searchsorted(chosen, data.train.y[rows])
    asked = torch.arange(len(CATEGORIES)).repeat_interleave(100)

    def right(z: Tensor) -> float:
        return _share(judge.predict(base.decode(z, 256, 0)) == chosen[asked])

    for flow, name in {"maf": "C-MAF", "realnvp": "C-RNVP"}.items():
        torch.manual_seed(0)
        network = FlowPluginNetwork(base, classes=CATEGORIES, flow=flow)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            network.fit(x, y, progress=False)
        share = right(network.plugin.sample(asked, seed=0))
        warned = any("worse than" in str(warning.message) for warning in said)
        goal = "the Gaussians', or a warning"
        yield f"{FEW} shapes, {name}: right category", share, goal
        yield f"{FEW} shapes, {name}: a warning says that Gaussians fit better", float(warned), ""
    gaussians = ClassGaussians(network.encode(x), y)
    yield f"{FEW} shapes, category Gaussians: right category", right(gaussians.sample(asked, 0)), ""


def faces() -> Iterator[Row]:
    """Attributes of drawn faces: half of them unknown, and one asked with the others unsaid."""
    data, network = load_drawn_faces(), pretrained("faces")
    names, exclusive = network.condition.names, network.condition.exclusive
    judge = face_judge(len(names))
    load_module(PRETRAINED / "drawn_faces_faces_judge.safetensors", judge.eval())
    mean, std = _posterior(network.base, data.train.x)
    y, z_test, y_test = data.train.y.float(), network.encode(data.test.x[:80]), data.test.y[:80]
    hidden, networks = torch.rand(y.shape, generator=_seeded(0)) < 0.5, {}
    for name, labels in (("all", y), ("half", y.masked_fill(hidden, torch.nan))):
        plugin = FlowPlugin(z_test.shape[1], Attributes(names, exclusive, unknown=True))
        plugin.fit(mean, labels, std=std, epochs=100, progress=False)
        networks[name] = FlowPluginNetwork(network.base, plugin)
        given = judge, z_test, y_test.float()
        achieved = [_achieved(networks[name], *given, place) for place in range(len(names))]
        goal = "" if name == "all" else "within .02 of all"
        share = sum(achieved) / len(achieved)
        yield f"drawn faces, {name} of the labels known: edits achieved", share, goal
    marks = {"labels": y, "reconstructions": _shown(judge, network, mean)}
    yield from _largest(
        "drawn faces, one attribute each: the reconstructions against the labels, without a plugin",
        _apart(lambda place: marks["reconstructions"][y[:, place] == 1], y, y),
        goal="",
    )
    for name in networks:
        yield from _beside(name, networks[name], judge, y, marks)


class TintedVAE(nn.Module):
    """A small convolutional VAE of tinted digits (n, 3, 28, 28) in [0, 1]."""

    def __init__(self, latent_dim: int = 24, weight: float = 0.3):
        super().__init__()
        self.latent_dim, self.weight = latent_dim, weight  # weight: of the divergence
        self.enc = nn.Sequential(
            *(nn.Conv2d(3, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)),
            *(nn.Flatten(), nn.Linear(64 * 49, 128), nn.LeakyReLU(0.2)),
            nn.Linear(128, 2 * latent_dim),
        )
        self.dec = nn.Sequential(
            *(nn.Linear(latent_dim, 128), nn.ReLU(), nn.Linear(128, 64 * 49), nn.ReLU()),
            *(nn.Unflatten(1, (64, 7, 7)), nn.ConvTranspose2d(64, 32, 4, 2, 1)),
            *(nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1)),
        )

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.enc(x).chunk(2, 1)
        return mean, (0.5 * log_variance).exp()

    def encode(self, x: Tensor) -> Tensor:
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        return self.dec(z).sigmoid()

    def loss(self, x: Tensor) -> Tensor:
        mean, std = self.posterior(x)
        logits = self.dec(mean + std * torch.randn_like(mean))
        reconstruction = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum()
        return (reconstruction + self.weight * divergence) / len(x)


def _tinted(x: Tensor) -> tuple[Tensor, Tensor]:
    """Grey images (n, 1, 28, 28) in tints drawn at random, and the tints (n,)."""
    tints = torch.randint(0, 3, (len(x),), generator=_seeded(0))
    return x * TINTS[tints][:, :, None, None], tints


def _seen(split) -> tuple[Tensor, Tensor, Tensor]:
    """Tinted digits, their tints and classes, without the pair that is never seen."""
    x, tints = _tinted(split.x)
    seen = (tints != UNSEEN[0]) | (split.y != UNSEEN[1])
    return x[seen], tints[seen], split.y[seen]


@torch.no_grad()
def _posterior(base: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    means, stds = zip(*(base.posterior(part) for part in x.split(500)))
    return torch.cat(means), torch.cat(stds)


def _achieved(network: FlowPluginNetwork, judge: Judge, z: Tensor, y: Tensor, place: int) -> float:
    """The share of latents that show the opposite of an attribute after it was edited."""
    wanted, name = 1 - y[:, place], network.condition.names[place]
    edited = z.clone()
    for value in (0.0, 1.0):
        rows = wanted == value
        if rows.any():
            edited[rows] = network.plugin.edit(z[rows], {name: value}, y[rows])
    return _share(judge.predict(network.decode(edited))[:, place] == wanted.bool())


def _beside(
    known: str, network: FlowPluginNetwork, judge: Judge, y: Tensor, marks: dict[str, Tensor]
) -> Iterator[Row]:
    """Frequencies of the others when one attribute is asked, against those in the data.

    The judge errs on reconstructions too, so its readings of them are the mark within reach.
    """
    names, shown = network.condition.names, []
    for name in names:
        z = network.plugin.sample({name: 1.0}, n=DRAWS, seed=0)
        shown.append(_shown(judge, network, z))
    for mark, readings in marks.items():
        gaps = _apart(shown.__getitem__, readings, y)
        label = f"drawn faces, {known} of the labels known, one attribute asked, {DRAWS:,} draws"
        label = f"{label}: the others against the {mark}"
        yield from _largest(label, gaps, "≤ .03")
        yield f"{label}, share of gaps within .03", _share(gaps <= 0.03), ""


def _apart(shown: Callable[[int], Tensor], readings: Tensor, y: Tensor) -> Tensor:
    """Gaps (A, A - 1) of the other attributes' frequencies in what is shown of each attribute."""
    count, gaps = y.shape[1], []
    for place in range(count):
        expected = readings[y[:, place] == 1].mean(0)
        others = torch.arange(count) != place
        gaps.append((shown(place).mean(0) - expected).abs()[others])
    return torch.stack(gaps)


def _largest(label: str, gaps: Tensor, goal: str) -> Iterator[Row]:
    """Of each attribute's largest gap the mean and the worst."""
    largest = gaps.amax(1)
    yield f"{label}, largest gap, mean of {len(gaps)}", largest.mean().item(), goal
    yield f"{label}, largest gap, worst of {len(gaps)}", largest.max().item(), goal


def _shown(judge: Judge, network: FlowPluginNetwork, z: Tensor) -> Tensor:
    """The attributes (n, A) that the judge sees in decoded latents (n, D)."""
    return torch.cat([judge.predict(network.decode(part)).float() for part in z.split(500)])


def _ink(split) -> Tensor:
    return split.x.mean((1, 2, 3))


def _share(right: Tensor) -> float:
    return right.float().mean().item()


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PARTS = {
    "quantity": quantity,
    "class_and_quantity": class_and_quantity,
    "half_unknown": half_unknown,
    "tinted_digits": tinted_digits,
    "zuko_flow": zuko_flow,
    "few_shapes": few_shapes,
    "faces": faces,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=[*PARTS], metavar="PART")
    parser.add_argument("--out", type=Path, default=store.PROJECT / "outputs" / "benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.out / "conditions.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame()
    for part in options.parts:
        torch.manual_seed(0)
        started = time.process_time()
        rows = pd.DataFrame(PARTS[part](), columns=["measured", "value", "to reach"])
        rows = rows.assign(part=part, cpu_seconds=round(time.process_time() - started))
        others = table[table["part"] != part] if len(table) else table
        table = pd.concat([others, rows])
        print(rows.to_string(index=False, float_format="%.4f"))
        store.write(path, table.to_csv(index=False, float_format="%.4f"))


if __name__ == "__main__":
    main()
