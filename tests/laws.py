"""How a mistake is answered, when models are the same, weights off their start, a plain judge."""

from contextlib import contextmanager

import pytest
import torch

from fpnlib.metrics.judge import Judge
from fpnlib.store import Manifest, write_json


@contextmanager
def one_line(error, said):
    """Expect an error whose message is a single line in which the pattern ``said`` is found."""
    with pytest.raises(error, match=said) as caught:
        yield caught
    assert "\n" not in str(caught.value)


def error_line(capsys):
    """The one line that a command wrote to stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def refusal(row):
    """A call, what the line of its error says, and the error's kind: ValueError unless given."""
    return (*row, ValueError)[:3]


def refusals(rows, given=tuple):
    """A test that each row's call, with the arguments that ``given`` makes, fails in one line.

    :func:`refusal` says what a row is.
    """

    @pytest.mark.parametrize("row", rows)
    def test(row):
        call, line, kind = refusal(row)
        arguments = given()
        with one_line(kind, line):
            call(*arguments)

    return test


def same_state(one, other):
    """Whether two state dicts hold the same numbers to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@torch.no_grad()
def shake(flow, size):
    """Move a flow's weights by noise of at most this size, and its statistics; in eval mode."""
    for parameter in flow.parameters():
        bound = min(size, 5 * size * parameter.shape[-1] ** -0.5)
        parameter.add_(torch.randn_like(parameter), alpha=bound)
    for key, buffer in flow.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5 * key.endswith("var"))
    return flow.eval()


@torch.no_grad()
def untrained_judge(body, outputs, **settings):
    """A judge whose outputs are the first of its body's four features."""
    judge = Judge(body, 4, outputs=outputs, **settings)
    judge.head[1].weight.copy_(torch.eye(outputs, 4))
    judge.head[1].bias.zero_()
    return judge.eval()


def note_files(folder):
    """Let a run's manifest vouch for its files as they are now."""
    manifest = Manifest(folder)
    files = manifest.files(manifest._belonging())
    write_json(manifest.path, manifest.read() | {"files": files})
