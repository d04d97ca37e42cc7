"""An independent classifier of faces: which attributes a face shows, and how far apart two faces are in what it sees."""

from __future__ import annotations

import torch
from sklearn.metrics import roc_curve
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from fpnlib import checks

SHIFT = 2  # pixels


class AttributeJudge(nn.Module):
    """A small convolutional network over faces (n, 3, size, size) in [0, 1] that says of each attribute whether it is there.

    Args:
        num_attributes: A.
        size: pixels a side, a multiple of 16.
        width: channels of the first layer, doubled three times.
        dropout: share of the features dropped while training.

    Raises:
        ValueError, TypeError: a count that is not a positive whole number, or another size.
    """

    def __init__(self, num_attributes: int, size: int = 64, width: int = 16, dropout: float = 0.2):
        super().__init__()
        self.config = {
            "num_attributes": num_attributes,
            "size": size,
            "width": width,
            "dropout": dropout,
        }
        for name in ("num_attributes", "size", "width"):
            checks.positive(name, self.config[name])
        if size % 16:
            raise ValueError(f"size must be a multiple of 16, got {size}")
        widths = [3, width, 2 * width, 4 * width, 8 * width]
        self.num_features = 128
        self.body = nn.Sequential(
            *(_halving(inputs, outputs) for inputs, outputs in zip(widths, widths[1:])),
            nn.Flatten(),  # where a feature lies tells what it is, so nothing is pooled over the whole face
            nn.Linear(widths[-1] * (size // 16) ** 2, self.num_features),
            nn.BatchNorm1d(self.num_features),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.num_features, num_attributes))

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees (n, 128) of faces (n, 3, size, size) in [0, 1].

        Raises:
            TypeError: bytes instead of floats.
            ValueError: images of another size or range, or NaN in them.
        """
        return self.body(checks.images(x, 3, self.config["size"]))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, A); positive: the attribute is there. Raises as :meth:`features` does."""
        return self.head(self.features(x))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy over attributes (n, A), a scalar.

        While training, faces are shifted by up to two pixels and half of them blurred, as an autoencoder blurs.
        """
        if self.training:
            x = x.roll(torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist(), dims=(2, 3))
            blurred = avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
            x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, blurred, x)
        return binary_cross_entropy_with_logits(self(x), y.to(x))

    @torch.no_grad()
    def calibrate(self, x: Tensor, y: Tensor, batch_size: int = 250) -> AttributeJudge:
        """Put each attribute's threshold where it tells faces x with the attribute from those without best; returns self.

        Both kinds of y (n, A) weigh alike (the greatest true-positive less false-positive rate), or a rare attribute would
        seldom be read at all. A threshold stays where it is if no other tells more, or all faces agree.
        """
        self.eval()
        logits = torch.cat([self(part) for part in x.split(batch_size)]).cpu()
        for k, (scores, has) in enumerate(zip(logits.T, y.T.cpu() > 0.5)):
            if has.all() or not has.any():
                continue
            false, true, levels = map(
                torch.from_numpy, roc_curve(has, scores, drop_intermediate=False)
            )
            here = (scores > 0)[has].float().mean() - (scores > 0)[~has].float().mean()
            best = int((true - false).argmax())
            if 0 < best < len(levels) - 1 and true[best] - false[best] > here + 1e-6:
                self.head[1].bias[k] -= (levels[best] + levels[best + 1]) / 2
        return self


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
    )
