"""How a network is trained, as one frozen value; the command line's options are its fields."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsiseg.errors import UsageError

__all__ = ["PRESETS", "Recipe", "make_recipe"]

Share = Annotated[float, Field(ge=0, lt=1)]
Whole = Annotated[int, Field(ge=1)]


class Recipe(BaseModel):
    """Everything that decides a training besides the data, the strategy and the machine.

    The defaults are what trials found best (decision 16), but for the encoder's first weights: of those
    that can be had anywhere, there are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = Field(default="mit_b0", description="The encoder: mit_b0 … mit_b5, or any of smp's.")
    encoder_weights: str = Field(
        default="none",
        description="Where the encoder starts: none (random), imagenet, or a safetensors file "
        "(wsiseg pretrain makes one; {fold} in its name stands for the fold's).",
    )
    mpp: Annotated[float, Field(gt=0, le=10)] = Field(
        default=1.0, description="Working resolution, microns per pixel; 1500 px at it are 1024 px of input."
    )
    folds: Annotated[int, Field(ge=2)] = Field(default=5, description="Folds of the cross-validation.")
    epochs: Whole = Field(
        default=30, description="Epochs; in one about as many pixels are seen as there are."
    )
    steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Steps of an epoch, for trials of equal length; 0: one look at every pixel."
    )
    cycles: Whole = Field(default=1, description="Equal cycles, in each of which the rate falls to zero.")
    warmup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0, description="Epochs over which the rate first rises from zero."
    )
    crop: Annotated[int, Field(ge=32, multiple_of=32)] = Field(
        default=128, description="Side of a training crop, in pixels of the network's input."
    )
    batch: Whole = Field(default=8, description="Crops per step.")
    accumulate: Whole = Field(default=1, description="Parts a batch is split into, to fit a small GPU.")
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=6e-4, description="Adam's peak learning rate."
    )
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.01, description="Decoupled weight decay (AdamW); with 0 it is Adam."
    )
    clip: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0, description="Largest gradient norm; 0 is no limit."
    )
    loss: Literal["bce", "bce+dice"] = Field(
        default="bce", description="Binary cross-entropy, or that and Dice."
    )
    flips: bool = Field(default=True, description="Flip and turn crops by right angles.")
    scale_jitter: Share = Field(default=0.15, description="Largest change of a crop's microns per pixel.")
    colour_jitter: Share = Field(
        default=0.15, description="Largest change of brightness, contrast, saturation."
    )
    stain_jitter: Share = Field(default=0.1, description="Largest change of each stain (HED space).")
    blur: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0, description="Largest blur of every second crop: standard deviation in input pixels."
    )
    jpeg: Annotated[int, Field(ge=0, le=95)] = Field(
        default=0, description="Lowest JPEG quality that every second crop is stored at; 0: none is."
    )
    glass: Share = Field(default=0, description="Share of crops part of which is covered by empty glass.")
    mosaic: Share = Field(default=0, description="Share of crops put together from four images.")
    balance: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5,
        description="How evenly domains are drawn from: 0 in proportion to their pixels, 0.5 to the "
        "square root of those, 1 equally often.",
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="Weights that go into the bundle: the last, or those with the best validation Dice "
        "(which flatters the fold's score).",
    )
    blend: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1,
        description="Share of the trained weights in the result; the rest are those that a training with "
        "--init-from began with.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=0, description="Seed of the folds, of the first weights and of every draw."
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        if self.batch % self.accumulate:
            msg = f"a batch of {self.batch} cannot be split into {self.accumulate} equal parts"
            raise ValueError(msg)
        if self.epochs % self.cycles:
            msg = f"{self.epochs} epochs are not {self.cycles} equal cycles"
            raise ValueError(msg)
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "encoder": "mit_b5",
        "encoder_weights": "imagenet",
        "mpp": 0.5,
        "crop": 1024,
        "epochs": 30,
        "cycles": 3,
        "warmup": 0,
        "batch": 4,
        "learning_rate": 1e-4,
        "weight_decay": 0,
        "clip": 0,
        "loss": "bce",
        "balance": 0,
    },
}
"""What each preset changes. ``paper``: after Galdran 2024 (arXiv 2410.07124), section 2: FPN with a Mix
Vision Transformer pretrained on ImageNet, 1024 px, Adam at 1e-4 annealed to zero in cycles over 30
epochs, BCE. Our own choices, not the paper's word: mit_b5, 3 cycles of 10 epochs, 4 crops a batch."""


def make_recipe(preset: str, **changes: Any) -> Recipe:
    """A preset with some fields changed; those that are None keep the preset's value.

    >>> make_recipe("paper", epochs=6, crop=None).crop
    1024

    Raises:
        UsageError: no such preset, or a value out of its range.
    """
    if preset not in PRESETS:
        msg = f"no preset {preset!r}; there are {', '.join(PRESETS)}"
        raise UsageError(msg)
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return Recipe(**{**PRESETS[preset], **given})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
        msg = f"the recipe cannot be used: {wrong}"
        raise UsageError(msg) from error
