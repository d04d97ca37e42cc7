"""Models of other libraries take a plugin with at most two lines beyond the script.

The lines are executed as they stand here, and counted. The packages are those of the extra
``examples``.
"""

import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.distributions import Normal

from fpnlib import FlowPluginNetwork, adapt

CLASSES = ["cat", "dog"]
SMALL = {"hidden_features": 8, "num_layers": 2, "num_blocks": 1}
FITTING = {"epochs": 2, "batch_size": 32, "progress": False}


def pythae_vae():
    models = pytest.importorskip("pythae.models")
    return models.VAE(models.VAEConfig(input_dim=(1, 8, 8), latent_dim=4))


def autoencoder_kl():
    settings = {"block_out_channels": (4, 4), "latent_channels": 2, "norm_num_groups": 2}
    settings["down_block_types"] = ("DownEncoderBlock2D",) * 2
    settings["up_block_types"] = ("UpDecoderBlock2D",) * 2
    return pytest.importorskip("diffusers").AutoencoderKL(1, 1, **settings)


def autoencoder_tiny():
    settings = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1), "latent_channels": 2}
    settings["encoder_block_out_channels"] = settings["decoder_block_out_channels"] = (4, 4)
    return pytest.importorskip("diffusers").AutoencoderTiny(1, 1, **settings)


class Output:
    """What an encoder returns, in the manner of many libraries."""

    def __init__(self, mean, log_variance):
        self.mean, self.log_variance = mean, log_variance


class WithOutputs(nn.Module):
    """An autoencoder in train mode, with layers that a call in train mode changes."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))
        self.decoder = nn.Sequential(
            nn.Linear(4, 64), nn.BatchNorm1d(64), nn.Unflatten(1, (1, 8, 8))
        )

    def encode(self, x):
        return Output(*self.encoder(x).chunk(2, 1))

    def decode(self, z):
        return self.decoder(z)


def generator():
    layers = nn.Linear(4, 64), nn.BatchNorm1d(64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8))
    return nn.Sequential(*layers)


# How each model is made, the lines beyond the script, and the shape of its latents.
MODELS = {
    "pythae VAE": (
        pythae_vae,
        """
base = adapt(model, encode=lambda x: model.encoder(x).embedding,
             decode=lambda z: model.decoder(z).reconstruction)
""",
        (4,),
    ),
    "AutoencoderKL": (
        autoencoder_kl,
        """
base = adapt(model, encode=lambda x: model.encode(x).latent_dist,
             decode=lambda z: model.decode(z).sample)
""",
        (2, 4, 4),
    ),
    "AutoencoderTiny": (
        autoencoder_tiny,
        """
base = adapt(model, encode=lambda x: model.encode(x).latents,
             decode=lambda z: model.decode(z).sample)
""",
        (2, 4, 4),
    ),
    "output object": (
        WithOutputs,
        """
posterior = lambda out: Normal(out.mean, out.log_variance.div(2).exp())
base = adapt(model, encode=lambda x: posterior(model.encode(x)), decode=model.decode)
""",
        (4,),
    ),
    "PCA that returns tables": (
        lambda: PCA(4).set_output(transform="pandas").fit(torch.rand(40, 64).numpy()),
        """
base = adapt(model, encode=lambda x: model.transform(x.flatten(1)),
             decode=lambda z: model.inverse_transform(z).reshape(-1, 1, 8, 8))
""",
        (4,),
    ),
    "GAN": (generator, "base = adapt(model, decode=model)", (4,)),
}


def state(model):
    """Copies of a model's weights, buffers or arrays."""
    if isinstance(model, nn.Module):
        return {name: value.clone() for name, value in model.state_dict().items()}
    arrays = vars(model).items()
    return {name: torch.tensor(value) for name, value in arrays if hasattr(value, "shape")}


@pytest.mark.filterwarnings("ignore:the flow describes", "ignore:.* latents overflowed")
@pytest.mark.parametrize("name", MODELS)
def test_two_lines_are_enough(name, tmp_path):
    make, lines, latent_shape = MODELS[name]
    torch.manual_seed(0)
    model, y = make(), CLASSES * 20
    x = torch.rand(40, 4) if name == "GAN" else torch.rand(40, 1, 8, 8)
    before, names = state(model), {"adapt": adapt, "model": model, "Normal": Normal}
    exec(lines, names)
    fpn = FlowPluginNetwork(names["base"], classes=CLASSES, **SMALL)
    fpn.fit(x, y, **FITTING)
    fpn.save(tmp_path / "plugin.safetensors")
    again = FlowPluginNetwork.load(tmp_path / "plugin.safetensors", names["base"])
    assert len(lines.strip().splitlines()) <= 2 and max(map(len, lines.splitlines())) <= 90
    assert fpn.plugin.latent_shape == latent_shape
    assert fpn.generate("cat", n=3).shape == (3, 1, 8, 8)
    assert torch.equal(fpn.generate("dog", n=2, seed=0), again.generate("dog", n=2, seed=0))
    assert len(fpn.classify(x)) == 40 and set(fpn.classify(x)) <= set(CLASSES)
    assert fpn.edit(x[:5], to="dog").shape == (5, 1, 8, 8)
    assert before and all(torch.equal(value, before[key]) for key, value in state(model).items())
