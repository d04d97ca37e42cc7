"""Molecules as SELFIES (Krenn et al. 2020): MOSES, and for use offline those of RDKit's wheel."""

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed
from torch import Tensor
from tqdm.auto import tqdm

from fpnlib import checks
from fpnlib.base_models.selfies_vae import END, LENGTH, TOKENS
from fpnlib.data.dataset import Dataset, Split
from fpnlib.data.files import Root, data_root
from fpnlib.store import PROJECT, alone
from fpnlib.store.tensors import load_tensors, read_meta, save_tensors

try:
    import selfies
    from rdkit import Chem, RDConfig, RDLogger, rdBase
    from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors
    from rdkit.Contrib.SA_Score import sascorer
except ModuleNotFoundError as error:
    remedy = "molecules need RDKit and selfies: pip install -e '.[molecules]'"
    raise ModuleNotFoundError(f"{error}; {remedy}") from None

PROPERTIES = {
    "logP": Crippen.MolLogP,  # partition between octanol and water
    "TPSA": rdMolDescriptors.CalcTPSA,  # polar surface in Å²
    "SA": sascorer.calculateScore,  # synthetic accessibility, from 1, easy, to 10
    "QED": QED.qed,  # drug-likeness in [0, 1]
    "weight": Descriptors.MolWt,  # in daltons
}
VALIDATION, TEST = 5_000, 30_000  # of MOSES' training and test molecules
BATCH = 1_000  # molecules that a worker takes at a time
NUMBERS = {token: number for number, token in enumerate(TOKENS)}
REMEDY = "set FPN_DATA to the folder that has moses/train.csv and moses/test.csv, or these gzipped"

RDLogger.DisableLog("rdApp.*")  # errors say which molecule it is


def load_moses(
    root: Root = None, seed: int = 0, download: bool = False, *, molecules: int = 250_000
) -> Dataset:
    """Load MOSES (Polykovskiy et al. 2020, arXiv:1811.12823): a draw of its official splits.

    30,000 of the test molecules are drawn, and 5,000 training molecules for validation, or a tenth
    if there are few. Tokens and properties are computed once and kept in ``outputs/prepared``.
    Your own molecules serve too, in a column ``SMILES`` of the same files.

    Args:
        root: folder that has ``moses/``; None: see :func:`data_root`.
        seed: of the draws.
        download: not used.
        molecules: training molecules to draw of 1,584,663. A core takes 2 ms for each.

    Returns:
        A dataset of token numbers x (n, 52) and labels y (n, 5), named by ``PROPERTIES``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, or one without a column ``SMILES``.
    """
    folder = data_root(root) / "moses"
    count = checks.positive("molecules", molecules) + VALIDATION
    drawn = _drawn(folder / "train.csv", count, seed)
    test = _drawn(folder / "test.csv", TEST, seed)
    few = len(drawn) < count  # your own, perhaps
    held_out = min(VALIDATION, max(1, len(drawn) // 10)) if few else VALIDATION
    parts = {"train": drawn[held_out:], "validation": drawn[:held_out], "test": test}
    return _prepared("moses", parts)


def load_nci(
    root: Root = None, seed: int = 0, download: bool = False, *, molecules: int = 250_000
) -> Dataset:
    """Load the molecules of the National Cancer Institute in RDKit's wheel, as far as they fit.

    They have at most ``LENGTH`` tokens of ``TOKENS``; a warning says how many do not. A tenth is
    held out for validation, and a tenth for test.

    Args:
        root: not used; the molecules ship with RDKit.
        seed: of the splits.
        download: not used.
        molecules: training molecules at most.
    """
    path = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    given = path.read_text(encoding="utf-8").splitlines()
    smiles = sorted({line.split()[0] for line in given})
    order = np.random.default_rng(seed).permutation(len(smiles))
    tenth, shuffled = len(order) // 10, [smiles[row] for row in order]
    train = shuffled[2 * tenth :][: checks.positive("molecules", molecules)]
    parts = {"validation": shuffled[:tenth], "test": shuffled[tenth : 2 * tenth]}
    return _prepared("nci", parts | {"train": train})


def to_tokens(smiles: str | Iterable[str]) -> Tensor:
    """Token numbers (n, 52), int16, of molecules.

    Raises:
        ValueError: no molecule, one that is too long, or one with an unknown token; which.

    >>> to_tokens(["CCO"])[0, :4].tolist()
    [16, 16, 22, 0]
    """
    return torch.tensor(list(map(_tokens, _several(smiles))), dtype=torch.int16)


def to_smiles(tokens: Tensor) -> list[str]:
    """Canonical SMILES of token numbers (n, length); empty for a molecule without atoms.

    Every sequence of tokens has one.

    >>> to_smiles(torch.tensor([[16, 16, 22, 0]]))
    ['CCO']
    """
    found = []
    for row in checks.array(tokens, ("n", "length"), "tokens").int().tolist():
        end = row.index(END) if END in row else len(row)
        text = selfies.decoder("".join(TOKENS[number] for number in row[:end]))
        found.append(Chem.MolToSmiles(_molecule(text)))
    return found


def properties(smiles: str | Iterable[str]) -> Tensor:
    """The ``PROPERTIES`` (n, 5) of molecules; NaN for one without atoms.

    Raises:
        ValueError: no molecule; which.

    >>> properties(["CCO", "c1ccccc1"])[:, :2]
    tensor([[-1.4000e-03,  2.0230e+01],
            [ 1.6866e+00,  0.0000e+00]])
    """
    return torch.tensor([_properties(_molecule(one)) for one in _several(smiles)])


def _several(smiles: str | Iterable[str]) -> Iterable[str]:
    return [smiles] if isinstance(smiles, str) else smiles


def _molecule(smiles: str) -> Chem.Mol:
    """RDKit's molecule. Raises ValueError for text that is none."""
    found = Chem.MolFromSmiles(smiles) if isinstance(smiles, str) else None
    if found is None:
        raise ValueError(f"'{smiles}' is no molecule that RDKit can read; expected SMILES like CCO")
    return found


def _properties(of: Chem.Mol) -> list[float]:
    some = of.GetNumAtoms() > 0
    return [float(function(of)) if some else np.nan for function in PROPERTIES.values()]


def _tokens(smiles: str) -> list[int]:
    canonical = Chem.MolToSmiles(_molecule(smiles))
    try:
        words = list(selfies.split_selfies(selfies.encoder(canonical)))
    except selfies.EncoderError:
        raise ValueError(f"'{smiles}' has no SELFIES; leave it out") from None
    unknown = [word for word in words if word not in NUMBERS]
    if unknown:
        raise ValueError(f"'{smiles}' has the token {unknown[0]}, which the model does not know")
    if len(words) >= LENGTH:
        raise ValueError(f"'{smiles}' has {len(words)} tokens; the model takes {LENGTH - 1}")
    return [NUMBERS[word] for word in words] + [END] * (LENGTH - len(words))


def _drawn(path: Path, count: int, seed: int) -> list[str]:
    """Random SMILES of a file of MOSES, which may be gzipped."""
    found = path if path.is_file() else path.with_name(f"{path.name}.gz")
    if not found.is_file():
        raise FileNotFoundError(f"MOSES: {path.name} is not in {path.parent}; {REMEDY}")
    try:
        table = pd.read_csv(found, dtype=str, keep_default_na=False, usecols=_is_smiles)
    except (ValueError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"MOSES: {found} is damaged ({reason:.120}); expected CSV") from None
    if table.shape[1] != 1:
        raise ValueError(f"MOSES: {found} has no column SMILES, which its first line should name")
    smiles = table.to_numpy()[:, 0]
    if not len(smiles):
        raise ValueError(f"MOSES: {found} has no molecules; {REMEDY}")
    order = np.random.default_rng(seed).permutation(len(smiles))
    return smiles[order[:count]].tolist()


def _is_smiles(column: str) -> bool:
    return checks.plain_name(column) == "smiles"


def _prepared(name: str, parts: Mapping[str, Sequence[str]]) -> Dataset:
    """The dataset of molecules (SMILES) by split; from the file that an earlier call kept."""
    made_with = [rdBase.rdkitVersion, selfies.__version__, LENGTH, TOKENS, [*PROPERTIES]]
    summed = hashlib.sha256(repr(made_with).encode())
    for smiles in parts.values():
        summed.update("\n".join(smiles).encode())
    path = PROJECT / "outputs" / "prepared" / f"{name}_{summed.hexdigest()[:12]}.safetensors"
    with alone(path.with_suffix("")):
        meta = read_meta(path, refused=list)
        if meta is None:
            meta = _prepare(name, parts, path)
    refused, total = meta["refused"], sum(map(len, parts.values()))
    if refused:
        left_out = f"{len(refused):,} of {total:,} molecules are left out, e.g. {refused[0]}"
        warnings.warn(f"{name}: {left_out}; {path.stem}.json names all", stacklevel=3)
    tensors, _ = load_tensors(path)
    splits = {split: Split(tensors[f"{split}.x"], tensors[f"{split}.y"]) for split in parts}
    return Dataset(name, **splits, classes=tuple(PROPERTIES), checksum=summed.hexdigest())


def _prepare(name: str, parts: Mapping[str, Sequence[str]], path: Path) -> dict:
    """Keep tokens and properties in a file; what is refused, with the reason, in its ``meta``."""
    tensors: dict[str, Tensor] = {}
    refused: list[str] = []
    for split, smiles in parts.items():
        workers = cpu_count() if len(smiles) > 8 * BATCH else 1  # a worker imports for seconds
        parallel = Parallel(workers, batch_size=BATCH, return_as="generator")
        done = parallel(delayed(_read)(one) for one in smiles)
        look = {"unit": "molecule", "disable": None, "dynamic_ncols": True}
        rows = []
        for row, reason in tqdm(done, f"{name}, {split}", len(smiles), **look):
            if reason:
                refused.append(reason)
            else:
                rows.append(row)
        if not rows:
            raise ValueError(f"{name}: no molecule for {split} fits; {refused[-1]}")
        x, y = zip(*rows)
        tensors[f"{split}.x"] = torch.tensor(x, dtype=torch.int16)  # uint8 would be an image
        tensors[f"{split}.y"] = torch.tensor(y)
    meta = {"refused": refused}
    save_tensors(path, tensors, meta)
    return meta


def _read(smiles: str) -> tuple[tuple, str]:
    """Tokens and properties of a molecule, or why it does not fit."""
    try:
        return (_tokens(smiles), _properties(_molecule(smiles))), ""
    except ValueError as error:
        return (), str(error)
