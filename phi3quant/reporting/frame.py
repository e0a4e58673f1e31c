"""Pages from templates: one frame, style and escaping for all of them."""

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from phi3quant.version import tool_version
from phi3quant.visible import visible

_HOME = "phi3quant.reporting"


def rendered(template: str, *, home: str = _HOME, **values: Any) -> str:
    """A page as HTML.

    Args:
        template: file name of a template that extends frame.html.j2.
        home: package with the template.
        values: variables of the template; ``generator`` names the command, for the page's head.
    """
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader(package, "") for package in dict.fromkeys((home, _HOME))]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=tool_version(), **values)


def markup(drawn: str | None) -> Markup | None:
    """A drawing as markup; it has no text from outside."""
    return None if drawn is None else Markup(drawn)  # noqa: S704 - see above


def _seen(value: Any) -> Any:
    """Visible form of a template's output; markup is left unchanged."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
