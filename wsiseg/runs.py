"""The pixels of a mask as horizontal runs: a few thousand where there are millions of pixels.

What is asked of a mask's regions is answered from their runs: which belong together, and sums over
them. No image of labels is made; that would take longer than everything else of an outline.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

__all__ = ["Runs", "label_runs"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of true pixels of a mask (Y, X), row by row, and the region each belongs to.

    Attributes:
        width: of the mask.
        bounds: where runs begin and end, by turns, in the flattened mask; none goes round a row's end.
        label_R: the region of each run, from 0 on, 4-connected.
        count: the number of regions.
    """

    width: int
    bounds: Ints
    label_R: Ints
    count: int

    @property
    def lengths(self) -> Ints:
        """The pixels of each run."""
        return self.bounds[1::2] - self.bounds[::2]

    def label_at(self, y_N: Ints, x_N: Ints) -> Ints:
        """The regions of pixels that are true.

        >>> label_runs(np.eye(3, dtype=bool)).label_at(np.array([2, 0]), np.array([2, 0])).tolist()
        [2, 0]
        """
        at = np.searchsorted(self.bounds[::2], y_N * self.width + x_N, side="right") - 1
        found: Ints = self.label_R[at]
        return found

    def sums(self, value_YX: npt.NDArray[np.unsignedinteger]) -> Ints:
        """The sum of an image's values in every run.

        >>> runs = label_runs(np.array([[False, True, True], [True, False, True]]))
        >>> runs.sums(np.array([[0, 1, 2], [3, 4, 5]], np.uint8))
        array([3, 3, 5])
        """
        if not len(self.label_R) or not value_YX.any():  # as the spread of one fold
            return np.zeros(len(self.label_R), np.int64)
        flat = np.append(value_YX, value_YX.dtype.type(0))  # a run may end where the image does
        enough = np.min_scalar_type(self.width * np.iinfo(flat.dtype).max)  # 64 bits take twice the time
        return np.add.reduceat(flat, self.bounds, dtype=enough)[::2].astype(np.int64)


def label_runs(mask_YX: npt.NDArray[np.bool_]) -> Runs:
    """Find the runs of a mask and what of them is connected.

    >>> runs = label_runs(np.array([[False, True, True], [True, False, True]]))
    >>> runs.bounds.tolist(), runs.label_R.tolist()
    ([1, 3, 3, 4, 5, 6], [0, 1, 0])
    """
    rows, width = mask_YX.shape
    edged = np.zeros((rows, width + 2), np.bool_)
    edged[:, 1:-1] = mask_YX
    row_N, column_N = np.divmod(np.flatnonzero(edged[:, 1:] ^ edged[:, :-1]), width + 1)
    bounds = np.asarray(row_N * width + column_N, np.int64)
    start_R, stop_R = bounds[::2], bounds[1::2]
    # the runs of the next row that share a column: the first that ends behind, to the last that begins before
    first_R = np.searchsorted(stop_R, start_R + width, side="right")
    met_R = np.searchsorted(start_R, stop_R + width, side="left") - first_R
    upper = np.repeat(np.arange(len(start_R)), met_R)
    lower = np.arange(len(upper)) - np.repeat(np.cumsum(met_R) - met_R - first_R, met_R)
    links = sparse.coo_array((np.ones(len(upper), np.int8), (upper, lower)), shape=2 * (len(start_R),))
    count, label_R = csgraph.connected_components(links, directed=False)
    return Runs(width, bounds, label_R.astype(np.int64), count)
