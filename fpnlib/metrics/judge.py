"""An independent classifier: it says what a generated image shows, and its features tell how near two sets are."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fpnlib import checks

SHIFT = 2  # pixels; digits have a margin of four


class Judge(nn.Module):
    """A small convolutional network over images (n, 1, 28, 28) in [0, 1], in the line of LeNet-5 (LeCun et al. 1998).

    Args:
        num_classes: K.
        dropout: share of the features dropped while training.
    """

    num_features = 128

    def __init__(self, num_classes: int = 10, dropout: float = 0.3):
        super().__init__()
        self.config = {"num_classes": checks.positive("num_classes", num_classes), "dropout": dropout}
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
        return self.body(checks.images(x, 1, 28))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes). Raises as :meth:`features` does."""
        return self.head(self.features(x))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar. While training, the batch is shifted by up to two pixels either way."""
        if self.training:
            x = x.roll(torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist(), dims=(2, 3))
        return cross_entropy(self(x), y)
