"""How a study trains: a family's recipes put into ``training.fit`` and ``FlowPlugin.fit``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fpnlib.data import Dataset, Split
from fpnlib.families.encoding import Latents
from fpnlib.families.family import Settings, Trained
from fpnlib.plugin import FlowPlugin
from fpnlib.training import History, fit


def fit_module(
    recipe: Trained,
    module: nn.Module,
    data: Dataset,
    settings: Settings,
    fitting: Mapping[str, Any],
) -> History:
    """Train a module as its recipe says, on the device on which it is.

    Args:
        recipe: the objective, the view of the data, and the training.
        module: what the recipe has built.
        data: the dataset; its validation split chooses the best epoch.
        settings: the family's.
        fitting: further arguments of ``training.fit``.
    """
    device = next(module.parameters()).device

    def view(split: Split, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x, y = recipe.view(split, settings, generator)
        return x.to(device), y.to(device)

    recipe.before(module, data)
    trained, loss = recipe.objective(module, settings)
    history = fit(
        trained.to(device),
        loss,
        lambda generator: view(data.train, generator),
        view(data.validation, None),
        **recipe.training(data, settings),
        **fitting,
    )
    recipe.after(module.eval(), data)
    return history


def fit_plugin(
    plugin: FlowPlugin,
    train: Latents,
    validation: Latents,
    noise: float,
    fresh: bool,
    fitting: Mapping[str, Any],
) -> History:
    """Fit a plugin to latents (eq. 14).

    Args:
        plugin: the plugin.
        train: training latents.
        validation: held-out latents, which choose the best epoch.
        noise: standard deviation of the noise on latents without a posterior, as a share of
            theirs.
        fresh: draw the posteriors anew in each epoch; otherwise one draw is used throughout, and
            training takes half of the epochs, because one draw is memorised sooner than many.
        fitting: further arguments of ``FlowPlugin.fit``.
    """
    fitting = dict(fitting)
    z, std = train.mean, None
    if train.std.any():
        if fresh:
            std = train.std
        else:
            z, fitting["epochs"] = train.draw, max(1, fitting["epochs"] // 2)
    elif noise:
        std = noise * train.mean.std(0).expand_as(train.mean)
    held_out = validation.draw, validation.y
    return plugin.fit(z, train.y, std=std, validation=held_out, **fitting).history_
