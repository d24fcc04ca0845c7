"""`adult` for the tabular case, or an invented table of its shape, and what fastai and scikit-learn do with it.

Peers' interpreters import this module, so at its top is the standard library alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

from bench.tables import CATEGORIES, NUMBERS, small_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ENCODING", "FASTAI", "LAYERS", "LR", "TARGET", "Run", "frame", "held_out", "milliseconds", "table_file"]

# The peers are installed elsewhere, if at all.
# mypy: disable-error-code="import-not-found,import-untyped"

TARGET: Final = "salary"
LAYERS: Final = (200, 100)
LR: Final = 1e-2
SINGLE: Final = 20
Run = Callable[[dict[str, Any]], dict[str, Any]]
"""Be a side: from the case's settings to a dict with a "value"."""


def table_file(folder: Path) -> tuple[Path, str]:
    """Find the table, or write one; say which it is."""
    return small_table(folder)


def frame(settings: Mapping[str, Any]) -> pd.DataFrame:
    """Read the table; an invented one gets classes that follow from its columns."""
    import pandas as pd

    whole = pd.read_csv(settings["table"], na_values="?", skipinitialspace=True)
    if TARGET not in whole:
        score = whole[NUMBERS[0]] + 3 * whole[CATEGORIES[1]].str.len()
        whole[TARGET] = (score > score.median()).map({True: ">50K", False: "<=50K"})
    return whole.head(settings["rows"])


def held_out(rows: int) -> list[int]:
    """Return the positions of a fifth of the rows, drawn with one seed for all sides."""
    import numpy as np

    drawn = np.random.default_rng(42).permutation(rows)[: rows // 5]
    return sorted(drawn.tolist())


def milliseconds(job: Callable[[], object], repeats: int) -> float:
    """Return the median time of a job, which has run once before."""
    job()
    times = []
    for _ in range(repeats):
        begin = perf_counter()
        job()
        times.append((perf_counter() - begin) * 1000)
    return median(times)


# -- fastai ----------------------------------------------------------------------------------------------------------


def fastai_loaders(settings: Mapping[str, Any]) -> Any:
    """Return fastai's loaders of the table."""
    import warnings

    warnings.simplefilter("ignore")
    # "all": the loaders' test_dl processes new rows only if that was imported.
    from fastai.tabular.all import Categorify, CategoryBlock, FillMissing, Normalize, TabularPandas

    table = frame(settings)
    valid = held_out(len(table))
    rest = sorted(set(range(len(table))) - set(valid))
    encoded = TabularPandas(
        table,
        procs=[Categorify, FillMissing, Normalize],
        cat_names=list(CATEGORIES),
        cont_names=list(NUMBERS),
        y_names=TARGET,
        y_block=CategoryBlock(),
        splits=(rest, valid),
    )
    return encoded.dataloaders(bs=settings.get("bs", 64))


def fastai_learner(settings: Mapping[str, Any]) -> Any:
    """Return fastai's learner of the same network."""
    from fastai.tabular.all import accuracy, tabular_learner  # all: its verbs are patched in on import

    return tabular_learner(fastai_loaders(settings), layers=list(LAYERS), metrics=accuracy)


def fastai_epoch(settings: dict[str, Any]) -> dict[str, Any]:
    """Train and validate for an epoch, without a bar."""
    scores, times = [], []
    for _ in range(settings["repeats"] + 1):
        learn = fastai_learner(settings)
        with learn.no_bar(), learn.no_logging():
            begin = process_time()
            learn.fit_one_cycle(1, LR)
            times.append(process_time() - begin)
        scores.append(float(learn.recorder.values[-1][-1]))
    return {"value": median(times[1:]), "accuracy": median(scores)}


def fastai_loading(settings: dict[str, Any]) -> dict[str, Any]:
    """Give all training batches of an epoch."""
    train = fastai_loaders(settings).train
    return {"value": milliseconds(lambda: sum(1 for _ in train), settings["repeats"])}


def fastai_row(settings: dict[str, Any]) -> dict[str, Any]:
    """Predict one row."""
    learn, row = fastai_learner(settings), frame(settings).drop(columns=TARGET).iloc[7]
    with learn.no_bar():
        return {"value": milliseconds(lambda: learn.predict(row), settings["predictions"] // 10 + 1)}


def fastai_new_rows(settings: dict[str, Any]) -> dict[str, Any]:
    """Encode new rows, all at once and one by one."""
    loaders, new = fastai_loaders(settings), new_rows(settings)
    singles = [new.iloc[[i]] for i in range(SINGLE)]
    return both(lambda rows: loaders.test_dl(rows), new, singles, settings)


FASTAI: Final[Mapping[str, Run]] = {
    "epoch": fastai_epoch,
    "loader": fastai_loading,
    "one row": fastai_row,
    "new rows": fastai_new_rows,
}


# -- encoding new rows -----------------------------------------------------------------------------------------------


def new_rows(settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return a fifth of the table without its target, as rows that come in later."""
    table = frame(settings)
    return table.iloc[held_out(len(table))].drop(columns=TARGET).reset_index(drop=True)


def both(
    encode: Callable[[Any], object], rows: Any, singles: Sequence[Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure encoding all rows, and single ones one after another."""
    whole = milliseconds(lambda: encode(rows), settings["repeats"])
    return {"value": whole, "singles": milliseconds(lambda: [encode(row) for row in singles], settings["repeats"])}


def sklearn_new_rows(settings: dict[str, Any]) -> dict[str, Any]:
    """Encode with scikit-learn's transformers."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = make_column_transformer((codes, list(CATEGORIES)), (numbers, list(NUMBERS)))
    columns.fit(frame(settings).drop(columns=TARGET))
    new = new_rows(settings)
    return both(columns.transform, new, [new.iloc[[i]] for i in range(SINGLE)], settings)


ENCODING: Final[Mapping[str, Run]] = {"scikit-learn": sklearn_new_rows}
