"""What the book's pages need to open from disk: formulas as MathML, methods that unfold."""

import inspect
import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx

TAG = re.compile(r"\\tag\{(.*?)\}")
STAR = re.compile(r"(?<![\w`*])\*+(?=\w)(?![^*\n]*[\w.]\*)")
"""The star of ``*shape`` outside of emphasis and code."""
FOLDED = ("method", "property")
SAME = {
    r"\\([bB]ig+)(?![a-zA-Z])": r"\\\1l",
    r"\\dots\b": r"\\ldots",
    r"\\[lr]vert\b": "|",
    r"\\operatorname\*": r"\\operatorname",
}
"""Commands of LaTeX that docutils does not know, and what it knows in their place."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the parts with Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("autodoc-process-docstring", escape_stars, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("doctree-read", fold_methods)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mathml(formula: str, as_block: bool) -> str:
    """A formula of LaTeX as MathML, which browsers show by themselves."""
    for pattern, known in SAME.items():
        formula = re.sub(pattern, known, formula)
    return tex2mathml(TAG.sub("", formula), as_block=as_block)


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(mathml(node.astext(), False))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    numbers = "".join(f"<span class='eqno'>({tag})</span>" for tag in TAG.findall(node.astext()))
    writer.body.append(f"<div class='math'>{mathml(node.astext(), True)}{numbers}</div>")
    raise nodes.SkipNode


def escape_stars(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list) -> None:
    """Escape stars that docstrings have as Python does: ``(n, *shape)`` has no emphasis."""
    for place, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[place] = STAR.sub(lambda star: "\\*" * len(star[0]), line)


def shorten_signature(
    app: Sphinx, what: str, name: str, found: Any, options: Any, signature: str, returns: str
) -> tuple[str, str]:
    """Name the arguments alone if their defaults are functions, which have no short text."""
    if signature and "<" in signature:
        signature = f"({', '.join(inspect.signature(found).parameters)})"
    return signature, returns


def fold_methods(app: Sphinx, document: nodes.document) -> None:
    """Show of each method its signature and first paragraph; a click shows the rest."""
    for described in document.findall(addnodes.desc):
        if described["objtype"] not in FOLDED:
            continue
        content = described.next_node(addnodes.desc_content)
        if len(content) > 1:
            first, *rest = content.children
            summary = nodes.inline("", "", *first.children)
            tags = ["<details><summary>", "</summary>", "</details>"]
            start, middle, end = (nodes.raw("", tag, format="html") for tag in tags)
            content.children = [start, summary, middle, *rest, end]
