"""The moving picture of the README: python tests/browser/film.py (after make test-browser has installed a driver).

It draws a digit in the app, watches the hits, and opens *why this hit*; notebooks/pictures/draw.gif is what came out.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser.pages import ROOT, Page, app_serving  # noqa: E402

THREE = [
    (0.32, 0.25),
    (0.5, 0.16),
    (0.66, 0.28),
    (0.6, 0.42),
    (0.46, 0.48),
    (0.64, 0.56),
    (0.68, 0.72),
    (0.5, 0.84),
    (0.3, 0.76),
]


def main():
    """Draw, look and keep the pictures."""
    frames = []
    (ROOT / "results" / "browser").mkdir(parents=True, exist_ok=True)
    with app_serving(ROOT / "results" / "digits") as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 760})
        page.goto(address)
        explorer = Page(page, "film")
        explorer.hits.first.wait_for(timeout=60_000)
        explorer.after(lambda: explorer.set("count", 4))

        def shot(times=1):
            page.wait_for_timeout(400)
            image = (
                Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize((800, 608), Image.Resampling.LANCZOS)
            )
            frames.extend([image] * times)

        for start, end in zip(THREE, THREE[1:], strict=False):
            explorer.draw(start, end)
            shot()
        shot(4)
        why = explorer.open("why")
        page.wait_for_timeout(2500)
        why.evaluate("part => part.scrollIntoView({block: 'end'})")
        shot(8)
        browser.close()
    small = [frame.quantize(128, dither=Image.Dither.NONE) for frame in frames]
    path = ROOT / "notebooks" / "pictures" / "draw.gif"
    small[0].save(path, save_all=True, append_images=small[1:], duration=450, loop=0)
    print(f"{path.relative_to(ROOT)}: {len(frames)} pictures, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
