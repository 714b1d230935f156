"""Other views of a deal's audit, each written to a file of its own where one is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exchange.audit import picture, prov
from exchange.audit.answers import DealReport
from exchange.query.explanation import Language


@dataclass(frozen=True)
class Views:
    """Files to write: W3C PROV as JSON and in its notation, and the graph as a picture."""

    prov_json: Path | None = None
    prov_n: Path | None = None
    svg: Path | None = None

    def write(self, report: DealReport, language: Language) -> None:
        """Raises FileExistsError rather than write over anything, and OSError."""
        graph = prov.graph_of(report)
        views = (
            (self.prov_json, prov.to_json(graph)),
            (self.prov_n, prov.to_provn(graph)),
            (self.svg, picture.draw(graph, language)),
        )
        for path, text in views:
            if path is not None:
                with path.open("x", encoding="utf-8") as file:
                    file.write(text)
