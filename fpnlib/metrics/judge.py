"""An independent classifier: it says what a generated image shows, and its features tell how near two sets are."""

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from fpnlib import checks


class Judge(nn.Module):
    """A small convolutional network over images (n, 1, 28, 28) in [0, 1], in the line of LeNet-5 (LeCun et al. 1998).

    Args:
        num_classes: K.
        dropout: share of the features dropped while training.
    """

    num_features = 128

    def __init__(self, num_classes: int = 10, dropout: float = 0.3):
        super().__init__()
        self.config = {
            "num_classes": checks.positive("num_classes", num_classes),
            "dropout": dropout,
        }
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=5, padding=2),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=5),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 5 * 5, self.num_features),
            nn.BatchNorm1d(self.num_features),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.num_features, num_classes))

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees (n, 128), for images (n, 1, 28, 28) in [0, 1].

        Raises:
            TypeError: bytes instead of floats.
            ValueError: images of another size or range, or NaN in them.
        """
        return self.body(checks.images(x, 1, 28).to(self.body[0].weight))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes). Raises as :meth:`features` does."""
        return self.head(self.features(x))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar."""
        return cross_entropy(self(x), y)


def distorted(x: Tensor, generator: torch.Generator, batch_size: int = 1000) -> Tensor:
    """Images (n, c, h, w) in [0, 1], each turned, scaled, sheared, shifted and blurred a little, at random.

    Decoders draw softer than pens do: a judge that has only seen sharp digits misreads soft ones that people read.
    """
    from torchvision.transforms.functional import gaussian_blur  # heavy, and only training needs it

    angle, shear, zoom_x, zoom_y, shift_x, shift_y = (
        most * torch.empty(len(x), device=x.device).uniform_(-1, 1, generator=generator)
        for most in (
            0.2,
            0.15,
            0.1,
            0.1,
            0.1,
            0.1,
        )  # radians, share of the height, shares of the size, …
    )
    cos, sin, wide, high = angle.cos(), angle.sin(), 1 + zoom_x, 1 + zoom_y
    rows = [
        torch.stack([cos * wide, shear - sin * high, shift_x], 1),
        torch.stack([sin * wide, cos * high, shift_y], 1),
    ]
    softness = torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(generator=generator)
    parts = []
    for part, affine, soft in zip(
        x.split(batch_size), torch.stack(rows, 1).split(batch_size), softness.split(batch_size)
    ):
        moved = grid_sample(
            part, affine_grid(affine, list(part.shape), align_corners=False), align_corners=False
        )
        parts.append(moved.lerp(gaussian_blur(moved, [5, 5], [1.2, 1.2]), soft))
    return torch.cat(parts).clamp(0, 1)
