"""From a folder of JPEGs to batches of 64 at 160 px, cropped to a square: graftwork as it comes, beside other ways.

Once with small photos (160 pixels the shorter side), once with ones of 500x375, which may be decoded at half their
size. Nothing but loading is measured; all sides draw where to crop, and hand over bytes. Beside images a second stands
how many a second of the processors' time makes, which says the same on a machine that others use too.
"""

from __future__ import annotations

import random
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

from bench.harness import Check, Options, Report, Runner, Side, Spread, ratios
from bench.photos import photo_folder

__all__ = ["SIDES", "measure"]

# The peers are installed elsewhere, if at all.
# mypy: disable-error-code="import-not-found,import-untyped"

SIZE, BS = 160, 64
FULL: Final = {"warm": 4, "batches": 40}
SMOKE: Final = {"warm": 1, "batches": 2}
ROUNDS: Final = 5
LARGE: Final = 640
"""Photos of 500x375 to make."""
Settings = dict[str, Any]
Reader = Callable[[Path], Any]


def rate(batches: Iterable[Any], settings: Settings) -> dict[str, Any]:
    """Return images a second, and a second of the processors' time, after some batches of warming up."""
    began, spent = 0.0, 0.0
    for number, _ in enumerate(batches):
        if number == settings["warm"]:
            began, spent = perf_counter(), process_time()
        if number == settings["warm"] + settings["batches"]:
            break
    count = settings["batches"] * BS
    return {"value": count / (perf_counter() - began), "per_cpu": count / (process_time() - spent)}


def graftwork(settings: Settings) -> dict[str, Any]:
    """Load with what a user gets by default."""
    from graftwork_vision import ImageDataLoaders

    loader = ImageDataLoaders.from_folder(settings["folder"], size=SIZE, bs=BS).train
    whole = (batch for epoch in range(1000) for batch in loader.at(epoch) if batch.size == BS)
    return rate(whole, settings)


def by_hand(reader: Callable[[], Reader], threads: int, settings: Settings) -> dict[str, Any]:
    """Read with a function a photo, in threads or none."""
    import numpy as np

    read, files = reader(), sorted(Path(settings["folder"]).rglob("*.jpg"))

    def load(names: list[Path]) -> Any:
        return np.stack([read(name) for name in names])

    def lists() -> Iterator[list[Path]]:
        while True:
            shuffled = random.sample(files, len(files))
            yield from (shuffled[i : i + BS] for i in range(0, len(files) - BS + 1, BS))

    if not threads:
        return rate(map(load, lists()), settings)
    with ThreadPoolExecutor(threads) as pool:
        return rate(ahead(pool, load, lists(), threads + 2), settings)


def ahead(pool: ThreadPoolExecutor, load: Callable[[Any], Any], lists: Iterable[Any], depth: int) -> Iterator[Any]:
    """Give results in order, so many of them begun at a time."""
    waiting: deque[Future[Any]] = deque()
    for names in lists:
        waiting.append(pool.submit(load, names))
        if len(waiting) >= depth:
            yield waiting.popleft().result()


def square(height: int, width: int) -> tuple[int, int, int]:
    """Draw where a square lies: top, left, side."""
    side = min(height, width)
    return random.randint(0, height - side), random.randint(0, width - side), side


def cv2_reader() -> Reader:
    """Read with OpenCV, at half the size where that is enough."""
    import cv2
    import numpy as np

    cv2.setNumThreads(0)

    def read(name: Path) -> Any:
        data = np.fromfile(name, np.uint8)
        height, width = jpeg_size(data.tobytes())
        half = min(height, width) >= 2 * SIZE
        pixels = cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_2 if half else cv2.IMREAD_COLOR)
        top, left, side = square(*pixels.shape[:2])
        part = cv2.resize(pixels[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        return cv2.cvtColor(part, cv2.COLOR_BGR2RGB)

    return read


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Find height and width in a JPEG's header."""
    place = 2
    while data[place + 1] not in (0xC0, 0xC1, 0xC2):
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return int.from_bytes(data[place + 5 : place + 7], "big"), int.from_bytes(data[place + 7 : place + 9], "big")


def torchvision_reader() -> Reader:
    """Read with torchvision.io, and resize with its functions."""
    import warnings

    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms.v2.functional import resize

    warnings.simplefilter("ignore")

    def read(name: Path) -> Any:
        pixels = decode_jpeg(read_file(str(name)), mode=ImageReadMode.RGB)
        top, left, side = square(*pixels.shape[1:])
        part = resize(pixels[:, top : top + side, left : left + side], [SIZE, SIZE], antialias=True)
        return part.permute(1, 2, 0).numpy()

    return read


def pillow_reader() -> Reader:
    """Read with Pillow, at half the size where that is enough."""
    import numpy as np
    from PIL import Image

    def read(name: Path) -> Any:
        with Image.open(name) as opened:
            opened.draft("RGB", (SIZE, SIZE))
            picture = opened.convert("RGB")
        top, left, side = square(picture.height, picture.width)
        box = (left, top, left + side, top + side)
        return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))

    return read


def fastai(workers: int, settings: Settings) -> dict[str, Any]:
    """Load as fastai's book does; its batches are floats already."""
    from fastai.vision.all import ImageDataLoaders, Resize

    loader = ImageDataLoaders.from_folder(
        settings["folder"], valid_pct=0.2, seed=42, item_tfms=Resize(SIZE), bs=BS, num_workers=workers
    ).train
    return rate((batch for _ in range(1000) for batch in loader), settings)


SIDES: Final[tuple[Side, ...]] = (
    Side(name="graftwork", run=graftwork),
    Side(name="Pillow, 2 threads", run=partial(by_hand, pillow_reader, 2)),
    Side(name="cv2, 2 threads", run=partial(by_hand, cv2_reader, 2), peer="cv2"),
    Side(name="cv2, none", run=partial(by_hand, cv2_reader, 0), peer="cv2"),
    Side(name="torchvision.io, 2 threads", run=partial(by_hand, torchvision_reader, 2), peer="torchvision"),
    Side(name="fastai, no workers", run=partial(fastai, 0), peer="fastai"),
    Side(name="fastai, 2 workers", run=partial(fastai, 2), peer="fastai"),
)


@contextmanager
def large_photos(folder: Path, count: int) -> Iterator[Path]:
    """Give a folder of the same photos at 500x375."""
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="bench-large-") as made:
        for number, name in enumerate(random.Random(0).sample(sorted(folder.rglob("*.jpg")), count)):
            to = Path(made) / name.parent.name / f"{number}.jpg"
            to.parent.mkdir(exist_ok=True)
            with Image.open(name) as opened:
                opened.convert("RGB").resize((500, 375), Image.Resampling.BICUBIC).save(to, quality=90)
        yield Path(made)


def measure(options: Options) -> Report:
    """Run all sides on both kinds of photos."""
    runner = Runner(case="decode", options=options)
    report = Report(case="decode", smoke=options.smoke, notes=runner.notes)
    settings = SMOKE if options.smoke else FULL
    rounds = 1 if options.smoke else ROUNDS
    with photo_folder(smoke=options.smoke) as small, large_photos(small, 100 if options.smoke else LARGE) as large:
        for kind, folder in (("small", small), ("500x375", large)):
            for name, results in runner(SIDES, {**settings, "folder": str(folder)}, rounds=rounds).items():
                report.add(f"{kind}: {name}", [r["value"] for r in results], "images/s", base=f"{kind}: graftwork")
                if "workers" not in name.replace("no workers", ""):  # their time is not this process's
                    used = [r["per_cpu"] for r in results]
                    report.add(f"{kind}, CPU: {name}", used, "images/s", base=f"{kind}, CPU: graftwork")
            _judge(report, kind)
            _judge(report, f"{kind}, CPU")
    return report


def _judge(report: Report, kind: str) -> None:
    """Compare with fastai at its best, and with the fastest of all others."""
    ours = f"{kind}: graftwork"
    others = [line.name for line in report.lines if line.name.startswith(f"{kind}: ") and line.name != ours]
    if not report.has(ours) or not others:
        return
    fastest = max(others, key=lambda name: Spread.of(report.values(name)).median)
    wanted = [(fastest, 1.0)] + [(name, 2.5) for name in others if "fastai" in name]
    for name, target in wanted:
        ratio = ratios(report.values(ours), report.values(name)).median
        report.checks.append(Check(what=f"graftwork / {name}", value=ratio, target=target, better="high"))
