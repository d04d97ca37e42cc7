"""The numbers that a notebook records, each beside the paper's."""

import math
from pathlib import Path
from typing import Any

from fpnlib.store.files import PathLike, read_as, schema, write_json

_RECORDS = schema("results")


class Results:
    """The numbers of one notebook, in ``results/<notebook>.json``.

    The file is a list of ``{"quantity", "value", "paper", "n", "seed", …}`` in the order of
    recording. It starts empty and holds no times or dates, so that two runs with one seed write the
    same bytes.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self.records: dict[str, dict] = {}

    def record(self, quantity: str, value: float, **about: Any) -> float:
        """Write one number, in place of an earlier one of the same ``quantity``.

        Args:
            quantity: what was measured, e.g. ``"test accuracy, ConvVAE + C-MAF"``.
            value: the measurement.
            about: ``paper`` (its value), ``n`` (number of samples behind ours), ``seed``, and
                whatever else a reader needs, JSON-able.

        Returns:
            The value, as a float.

        Raises:
            ValueError: NaN or an infinite value.
            OSError: as :func:`write`.
        """
        value = float(value)
        if not math.isfinite(value):
            raise ValueError(f"'{quantity}' must be a finite number, got {value}")
        row = {"quantity": quantity, "value": value, "paper": None, "n": None, "seed": None}
        self.records[quantity] = row | about
        write_json(self.path, list(self.records.values()))
        return value

    @staticmethod
    def read(path: PathLike) -> list[dict]:
        """Read the records of a results file, in their order.

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, or a record without a quantity and a number; one line.
        """
        return read_as(_RECORDS, path)
