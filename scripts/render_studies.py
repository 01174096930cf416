# SPDX-License-Identifier: Apache-2.0
"""The numbers and figures of docs/studies.md, from what `vit-hf study` wrote.

    python scripts/render_studies.py FOLDER...

FOLDER is the --output_dir of a study. Its study.json goes to docs/studies/NAME.json, its figure to
docs/studies/NAME.png, command and table between the marks `<!-- NAME -->` and `<!-- /NAME -->` of
the page; what is written around them stays.
"""

import json
import re
import sys
from pathlib import Path

from vit_hf.studies import STUDIES
from vit_hf.studies.figure import draw_study
from vit_hf.studies.table import summary

PAGE = Path(__file__).parents[1] / "docs" / "studies.md"


def render(folder: Path, page: Path = PAGE) -> None:
    """Puts one study into the page."""
    content = json.loads((folder / "study.json").read_text())
    name = content["study"]
    beside = page.with_suffix("")
    beside.mkdir(exist_ok=True)
    (beside / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    draw_study(STUDIES[name], content).savefig(beside / f"{name}.png", dpi=150)
    marks = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(".*".join(map(re.escape, marks)), flags=re.DOTALL)
    text = page.read_text()
    if not pattern.search(text):
        raise SystemExit(f"got {page}, which has no marks {marks[0]} and {marks[1]}; write them")
    picture = f"![{content['title']}]({beside.name}/{name}.png)"
    block = "\n".join([marks[0], *summary(content), "", picture, marks[1]])
    page.write_text(pattern.sub(lambda found: block, text))
    print(f"wrote {page}: {name}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: render_studies.py FOLDER...")
    for word in sys.argv[1:]:
        render(Path(word))
