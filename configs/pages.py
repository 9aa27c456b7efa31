"""Pages and cards for people, made from Jinja templates that lie beside the code."""

from pathlib import Path
from typing import Any

import jinja2


def environment(folder: Path, **changes: Any) -> jinja2.Environment:
    """For the templates of a folder. Values are escaped as HTML, since texts come from the web; a
    value that a template names and is not given is an error. `changes`: settings of jinja2's
    Environment that differ.
    """
    settings: dict[str, Any] = {
        "loader": jinja2.FileSystemLoader(folder),
        "autoescape": True,
        "undefined": jinja2.StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }
    return jinja2.Environment(**(settings | changes))
