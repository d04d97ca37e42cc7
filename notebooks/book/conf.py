"""Settings of Sphinx for the book. ``build.py`` gathers the pages and calls Sphinx."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import fpnlib  # noqa: E402

project = "Flow Plugin Network"
author = "the authors of fpnlib"
release = fpnlib.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "offline"]

html_theme = "furo"
html_title = project
html_static_path = [str(HERE / "static")]
html_css_files = ["book.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
highlight_language = "text"
html_show_search_summary = False  # a page opened from disk may not read its neighbours
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# Notebooks are shown as they were executed; nothing is loaded from a network.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Types of Python and of other libraries have no page here.
nitpicky = True
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(torch|numpy|np|pandas|pd|nn|nflows|PIL|matplotlib|ipywidgets|widgets|sklearn|t)\..*",
    ),
    (
        "py:.*",
        r"fpnlib\.(store\.tensors|store\.cache|base_models\.frozen|conditions\.columns|families\.encoding|latents)\..*",
    ),
    ("py:.*", r"(collections|pathlib|typing|os|functools)\..*"),
    (
        "py:.*",
        r"Array|Optimizer|Solver|Tensor|Path|Any|Callable|Iterable|Mapping|Sequence|Self|Figure|Axes",
    ),
]
