"""How good molecules are: valid, unique, novel, as distributed as real ones, and as asked for."""

from collections.abc import Sequence

import numpy as np
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from torch import Tensor

from fpnlib import checks

RADIUS, BITS = 2, 2048  # of Morgan fingerprints


def set_scores(smiles: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """Score canonical SMILES as MOSES does (Polykovskiy et al. 2020, arXiv:1811.12823).

    Args:
        smiles: of the molecules; empty or unreadable ones are not valid.
        known: canonical SMILES of the training molecules.

    Returns:
        "valid", the share that RDKit reads; "unique", the share of different ones among the valid;
        "novel", the share of these that are not ``known``.

    >>> set_scores(["CCO", "CCO", "C", ""], ["C"])
    {'valid': 0.75, 'unique': 0.6666666666666666, 'novel': 0.5, 'n': 4}
    """
    texts = [one for one in smiles if isinstance(one, str) and one]  # a table's gaps are none
    valid = list(filter(Chem.MolFromSmiles, texts))
    unique = set(valid)
    return {
        "valid": len(valid) / len(smiles),
        "unique": len(unique) / max(1, len(valid)),
        "novel": len(unique - set(known)) / max(1, len(unique)),
        "n": len(smiles),
    }


def request_scores(found: Tensor, asked: Tensor, spread: Tensor) -> dict[str, float]:
    """Score the quantities of molecules that were asked for.

    Args:
        found: their quantities (n, q); rows of NaN are not valid.
        asked: the request (n, q), with NaN for what is unsaid.
        spread: standard deviations (q,) of the data.

    Returns:
        "error", the mean absolute difference of what was asked for in deviations; "valid"; "n".

    >>> request_scores(torch.tensor([[2.0, 9.0]]), torch.tensor([[1.0, torch.nan]]), torch.ones(2))
    {'error': 1.0, 'valid': 1.0, 'n': 1}
    """
    found = checks.array(found, (len(asked), len(spread)), "found", missing=True)
    asked, spread = checks.numbers(asked).to(found), checks.numbers(spread).to(found)
    error = ((found - asked).abs() / spread).nanmean()
    valid = (~found.isnan().all(1)).double().mean()
    return {"error": error.item(), "valid": valid.item(), "n": len(found)}


def frechet_chemnet_distance(smiles: Sequence[str], others: Sequence[str]) -> float:
    """Fréchet distance between molecules in ChemNet's features (Preuer et al. 2018).

    Args:
        smiles: canonical SMILES; those that are not valid are left out.
        others: of the molecules to compare with.
    """
    from fcd_torch import FCD  # its network is loaded with it

    device = "cuda" if torch.cuda.is_available() else "cpu"
    valid = [one for one in smiles if one]
    return float(FCD(device=device, n_jobs=1, batch_size=512)(valid, list(others)))


def similarity(smiles: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Tanimoto similarity (n,), in [0, 1], of the Morgan fingerprints of molecules in pairs.

    Raises:
        ValueError: lengths that differ, or no molecule; which.

    >>> similarity(["CCO", "CCO"], ["CCO", "c1ccccc1"]).tolist()
    [1.0, 0.0]
    """
    checks.same_length(smiles, others, ("smiles", "others"))
    make = rdFingerprintGenerator.GetMorganGenerator(RADIUS, fpSize=BITS).GetFingerprint
    found = []
    for one, other in zip(smiles, others):
        pair = [Chem.MolFromSmiles(text) for text in (one, other)]
        if None in pair:
            raise ValueError(f"'{(one, other)[pair.index(None)]}' is no molecule; leave it out")
        found.append(DataStructs.TanimotoSimilarity(*map(make, pair)))
    return np.array(found)
