"""What a file from elsewhere may do to its reader, and which code would let it."""

import ast

_PICKLES = ("pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib")
UNPICKLERS = {
    f"{module}.{name}" for module in _PICKLES for name in ("load", "loads", "open", "Unpickler")
}
UNPICKLERS |= {"pandas.read_pickle", "torch.jit.load", "torch.hub.load", "torch.serialization.load"}
SAFE_WHERE_ASKED = {
    "torch.load": ("weights_only", "True", None),
    "numpy.load": ("allow_pickle", "False", "False"),
}
"""Readers with the argument that makes them safe, its safe value, and its default where that is safe."""


class Code:
    """What a pickle can make its reader do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def unpickles(source: str) -> list[str]:
    """Where Python code reads, or gets hold of, what could run code from a file: by whatever name it was imported."""
    tree, names, safe = ast.parse(source), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                names[name.asname or name.name.split(".")[0]] = (
                    name.name if name.asname else name.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            names |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}

    def meant(node: ast.expr) -> str:
        whole, dot, rest = ast.unparse(node).partition(".")
        return names.get(whole, whole) + dot + rest

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (called := meant(node.func)) in SAFE_WHERE_ASKED:
            name, value, default = SAFE_WHERE_ASKED[called]
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if given.get(name, default) == value and None not in given and len(node.args) == 1:
                safe.add(node.func)
    found, wanted = [], UNPICKLERS | SAFE_WHERE_ASKED.keys()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names):
            found.append(f"line {node.lineno}: from {node.module} import *")
        elif (
            isinstance(node, ast.Name | ast.Attribute)
            and node not in safe
            and meant(node) in wanted
        ):
            found.append(f"line {node.lineno}: {meant(node)}")
    return found
