"""Banner: the first line: which box, how long it has been up, how fast it is, and whether it is heard."""

from __future__ import annotations

from rich.text import Text

from hearth_tui import figures
from hearth_tui.printable import one_line
from hearth_tui.top.history import History
from hearth_tui.top.lines import short_span
from hearth_tui.top.types import Top
from hearth_tui.widgets.line import Line

_SPARK = 10


class Banner(Line):
    """One line over everything."""

    DEFAULT_CSS = """
    Banner { height: 1; padding: 0 1; background: $panel; }
    """

    def show_box(self, name: str, top: Top, history: History, speed: float | None) -> None:
        """What is known of a box that answers."""
        n_bad = sum(alert.level != "info" for alert in top.alerts)
        line = Text.assemble(("hearth ", "bold"), f"{top.version} ", (_end_of(name, 24), "cyan"))
        line.append(f" up {short_span(top.now - top.started)}")
        line.append(f" {figures.UNKNOWN if speed is None else format(speed, '.1f')} tok/s ")
        line.append(history.line("tokens", _SPARK), "cyan")
        if n_bad:
            line.append(f" {n_bad} alert{'' if n_bad == 1 else 's'}", "bold red")
        if top.draining:
            line.append(" shutting down", "yellow")
        elif not top.may_act:
            line.append(" read-only", "yellow")
        self.show(line)

    def show_lost(self, name: str, reason: str, seconds: float) -> None:
        """What is shown below is old."""
        line = Text.assemble(
            ("reconnecting", "bold yellow reverse"),
            f" to {_end_of(name, 30)}, again in {seconds:.0f} s: ",
            (one_line(reason), "dim"),
        )
        self.show(line)


def _end_of(name: str, columns: int) -> str:
    """What tells one address from another stands at its end."""
    name = one_line(name)
    return name if len(name) <= columns else f"…{name[1 - columns :]}"
