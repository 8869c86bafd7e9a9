"""Pages of HTML that hold all they need: a browser that shows one asks for nothing. What comes from data is escaped.

A page's policy (Content-Security-Policy) forbids requests, and scripts other than the page's own.
"""

from __future__ import annotations

import secrets
from typing import Any

from operators.errors import MissingExtra

# As plotly's own pages do: no text of a figure can end the script that holds it.
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "/": "\\u002f", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def render_page(template: str, **values: Any) -> str:
    """A page of `templates/`, with plotly.js in it, about 5 MB. Raises `MissingExtra`."""
    try:
        import jinja2
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as failure:
        raise MissingExtra("pages need plotly and jinja2: pip install 'latentlake[explore]'") from failure
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("latentlake.exploration"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template)
    return page.render(nonce=secrets.token_urlsafe(16), plotly=Markup(get_plotlyjs()), **values)


def figure_json(figure: Any) -> Any:
    """A plotly figure as JSON that can stand in a script, marked as safe."""
    from markupsafe import Markup

    text = figure.to_json()
    for unsafe, safe in UNSAFE.items():
        text = text.replace(unsafe, safe)
    return Markup(text)
