"""Independent classifiers that say what a generated or edited object shows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fpnlib import checks
from fpnlib.base_models.pointflow import dense_layers

AT_ONCE = 400_000  # numbers in a batch: 510 digits, 32 faces, 65 clouds of 2,048 points
FEATURES = 128  # of digits and faces
# How much a cloud changes in training at most: deviation of its points in its own deviations,
# degrees about the upright axis, and the share by which each axis is stretched.
JITTER, DEGREES, STRETCH = 0.15, 10.0, 0.1


@dataclass(frozen=True)
class Reading:
    """What a judge sees in n objects: ``features`` (n, F), ``logits`` (n, outputs), on the CPU."""

    features: Tensor
    logits: Tensor


class Judge(nn.Module):
    """A classifier made of a body, which gives features, and a linear head.

    Args:
        body: a network from objects (n, ...) to features (n, num_features).
        num_features: width of the features.
        outputs: number of classes, or of attributes.
        exclusive: True: an object has one of the classes. False: it has each attribute or not.
        prepare: checks and scales objects before the body.
        augment: changes prepared objects at random while training; None: nothing.
        dropout: share of the features dropped while training.
        both_sides: read an image and its mirror image, and take the mean of the two.
        config: JSON-able description of the architecture.

    >>> judge = Judge(nn.Flatten(), 4, outputs=3)
    >>> judge(torch.zeros(5, 2, 2)).shape, judge.predict(torch.zeros(5, 2, 2)).shape
    (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        body: nn.Module,
        num_features: int,
        outputs: int,
        *,
        exclusive: bool = True,
        prepare: Callable[[Any], Tensor] = torch.as_tensor,
        augment: Callable[[Tensor], Tensor] | None = None,
        dropout: float = 0.0,
        both_sides: bool = False,
        config: Mapping[str, Any] = {},
    ):
        super().__init__()
        self.both_sides = both_sides
        self.num_features = checks.positive("num_features", num_features)
        self.outputs, self.exclusive = checks.positive("outputs", outputs), exclusive
        self.prepare, self.augment, self.config = prepare, augment, dict(config)
        self.body = body
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(num_features, outputs))

    def features(self, x: Tensor) -> Tensor:
        """Features (n, num_features) of objects x (n, ...), as the head sees them.

        Raises:
            TypeError, ValueError: objects that ``prepare`` refuses.
        """
        return self.body(self._prepared(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, outputs) of objects x (n, ...). Raises as :meth:`features` does."""
        return self.head(self.features(x))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar, of classes y (n,) or attributes y (n, A).

        In training mode the objects are augmented.
        """
        x = self._prepared(x)
        if self.training and self.augment is not None:
            x = self.augment(x)
        logits = self.head(self.body(x))
        if self.exclusive:
            return functional.cross_entropy(logits, y)
        return functional.binary_cross_entropy_with_logits(logits, y.to(logits))

    @torch.no_grad()
    def read(self, x: Tensor) -> Reading:
        """Features and logits of objects x (n, ...), in eval mode and in batches.

        Raises:
            ValueError: no objects.
            TypeError, ValueError: as :meth:`features`.
        """
        self.eval()
        x = self._prepared(x)
        if not len(x):
            raise ValueError("there are no objects to judge")
        parts = x.split(max(1, AT_ONCE // x[0].numel()))
        features = torch.cat(list(map(self.body, parts)))
        if self.both_sides:
            mirrored = [self.body(part.flip(-1)) for part in parts]
            features = (features + torch.cat(mirrored)) / 2
        return Reading(features.cpu(), self.head(features).cpu())

    def predict(self, x: Tensor) -> Tensor:
        """Classes (n,) of objects x (n, ...), or attributes, bool (n, A). Raises as read does."""
        logits = self.read(x).logits
        return logits.argmax(1) if self.exclusive else logits > 0

    @torch.no_grad()
    def calibrate(self, x: Tensor, y: Tensor) -> Self:
        """Move each attribute's threshold to where it best separates objects x by y (n, A).

        Best is the largest true-positive rate less the false-positive rate, so that a rare
        attribute counts as much as a frequent one. A threshold stays if no other is better, or if
        all objects agree. Returns the judge itself.
        """
        from sklearn.metrics import roc_curve  # slow to import

        linear: Any = self.head[1]
        logits = self.read(x).logits
        y = checks.attributes(y, logits.shape)
        for k, (scores, has) in enumerate(zip(logits.T, y.T.cpu() > 0.5)):
            if has.all() or not has.any():
                continue
            curve = roc_curve(has, scores, drop_intermediate=False)
            false, true, levels = map(torch.from_numpy, curve)
            here = (scores > 0)[has].float().mean() - (scores > 0)[~has].float().mean()
            best = int((true - false).argmax())
            if 0 < best < len(levels) - 1 and true[best] - false[best] > here + 1e-6:
                linear.bias[k] -= (levels[best] + levels[best + 1]) / 2
        return self

    def _prepared(self, x: Tensor) -> Tensor:
        return self.prepare(x).to(next(self.parameters()))


def digit_judge(num_classes: int = 10) -> Judge:
    """A convolutional judge of images (n, 1, 28, 28) in [0, 1], after LeNet-5 (LeCun 1998).

    In training the images are turned, scaled, sheared, shifted and blurred a little, because
    decoders draw softer digits than pens do.

    >>> digit_judge()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    checks.positive("num_classes", num_classes)
    convolutions = [*_pooling(1, 16, padding=2), *_pooling(16, 32, padding=0)]
    return Judge(
        nn.Sequential(*convolutions, nn.Flatten(), *dense_layers((32 * 5 * 5, FEATURES))),
        FEATURES,
        num_classes,
        prepare=partial(checks.images, channels=1, size=28),
        augment=_distorted,
        dropout=0.3,
        config={"num_classes": num_classes},
    )


def face_judge(num_attributes: int, size: int = 64, width: int = 16) -> Judge:
    """A small convolutional judge of attributes of faces (n, 3, size, size) in [0, 1].

    In training the faces are shifted by up to two pixels and half of them blurred, because
    autoencoders blur. A face is read together with its mirror image.

    Args:
        num_attributes: A.
        size: pixels a side, a multiple of 16.
        width: channels of the first layer, doubled three times.

    Raises:
        ValueError, TypeError: a count that is not a positive whole number, or another size.
    """
    config: dict[str, Any] = {"num_attributes": num_attributes, "size": size, "width": width}
    for name, value in config.items():
        checks.positive(name, value)
    if size % 16:
        raise ValueError(f"size must be a multiple of 16, got {size}")
    widths = [3, width, 2 * width, 4 * width, 8 * width]
    # The place of a feature tells what it is, so nothing is pooled over the whole face.
    flat = widths[-1] * (size // 16) ** 2
    halving = map(_halving, widths, widths[1:])
    return Judge(
        nn.Sequential(*halving, nn.Flatten(), *dense_layers((flat, FEATURES))),
        FEATURES,
        num_attributes,
        exclusive=False,
        prepare=partial(checks.images, channels=3, size=size),
        augment=_shifted_or_blurred,
        dropout=0.2,
        both_sides=True,
        config=config | {"dropout": 0.2, "both_sides": True},
    )


def cloud_judge(
    num_classes: int,
    widths: Sequence[int] = (64, 64, 128, 256),
    head_widths: Sequence[int] = (128, 64),
) -> Judge:
    """A judge of clouds (n, points, 3) with y up: PointNet without alignment (arXiv:1612.00593).

    Each cloud is centred and scaled by its own deviation, so that units do not matter.

    Args:
        num_classes: K.
        widths: of the features of a point, whose maximum over the cloud is taken.
        head_widths: between the cloud's features and the logits.

    >>> cloud_judge(3)(torch.rand(2, 100, 3)).shape
    torch.Size([2, 3])
    """
    checks.positive("num_classes", num_classes)
    checks.widths("widths", widths)
    checks.widths("head_widths", head_widths)
    config = {"num_classes": num_classes, "widths": list(widths), "head_widths": list(head_widths)}
    return Judge(
        _CloudBody(widths, head_widths),
        head_widths[-1],
        num_classes,
        prepare=_normalised,
        augment=_varied,
        config=config | {"varied": [JITTER, DEGREES, STRETCH]},
    )


class _CloudBody(nn.Module):
    """Features of each point, their maximum over the cloud, and layers on it."""

    def __init__(self, widths: Sequence[int], head_widths: Sequence[int]):
        super().__init__()
        self.points = nn.Sequential(*dense_layers((3, *widths))[:-1])  # no ReLU before the maximum
        self.cloud = nn.Sequential(*dense_layers((widths[-1], *head_widths)))

    def forward(self, x: Tensor) -> Tensor:
        features = self.points(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.cloud(features.amax(1))


def _pooling(inputs: int, outputs: int, padding: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=5, padding=padding)
    return [convolution, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()]


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _normalised(x: Tensor) -> Tensor:
    """Clouds (n, points, 3), centred and scaled to deviation 1."""
    x = checks.clouds(x)
    x = x - x.mean(1, keepdim=True)
    return x / x.square().mean((1, 2), keepdim=True).sqrt()


def _uniform(most: float, *shape: int, like: Tensor) -> Tensor:
    """Random numbers between -most and most."""
    return most * (2 * torch.rand(*shape, device=like.device, dtype=like.dtype) - 1)


def _distorted(x: Tensor) -> Tensor:
    """Images (n, 1, h, w), each turned, scaled, sheared, shifted and blurred a little."""
    n = len(x)
    angle, shear = _uniform(0.2, n, like=x), _uniform(0.15, n, like=x)  # radians, share of height
    wide, high = 1 + _uniform(0.1, n, like=x), 1 + _uniform(0.1, n, like=x)
    right, down = _uniform(0.1, n, like=x), _uniform(0.1, n, like=x)  # shares of half the size
    first = torch.stack([angle.cos() * wide, shear - angle.sin() * high, right], 1)
    second = torch.stack([angle.sin() * wide, angle.cos() * high, down], 1)
    maps = torch.stack([first, second], 1)
    places = functional.affine_grid(maps, list(x.shape), align_corners=False)
    moved = functional.grid_sample(x, places, align_corners=False)
    softness = torch.rand(n, 1, 1, 1, device=x.device, dtype=x.dtype)
    bell = torch.softmax(-(torch.arange(-2, 3).to(x) / 1.2).square() / 2, 0)  # a Gaussian's weights
    framed = functional.pad(moved, [2] * 4, mode="reflect")
    blurred = functional.conv2d(framed, bell.outer(bell)[None, None])
    return moved.lerp(blurred, softness).clamp(0, 1)


def _shifted_or_blurred(x: Tensor) -> Tensor:
    """Images (n, c, h, w), shifted by up to two pixels; half of them blurred."""
    x = x.roll(torch.randint(-2, 3, (2,)).tolist(), dims=(2, 3))
    blurred = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, blurred, x)


def _varied(x: Tensor) -> Tensor:
    """Clouds (n, points, 3), each turned about y, stretched, and its points moved a little."""
    n = len(x)
    turn = _uniform(math.radians(DEGREES), n, 1, like=x)
    right, up, depth = x.unbind(-1)
    turned = [right * turn.cos() + depth * turn.sin(), up, depth * turn.cos() - right * turn.sin()]
    x = torch.stack(turned, -1)
    deviation = JITTER * torch.rand(n, 1, 1, device=x.device)
    return x * (1 + _uniform(STRETCH, n, 1, 3, like=x)) + deviation * torch.randn_like(x)
