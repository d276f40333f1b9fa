"""How `make docs` builds these pages. Nothing here or in a page asks the network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import reference  # noqa: E402, beside this file

import fedkd  # noqa: E402

project = "fedkd"
author = "the authors of fedkd"
release = fedkd.__version__
copyright = author

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]  # the second is what the notebook leaves
smartquotes = False  # keys and values are printed as they are typed
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

nb_execution_mode = "force"  # its cells run in each build, in the Python that builds
nb_execution_raise_on_error = True
nb_execution_timeout = 120

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_use_param = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "fedkd"
html_copy_source = False
html_show_sphinx = False


def setup(app):
    """The generated pages are written anew before each build, from the package as it is."""
    app.connect("builder-inited", lambda app: reference.write(HERE / "generated"))
    app.connect("autodoc-process-docstring", keep_bars)


def keep_bars(app, what, name, obj, options, lines):
    """A bar in a docstring is a norm or a size, |x|, and no substitution; in what is printed as it stands it needs no mark."""
    literal = -1  # the indentation of the line that began what is printed as it stands
    for number, line in enumerate(lines):
        depth = len(line) - len(line.lstrip())
        if literal >= 0 and line.strip() and depth <= literal:
            literal = -1
        if literal < 0:
            lines[number] = "``".join(
                part if code % 2 else part.replace("|", "\\|") for code, part in enumerate(line.split("``"))
            )
            literal = depth if line.rstrip().endswith("::") else -1
