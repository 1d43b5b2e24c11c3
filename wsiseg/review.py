"""``review.csv``: the regions of a slide, those that the folds disagree on most first."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from wsiseg.geojson import Placed
from wsiseg.manifest import write_whole

__all__ = ["COLUMNS", "REVIEW", "REVIEW_ABOVE", "review_limit", "write_review"]

REVIEW = "review.csv"
REVIEW_ABOVE = 0.15
"""From this disagreement on a region is worth a look where neither user nor bundle names a limit.

It is the standard deviation of the folds' probabilities, mean over the region, 0 to 0.5: about what
five folds give of which four say 0.9 and one says 0.5. A convention, not calibrated on anything.
"""


def review_limit(named: float | None) -> float:
    """From which disagreement on a region is to review: what user or bundle named, else ``REVIEW_ABOVE``.

    >>> review_limit(0.2), review_limit(None)
    (0.2, 0.15)
    """
    return REVIEW_ABOVE if named is None else named


COLUMNS = ("rank", "id", "review", "area_mm2", "mean_probability", "disagreement", "x_px", "y_px")


def write_review(path: Path, placed: Placed, ids: Sequence[str], *, limit: float | None) -> int:
    """Write one row per exported region, ranked by disagreement, then by area; how many are to review.

    ``ids`` are those of the features, in order. ``review`` is yes above ``review_limit(limit)``.
    ``x_px, y_px`` is the region's centroid in the coordinates of the GeoJSON: type it into
    QuPath to go there. Where one network answered alone the disagreement is left empty.

    Raises:
        OutputError: the file cannot be written.
    """
    above = review_limit(limit)
    area_N = shapely.area(placed.polygons_N) * (placed.export.mpp / 1000) ** 2
    xy_N2 = shapely.get_coordinates(shapely.centroid(placed.polygons_N))
    order = np.lexsort((np.asarray(ids, dtype=np.str_), -area_N, -placed.spread_N))
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for rank, i in enumerate(order.tolist(), 1):
        spread = float(placed.spread_N[i])
        means = (f"{placed.mean_prob_N[i]:.4f}", f"{spread:.4f}" if placed.export.disagreement else "")
        place = (f"{xy_N2[i, 0]:.0f}", f"{xy_N2[i, 1]:.0f}")
        table.writerow((rank, ids[i], "yes" if spread > above else "no", f"{area_N[i]:.6f}", *means, *place))
    write_whole(path, text.getvalue().encode())
    return int((placed.spread_N > above).sum())
