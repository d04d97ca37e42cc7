"""Laws of the fit loop: the best weights are kept, a resumed fit gives the same bits."""

import copy
from contextlib import nullcontext

import pytest
import torch
from laws import same_state
from sklearn.covariance import LedoitWolf
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from fpnlib import training
from fpnlib.gaussians import gaussian_loss
from fpnlib.store.cache import threads
from fpnlib.store.tensors import Checkpoint
from fpnlib.training import fit


class Memory:
    """A checkpoint in memory that can pull the plug after some epochs."""

    path = "memory"

    def __init__(self, stop_after=None):
        self.state, self.saves, self.stop_after = None, 0, stop_after

    def load(self):
        return self.state

    def save(self, tensors, meta):
        self.state = ({key: value.clone() for key, value in tensors.items()}, meta)
        self.saves += 1
        if self.saves == self.stop_after:
            raise KeyboardInterrupt


def problem(seed=0):
    torch.manual_seed(seed)
    x = torch.randn(300, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]]) + 0.7
    layers = nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1), nn.BatchNorm1d(8), nn.Linear(8, 1)
    return nn.Sequential(*layers), (x[:200], y[:200]), (x[200:], y[200:])


def run(checkpoint=None, noise=0.0, **settings):
    """A fit; with ``noise`` its loss draws, as a VAE's does."""
    net, train, validation = problem()

    def loss(a, b):
        return mse(net)(a + noise * torch.randn_like(a) if noise else a, b)

    settings = dict(epochs=6, batch_size=32, learning_rate=2e-2, seed=3) | settings
    train = settings.pop("train", train)
    history = fit(net, loss, train, validation, checkpoint=checkpoint, **settings)
    return net, history, loss(*validation).item()


def mse(net):
    """The mean squared error of a net's outputs."""
    return lambda x, y: nn.functional.mse_loss(net(x), y)


def fit_briefly(loss, x, net, **settings):
    """Fit a net to tensors ``x`` that also validate it."""
    settings = dict(epochs=2, batch_size=8, learning_rate=1e-2) | settings
    return fit(net, loss, (x,), (x,), **settings)


def test_it_learns_and_keeps_the_best_weights():
    net, history, validation = run(epochs=40)
    assert history.epochs[-1]["train"] < 0.1 * history.epochs[0]["train"]
    assert validation == pytest.approx(history.best_validation, rel=1e-5)
    assert history.epochs[history.best_epoch - 1]["validation"] == history.best_validation
    assert not net.training


@pytest.mark.parametrize("stop_after", [3, 6], ids=["half way", "at the end"])
@pytest.mark.parametrize("one_cycle", [True, False])
@pytest.mark.parametrize("draws", ["nothing", "the data", "the loss"])
def test_a_stopped_fit_taken_up_again_ends_at_the_same_bits(draws, one_cycle, stop_after):
    _, (x, y), _ = problem()
    fresh = lambda generator: (x + 0.1 * torch.randn(x.shape, generator=generator), y)  # noqa: E731
    settings = dict(one_cycle=one_cycle, noise=draws == "the loss")
    settings["train"] = fresh if draws == "the data" else (x, y)
    whole, history, _ = run(**settings)
    memory = Memory(stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(memory, **settings)
    memory.stop_after = None
    torch.manual_seed(99)  # another session's global generator stands elsewhere
    resumed, history_of_resumed, _ = run(memory, **settings)
    assert history_of_resumed == history
    assert same_state(whole.state_dict(), resumed.state_dict())


def test_a_stopped_fit_of_weights_that_lie_otherwise_in_memory_ends_at_the_same_bits(tmp_path):
    x = torch.rand(48, 2, 6, 6, generator=torch.Generator().manual_seed(0))

    def history(checkpoint):
        torch.manual_seed(0)
        layers = nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(3, 2, 3, padding=1)
        net = nn.Sequential(*layers)
        net.to(memory_format=torch.channels_last)
        loss = lambda a: nn.functional.mse_loss(net(a), a)  # noqa: E731
        settings = dict(epochs=4, batch_size=12, learning_rate=1e-2, checkpoint=checkpoint)
        return fit(net, loss, (x,), (x,), **settings)

    class Stopping(Checkpoint):  # in a file, which keeps no layout
        def save(self, tensors, meta):
            super().save(tensors, meta)
            if len(meta["history"]["epochs"]) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        history(Stopping(tmp_path / "half.safetensors"))
    assert history(Checkpoint(tmp_path / "half.safetensors")) == history(None)


def test_the_state_of_another_module_is_refused_in_one_line():
    memory = Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        run(memory)
    said = "memory is of another module or other settings; delete it to start over"
    net, x = nn.Linear(4, 1), torch.randn(8, 4)
    with pytest.raises(ValueError, match=said):
        fit_briefly(lambda x: net(x).mean(), x, net, checkpoint=memory)
    (tensors, meta), memory.stop_after = memory.state, None
    for state in ((tensors, meta | {"history": {"rows": []}}), ({}, meta)):
        memory.state = state
        with pytest.raises(ValueError, match=said):
            run(memory)


def test_validation_draws_the_same_in_every_epoch():
    """With constant weights and a random loss, only training losses differ between epochs."""
    net, x = nn.Linear(4, 1), torch.ones(60, 4)
    settings = dict(epochs=3, batch_size=20, learning_rate=0.0, one_cycle=False)
    history = fit_briefly(lambda x: net(x + torch.randn_like(x)).mean(), x, net, **settings)
    assert len({epoch["validation"] for epoch in history.epochs}) == 1
    assert len({epoch["train"] for epoch in history.epochs}) == 3


def test_the_seed_decides_and_the_callers_draws_do_not_change():
    torch.manual_seed(11)
    expected = torch.rand(3)
    net, train, validation = problem()
    loss = lambda a, b: nn.functional.mse_loss(net(a + torch.randn_like(a)), b)  # noqa: E731
    torch.manual_seed(11)
    fit(net, loss, train, validation, epochs=1, batch_size=64, learning_rate=1e-3)
    assert torch.equal(torch.rand(3), expected)
    first, second, other = (run(seed=seed)[0].state_dict()["0.weight"] for seed in (3, 3, 4))
    assert torch.equal(first, second) and not torch.equal(first, other)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_modes_of_the_caller_change_nothing(mode):
    weights = []
    for context in (nullcontext, MODES[mode]):
        net, train, validation = problem()
        with context():
            fit(net, mse(net), train, validation, epochs=2, batch_size=64, learning_rate=1e-2)
        weights.append(net[0].weight)
    assert torch.equal(*weights)


def test_a_loss_under_its_own_autocast_sees_the_weights_of_each_step():
    torch.manual_seed(0)
    net, x = nn.Linear(3, 1), torch.randn(8, 3)

    def loss(batch):
        with torch.autocast("cpu", torch.bfloat16):
            return net(batch).float().square().mean()

    first, second = fit_briefly(loss, x, net, epochs=2).epochs  # one step each, on all data
    assert first["train"] != first["validation"] == pytest.approx(second["train"])


def test_a_module_may_check_all_data_once():
    net, train, validation = problem()
    seen = []
    net.check_input = lambda *batch: seen.append([len(part) for part in batch])
    fit(net, mse(net), train, validation, epochs=3, batch_size=64, learning_rate=1e-3)
    assert seen == [[200, 200], [100, 100]]


def test_early_stopping():
    _, history, _ = run(epochs=200, patience=2, one_cycle=False, learning_rate=0.5)
    assert history.stopped_early and len(history.epochs) == history.best_epoch + 2


def test_a_frozen_parameter_stays_as_it_is():
    net, train, validation = problem()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    settings = dict(epochs=2, batch_size=64, learning_rate=1e-2, weight_decay=0.1)
    fit(net, mse(net), train, validation, **settings)
    assert torch.equal(net[0].weight, before)


def test_a_loss_of_nan_keeps_the_last_good_weights_and_says_what_to_change():
    net, (x, y), validation = problem()
    good = (x, y)
    calls = iter([good, good, good, (x * float("nan"), y)])
    said = (
        "epoch 3: the loss is nan, on validation .*"
        "learning_rate than 0.001 or clip_norm helps; .* epoch [012] are kept"
    )
    draw = lambda generator: next(calls)  # noqa: E731
    with pytest.raises(FloatingPointError, match=said):
        fit(net, mse(net), draw, validation, epochs=5, batch_size=64, learning_rate=1e-3)
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


def test_a_last_batch_of_one_joins_the_one_before_it():
    """Batch norm refuses a batch of one in training."""
    net, sizes = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), []

    def loss(x):
        if net.training:
            sizes.append(len(x))
        return net(x).square().mean()

    fit_briefly(loss, torch.randn(9, 2), net, epochs=1, batch_size=4)
    assert sizes == [4, 5]


class Fails(torch.autograd.Function):
    """A solver whose way back fails, as torchdiffeq's adjoint does."""

    @staticmethod
    def forward(ctx, x, error):
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ctx.error


REMEDY = "; a smaller learning_rate than 0.01 or clip_norm helps"
GAVE_UP = [
    (FloatingPointError("no step is small enough"), f"no step is small enough{REMEDY}"),
    (AssertionError("underflow in dt 0.0"), f"the solver gave up (underflow in dt 0.0){REMEDY}"),
    (
        AssertionError("non-finite values in state `y`: tensor([[nan],\n [nan]])"),
        f"the solver gave up (non-finite values in state `y`){REMEDY}, or a larger tolerance,"
        " or method='rk4'",
    ),
]


@pytest.mark.parametrize(("error", "line"), GAVE_UP)
@pytest.mark.parametrize("back", [True, False], ids=["on its way back", "on validation"])
def test_a_solver_that_fails_in_the_second_epoch_leaves_the_weights_of_the_first(error, line, back):
    net, x, best = nn.Linear(2, 1), torch.randn(8, 2), {}

    def loss(x):
        if best and not back:
            net.weight.data.fill_(torch.nan)
            raise error
        if not net.training:
            best.update(copy.deepcopy(net.state_dict()))
        loss = net(x).square().mean()
        return Fails.apply(loss, error) if best and net.training else loss

    with pytest.raises(FloatingPointError) as caught:
        fit_briefly(loss, x, net)
    said = str(caught.value)
    assert said.startswith(f"fit, epoch 2: {line}") and said.endswith("weights of epoch 1 are kept")
    assert same_state(best, net.state_dict()) and not net.training


def test_an_assertion_of_the_callers_own_is_left_to_say_what_it_says():
    def loss(x):
        raise AssertionError("three columns are wanted")

    with pytest.raises(AssertionError, match="three columns are wanted"):
        fit_briefly(loss, torch.randn(8, 2), nn.Linear(2, 1))


def test_its_adam_is_torchs_to_the_bit():
    ended = []
    for make in (training._AdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        net, x = torch.nn.Linear(5, 3), torch.randn(40, 5)
        settings = dict(lr=0.1, weight_decay=0.2, fused=True)
        optimizer = make(net.parameters(), **settings)
        for number in range(6):
            if number == 3:  # taken up again
                state = optimizer.state_dict()
                optimizer = make(net.parameters(), **settings)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        ended.append(torch.cat([net.weight.flatten(), net.bias]))
    assert torch.equal(*ended)


@pytest.mark.parametrize(("points", "inside"), [(99, 1), (100, 2)], ids=["small", "large"])
def test_a_small_training_takes_one_thread_and_puts_the_setting_back(monkeypatch, points, inside):
    """Each point passes through the network, so few clouds of many points are a large training."""
    monkeypatch.setattr(training, "ONE_THREAD_WORK", 4 * 100 * (3 * 5 + 5))
    net, x, seen = nn.Linear(3, 5), torch.randn(4, points, 3), set()

    def loss(x):
        seen.add(torch.get_num_threads())
        return net(x).square().mean()

    with threads(2):
        fit_briefly(loss, x, net)
        with pytest.raises(FloatingPointError):
            fit_briefly(lambda x: loss(x) / 0, x, net)
        assert torch.get_num_threads() == 2
    assert seen == {inside}


def test_the_comparison_with_gaussians_takes_one_thread(monkeypatch):
    """BLAS has threads of its own, which wait for each other while other processes work."""
    seen, fit_covariance = set(), LedoitWolf.fit

    def counted(estimator, z):
        seen.update(pool["num_threads"] for pool in threadpool_info())
        return fit_covariance(estimator, z)

    monkeypatch.setattr(LedoitWolf, "fit", counted)
    latents = torch.randn(40, 3), torch.randn(40, 2)
    with threadpool_limits(2):
        assert gaussian_loss(latents, latents, classes=False) > 0
    assert seen == {1}
