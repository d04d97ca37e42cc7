"""Digits (section 5.1.1): MNIST or scikit-learn's, two convolutional autoencoders, four plugins."""

from collections.abc import Callable

from torch import Tensor, nn

from fpnlib.base_models import ConditionalVAE, ConvAE, ConvVAE
from fpnlib.conditions import Classes
from fpnlib.data import Split
from fpnlib.families.family import Base, Family, Loss, Plug, Score, Settings, Trained, training_of
from fpnlib.metrics.images import diversity, frechet_distance, right_class_rate
from fpnlib.metrics.judge import Judge, digit_judge

LATENT_DIM = 40
FEW = 10_000
"""Below so many images, batches are smaller or rates higher, because an epoch has few steps."""

# Chosen on validation; the paper leaves them open. Learning rates are the peaks of a one-cycle
# schedule.
VAE_TRAINING = {"batch_size": 128, "learning_rate": 4e-3}
AE_TRAINING = {"batch_size": 256, "learning_rate": 3e-3}
FLOW_TRAINING = {"batch_size": 512, "learning_rate": 2e-3, "clip_norm": 5.0}
JUDGE_TRAINING = {"batch_size": 256, "learning_rate": 4e-3, "weight_decay": 1e-2}


def _training(training: Settings, few: Settings, epochs: str) -> Callable:
    of_many, of_few = training_of(training, epochs), training_of({**training, **few}, epochs)
    return lambda data, s: (of_few if len(data.train) < FEW else of_many)(data, s)


def _image_loss(module: ConvVAE | ConvAE, settings: Settings) -> tuple[nn.Module, Loss]:
    return module, lambda x, y: module.loss(x)


def _vae_flow(settings: Settings) -> dict:
    return {"hidden_features": settings["flow_width"], "num_layers": 5, "num_blocks": 2}


def _ae_flow(settings: Settings) -> dict:
    shape = {"num_layers": settings["ae_flow_layers"], "num_blocks": settings["ae_flow_blocks"]}
    return shape | {"hidden_features": 100, "batch_norm": True}


def _flows(shape: Callable, names: str, settings: tuple[str, ...]) -> dict[str, Plug]:
    epochs, seed = f"{names}_epochs", f"{names}_seed"
    training = _training(FLOW_TRAINING, {"learning_rate": 8e-3}, epochs)
    plug = Plug(shape=shape, training=training, settings=(*settings, epochs), seed=seed)
    return {"maf": plug, "realnvp": plug}


def _scores(judge: Judge, test: Split) -> Score:
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


DIGITS = Family(
    name="digits",
    dataset="digits",
    settings={
        "vae_epochs": 12,
        "ae_epochs": 10,
        "conditional_epochs": 6,
        "flow_epochs": 30,
        "flow_width": 64,
        "flow_seed": 0,  # added to the run's seed for the ConvVAE's plugins
        "ae_flow_epochs": 12,
        "ae_flow_layers": 5,  # the paper's text says 10, the authors' file 5
        "ae_flow_blocks": 2,  # the text says 5, the file 2
        "ae_flow_seed": 0,
        "judge_epochs": 10,
        "confidence": 0.5,  # latents read as asked with less of it are drawn again
        "temperature": 1.0,  # of such draws on the ConvVAE
    },
    condition=lambda dataset, names: Classes(names),
    bases={
        "ConvVAE": Base(
            build=lambda data, settings: ConvVAE(LATENT_DIM),
            training=_training(VAE_TRAINING, {"batch_size": 32}, "vae_epochs"),
            settings=("vae_epochs",),
            objective=_image_loss,
            flows=_flows(_vae_flow, "flow", ("flow_width",)),
            again=lambda s: {"confidence": s["confidence"], "temperature": s["temperature"]},
        ),
        "ConvAE": Base(
            build=lambda data, settings: ConvAE(LATENT_DIM),
            training=_training(AE_TRAINING, {"batch_size": 32}, "ae_epochs"),
            settings=("ae_epochs",),
            objective=_image_loss,
            flows=_flows(_ae_flow, "ae_flow", ("ae_flow_layers", "ae_flow_blocks")),
            again=lambda s: {"confidence": s["confidence"]},
        ),
        # A rival that is trained from scratch with the classes; it takes no plugin.
        "ConditionalVAE": Base(
            build=lambda data, settings: ConditionalVAE(LATENT_DIM, len(data.classes)),
            training=_training(VAE_TRAINING, {"batch_size": 32}, "conditional_epochs"),
            settings=("conditional_epochs",),
        ),
    },
    judge=Trained(
        build=lambda data, settings: digit_judge(len(data.classes)),
        training=training_of(JUDGE_TRAINING, "judge_epochs"),
        settings=("judge_epochs",),
    ),
    score=_scores,
    paper={  # Table 1: accuracy on train and test, one draw from each posterior
        "logistic_regression": (0.8746, 0.8833),
        "linear_svm": (0.9090, 0.9164),
        "rbf_svm": (1.0, 0.9603),
        "automl": (1.0, 0.9608),
        "maf": (0.9771, 0.9677),
        "realnvp": (0.9740, 0.9616),
    },
    paper_dataset="mnist",
)
