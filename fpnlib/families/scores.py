"""How objects that were drawn for labels are scored beside test objects."""

from collections.abc import Callable

from torch import Tensor

from fpnlib.data import Split
from fpnlib.metrics.editing import accuracy_per_attribute
from fpnlib.metrics.images import diversity, frechet_distance, right_class_rate
from fpnlib.metrics.judge import Judge

Score = Callable[[Tensor, Tensor], dict[str, float]]


def image_scores(judge: Judge, test: Split) -> Score:
    """Return a function that scores images for classes.

    Its numbers are "right class", the "Fréchet distance" to the test images in the judge's
    features, the "diversity" as a share of theirs, and "n".
    """
    real = judge.read(test.x).features
    real_diversity = diversity(real, test.y)

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        features = judge.read(x).features
        return {
            "right class": right_class_rate(judge, x, y),
            "Fréchet distance": frechet_distance(real, features),
            "diversity": diversity(features, y) / real_diversity,
            "n": len(x),
        }

    return score


def class_scores(judge: Judge, test: Split) -> Score:
    """Return a function that scores objects for classes by the judge alone."""
    return lambda x, y: {"right class": right_class_rate(judge, x, y), "n": len(x)}


def attribute_scores(judge: Judge, test: Split) -> Score:
    """Return a function that scores objects by the attributes that the judge reads rightly.

    In "balanced", presence and absence of an attribute weigh alike.
    """

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        balanced = accuracy_per_attribute(judge, x, y, balanced=True)
        return {
            "right": accuracy_per_attribute(judge, x, y).mean().item(),
            "balanced": balanced.nanmean().item(),
            "n": len(x),
        }

    return score
