"""A training recipe: one frozen dataclass that is the API, the command line and what a run folder saves."""

import dataclasses
import inspect
import math
import typing
from typing import TYPE_CHECKING, Any, Literal

from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign.methods import METHODS
from hypersign.quantizers.methods import FIRST_LAYERS, SURROGATES, Quantization, check_used

__all__ = ["RECIPES", "Recipe", "method_defaults"]

MODEL_NAMES = (
    "vgg",
    "mlp",
    "vgg-small",
    "resnet20",
    "resnet18",
    "reactnet-a",
    "fast-transform",
    "associative-memory",
    "lstm",
    "gpt",
)
"""The networks of `hypersign.models.MODELS`, which imports torch."""

if TYPE_CHECKING:
    SurrogateName = str
    FirstLayerName = str
    MethodName = str
    ModelName = str
else:  # the command line shows the names of the tables
    SurrogateName = Literal[tuple(SURROGATES)]
    FirstLayerName = Literal[FIRST_LAYERS]
    MethodName = Literal[tuple(METHODS)]
    ModelName = Literal[MODEL_NAMES]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run computes, apart from the machine it runs on.

    The defaults are those of `hypersign train`, the recipe `modern`. Options of the network that are None take the
    network's own default; one that the chosen network does not have is an error.

    Raises:
        HypersignError: a value outside its range, or an option that the network does not have.

    >>> recipe = Recipe(data="mnist", epochs=3)
    >>> recipe.rate(epoch=3, progress=1.0), recipe.flip, Recipe(data="cifar-10").flip
    (0.0, False, True)
    """

    data: str = "digits"
    """Data set: digits, mnist, fashion-mnist, cifar-10, cifar-100, a folder of class folders, or an .npz file; or a
    text: tinyshakespeare, war-and-peace, text:FILE (its characters), bytes:FILE."""
    images: int | None = None
    """Train on the first INT training images (the original's debug mode: 100); by default on all."""
    validation: int = 0
    """Hold out the last INT training images (of a text, characters) for validation; war-and-peace has its own."""
    length: int = 100
    """Characters per sequence of a text."""
    flip: bool = typing.cast(bool, None)
    """Mirror each training image with probability 1/2; by default not digits, mnist and fashion-mnist."""
    crop_padding: int = typing.cast(int, None)
    """Crop each training image at random, after padding by this number of pixels; by default 4, and 0 for those."""

    method: MethodName | None = None
    """A method of the field: it sets quantizers, surrogate, activation and latent rule where they are left out, and
    the defaults of levels and training."""

    model: ModelName = "vgg"
    """Network: the paper's vgg, an mlp of fully connected layers, the field's vgg-small, residual networks of binary
    blocks (resnet20, resnet18, reactnet-a), or one without multiplications: fast transforms and switches, or an
    associative memory. For texts: lstm, which also reads images as sequences, and gpt."""
    form: Literal["bi-real", "recu", "adabin"] | None = None
    """Paper that draws resnet20 and resnet18 (bi-real): their shortcuts, first activation and last batch norm."""
    float_first: bool | None = None
    """Whether the first convolution has float weights (vgg-small: yes); if not, 8-bit pixels times 1 bit."""
    float_last: bool | None = None
    """Whether the classifier has float weights and inputs (vgg-small: yes)."""
    widths: tuple[int, ...] | None = None
    """Filters per convolution (vgg, vgg-small: 128 128 256 256 512 512), stage (resnets) or block (reactnet-a)."""
    pools: tuple[int, ...] | None = None
    """Convolutions, counted from 1, that a 2x2 max pool follows (vgg: 2 4 6)."""
    filter_size: int | None = None
    """Height and width of the filters, odd (vgg: 3)."""
    padding: Literal["zeros", "ones", "valid"] | None = None
    """Padding of convolutions: zeros (vgg), ones (+1 around signs), or valid (no padding)."""
    hidden: tuple[int, ...] | None = None
    """Widths of the fully connected layers before the last (vgg: 1024 1024; mlp, fast-transform: 4096 4096 4096;
    associative-memory: 8192), or units of the recurrent layers (lstm: 512)."""
    levels: int = 2
    """2: binary weights and activations, 3: ternary weights and activations."""
    threshold: float | Literal["optimal"] | None = None
    """Ternary threshold in [0, 1) (0.02), or optimal: 0.612 standard deviations."""
    continuous: bool | None = None
    """Whether convolutions stay in float, while fully connected weights are quantized (vgg: no)."""
    float_weights: tuple[str, ...] | None = None
    """Layers whose weights stay in float, such as conv1 fc2."""
    float_inputs: tuple[str, ...] | None = None
    """Layers whose inputs stay in float."""
    weights: str | None = None
    """Weight quantizer in place of levels: sign, ternary, float; with options: ternary:threshold=.1,scale=filter."""
    inputs: str | None = None
    """Input quantizer in place of levels, likewise."""
    surrogate: SurrogateName | None = None
    """Backward rule of the quantizers (hardtanh); tanh, tent and power are annealed during training."""
    activation: Literal["none", "hardtanh", "rprelu", "maxout"] | None = None
    """What follows batch norm, or a residual block (none); rprelu and maxout learn."""
    norm_scale: bool | None = None
    """Whether batch norm learns a scale (vgg: no)."""
    norm_epsilon: float | None = None
    """Added to the variance in batch norm (vgg: 1e-3; resnets: 1e-5)."""
    norm_momentum: float | None = None
    """Weight of the newest batch in batch norm's running averages (0.1; the original's: 0.001)."""
    sign_zero: int | None = None
    """Level of 0: 1, or 0 as in the original (then not a binary network)."""
    weight_scale: Literal["filter"] | int | None = None
    """Multiply quantized weights by least-squares scales: filter (one per filter), or the number of weights per
    scale; without it there is no scale."""
    first_layer: FirstLayerName | None = None
    """Input of the first convolution (vgg): plain pixels, their code in levels, or signs of rotated patches."""
    first_dimensions: int | None = None
    """Levels per pixel of the thermometer code (8), or dimensions that patches are rotated to (64)."""

    cell: Literal["lstm", "gru", "rnn"] | None = None
    """Recurrent layer (lstm)."""
    norm: Literal["none", "weight", "layer", "batch"] | None = None
    """Normalisation of recurrent layers (weight)."""
    step_statistics: bool | None = None
    """Batch norm of recurrent layers with statistics for each step; for images as sequences (no)."""
    scan: Literal["rows", "pixels", "permuted"] | None = None
    """How the recurrent network reads an image: rows, pixels, or pixels in a random order (rows)."""
    embedding: int | None = None
    """Length of a character's vector before the recurrent layers (64)."""
    width: int | None = None
    """Numbers per character in the transformer (384)."""
    blocks: int | None = None
    """Blocks of the transformer (6)."""
    heads: int | None = None
    """Heads of the transformer's attention (6)."""
    feed_forward: Literal["swiglu", "gelu"] | None = None
    """Feed-forward part of the transformer (swiglu)."""
    inner_norm: bool | None = None
    """RMS norm before every quantized product of the transformer, not just before each part (yes)."""
    dropout: float | None = None
    """Share of a layer's outputs that are dropped in training (lstm, gpt: 0)."""

    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 100
    """Images per step, over all processes."""
    loss: Literal["squared-hinge", "cross-entropy"] = "cross-entropy"
    """Squared hinge against targets of -1 and +1, or softmax cross-entropy."""
    label_smoothing: float = 0.0
    """Share of each label that is spread evenly over all classes in the training loss: at most 1."""
    teacher: str | None = None
    """Run folder of a trained network whose soft answers take the place of the labels in the loss."""
    start: str | None = dataclasses.field(default=None, metadata={"option": "from"})
    """Run folder, or safetensors file, whose weights training starts from."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Update rule; sgd has Nesterov momentum 0.9."""
    latent_rule: str | None = None
    """What happens to latent weights around each step: bop, proxquant, askew-sgd, ovsw, lab, centred, percentiles;
    with options: bop:gamma=1e-4."""
    adam_epsilon: Literal["corrected", "uncorrected"] = "corrected"
    """Whether Adam adds its 1e-8 to the bias-corrected root (torch) or to the uncorrected one (the original)."""
    weight_decay: float = 0.0
    """Weight decay of sgd (L2) and adamw (decoupled); adam has none."""
    learning_rate: float = 4e-3
    """First learning rate."""
    final_learning_rate: float = 0.0
    """Last learning rate."""
    warmup: int = 0
    """Epochs in which the learning rate rises from 0."""
    schedule: Literal["exponential", "cosine", "linear"] = "cosine"
    """How the learning rate falls from the first to the last."""
    schedule_per: Literal["epoch", "step"] = "step"
    """Whether the learning rate changes after each epoch or after each step."""
    gradient_clip: float | None = None
    """Clip every gradient entry to [-c, c]; none: no clipping."""
    gradient_norm: float | None = None
    """Scale all gradients together down to this length, if they are longer; none: no scaling."""
    latent_clip: Literal["after-step", "before-forward", "none"] = "after-step"
    """When latent weights are clipped to [-1, 1]; the original's order is before-forward."""
    reestimate_images: int = 10_000
    """Training images that batch norm is re-estimated on at the end, without augmentation; 0: no re-estimation."""

    seed: int = 0
    """Seed of the initial weights, the order of the images, and their augmentation."""
    precision: Literal["float32", "bf16", "bits"] = "float32"
    """bf16: products and activations in bfloat16. bits: exact products on packed bits, and gradients rounded at
    random to 6 bits, on the CPU. Evaluation always uses float32."""
    compile: bool = False
    """Compile the training step with torch.compile."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # JSON has lists for tuples
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        still = self.data in NOT_AUGMENTED or self.data.partition(":")[0] in ("text", "bytes")
        for name, default in (("flip", not still), ("crop_padding", 0 if still else 4)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if name not in _OPTIONAL or value is not None:
                check_choice(name, value, choices)
        if self.method is not None:
            for name, value in METHODS[self.method].fill(self.method, vars(self)).items():
                object.__setattr__(self, name, value)
        if self.latent_rule is not None:
            self._check_rule()
        for name in ("epochs", "batch_size", "length"):
            check_int(name, getattr(self, name), min=1)
        for name in ("validation", "crop_padding", "reestimate_images", "warmup"):
            check_int(name, getattr(self, name), min=0)
        check_int("seed", self.seed, min=0, max=2**63 - 1)
        if self.images is not None:
            check_int("images", self.images, min=1)
        check_real("learning_rate", self.learning_rate, above=0)
        check_real("final_learning_rate", self.final_learning_rate, min=0)
        check_real("weight_decay", self.weight_decay, min=0)
        check_real("label_smoothing", self.label_smoothing, min=0, max=1)
        if self.label_smoothing and self.loss != "cross-entropy":
            raise HypersignError(f"label_smoothing belongs to the cross-entropy; got it with the loss {self.loss}")
        if self.label_smoothing and self.teacher is not None:
            raise HypersignError("a teacher's answers are soft labels already; got label_smoothing too: leave it out")
        for name in ("gradient_clip", "gradient_norm"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), above=0)
        if self.schedule == "exponential" and self.final_learning_rate == 0:
            raise HypersignError("final_learning_rate must be > 0 with the exponential schedule; got 0")
        if self.weight_decay and self.optimizer == "adam":
            raise HypersignError(
                f"adam takes no weight decay; got weight_decay {self.weight_decay:g}: use adamw or sgd"
            )
        if self.adam_epsilon == "uncorrected" and self.optimizer == "sgd":
            raise HypersignError("adam_epsilon belongs to adam and adamw; got it with the optimizer sgd")
        # A recipe without options of the network needs no torch, and nor do the named recipes.
        if _checking and self.model_options() != {"levels": 2}:
            self._check_model_options()

    def _check_rule(self) -> None:
        from hypersign.optimizers import rule_of

        assert self.latent_rule is not None
        rule_of(self.latent_rule)

    @classmethod
    def of(cls, method: str, base: "Recipe | None" = None, **options: Any) -> "Recipe":
        """The recipe of a method: its paper's training where that is known, elsewhere that of `base`.

        Args:
            method: a name of `METHODS`.
            base: a recipe; the named recipe "modern" if None.
            options: fields that differ from both.

        Raises:
            HypersignError: an unknown method, or options that it does not have.

        >>> recipe = Recipe.of("recu", epochs=5)
        >>> recipe.weights, recipe.optimizer, recipe.warmup, recipe.epochs
        ('recu', 'sgd', 5, 5)
        """
        if base is None and "data" in options:  # flips and crops depend on the data
            base = cls(data=options["data"])
        return cls(**{**method_defaults(method, base), **options})

    def _check_model_options(self) -> None:
        from hypersign.models import options_of

        unknown = sorted(set(self.model_options()) - set(options_of(self.model)))
        if unknown:
            by = f", which the method {self.method} sets" if self.method is not None else ""
            raise HypersignError(
                f"{self.model} has no option {', '.join(unknown)}{by}; its options are "
                f"{', '.join(options_of(self.model))}: leave the others out"
            )
        self.quantization()  # checks its options

    def quantization(self) -> Quantization:
        """The network's quantization: the recipe's flat options as one `Quantization`.

        >>> Recipe(levels=3, threshold=0.1).quantization().weights.describe()
        'Ternary(threshold=0.1)'
        """
        return Quantization.of(**self._quantization_options())

    def _quantization_options(self) -> dict[str, Any]:
        known = inspect.signature(Quantization.of).parameters
        fields = {field.name for field in dataclasses.fields(Quantization)} | set(known)
        options = {name: value for name, value in self.model_options().items() if name in fields}
        if self.model in ("lstm", "gpt"):
            options.setdefault("inputs", "float")
        return options

    def check_used(self) -> None:
        """Checks that each option of the quantizers changes something in the network.

        Raises:
            HypersignError: one changes nothing.

        >>> Recipe(method="paretoq", surrogate="tanh").check_used()
        Traceback (most recent call last):
        hypersign._checks.HypersignError: surrogate changes nothing with paretoq:count=2 and float, ...
        """
        check_used(**self._quantization_options())

    def model_options(self) -> dict[str, Any]:
        """The options of the network that are set, as `hypersign.models.build` takes them."""
        options = {name: getattr(self, name) for name in _MODEL_OPTIONS}
        return {name: value for name, value in options.items() if value is not None}

    def rate(self, *, epoch: int, progress: float) -> float:
        """The learning rate within epoch `epoch` (from 1), `progress` in (0, 1] being the share of it done.

            exponential: first (last/first)^p;  cosine: last + (first - last) (1 + cos(pi p)) / 2
            linear: first + (last - first) p;   all times min(1, epochs done/warmup)

        p is the share of the training that is done when the epoch (`schedule_per` "epoch") or the step
        ("step") ends, so that the rate is decayed once in the first epoch, as in the original, and the last
        one has the last rate. Per-epoch cosine and linear count from the start of the epoch instead: its last rate is
        often 0, and would waste an epoch.
        """
        warm = min(1.0, (epoch - 1 + progress) / self.warmup) if self.warmup else 1.0
        return warm * self._rate(epoch, progress)

    def _rate(self, epoch: int, progress: float) -> float:
        """The learning rate without warm-up."""
        if self.schedule_per == "step":
            share = (epoch - 1 + progress) / self.epochs
        else:
            share = (epoch if self.schedule == "exponential" else epoch - 1) / self.epochs
        first, last = self.learning_rate, self.final_learning_rate
        if self.schedule == "linear":
            return first + (last - first) * share
        if self.schedule == "exponential":
            return last if share == 1 else first * (last / first) ** share
        return last + (first - last) * (1 + math.cos(math.pi * share)) / 2

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain data; `Recipe(**recipe.as_dict()) == recipe`, also by way of JSON."""
        return dataclasses.asdict(self)


_checking = False
"""Whether options of the network are checked: from the end of this module on."""

_MODEL_OPTIONS = (
    "form",
    "float_first",
    "float_last",
    "widths",
    "pools",
    "filter_size",
    "padding",
    "hidden",
    "levels",
    "threshold",
    "weights",
    "inputs",
    "continuous",
    "float_weights",
    "float_inputs",
    "surrogate",
    "activation",
    "norm_scale",
    "norm_epsilon",
    "norm_momentum",
    "sign_zero",
    "weight_scale",
    "first_layer",
    "first_dimensions",
    "cell",
    "norm",
    "step_statistics",
    "scan",
    "embedding",
    "width",
    "blocks",
    "heads",
    "feed_forward",
    "inner_norm",
    "dropout",
)

_OPTIONAL = (
    "method",
    "padding",
    "surrogate",
    "first_layer",
    "activation",
    "form",
    "cell",
    "norm",
    "scan",
    "feed_forward",
)
"""Fields that may be None."""

_CHOICES = {
    "method": tuple(METHODS),
    "activation": ("none", "hardtanh", "rprelu", "maxout"),
    "model": MODEL_NAMES,
    "form": ("bi-real", "recu", "adabin"),
    "cell": ("lstm", "gru", "rnn"),
    "norm": ("none", "weight", "layer", "batch"),
    "scan": ("rows", "pixels", "permuted"),
    "feed_forward": ("swiglu", "gelu"),
    "padding": ("zeros", "ones", "valid"),
    "surrogate": tuple(SURROGATES),
    "first_layer": FIRST_LAYERS,
    "loss": ("squared-hinge", "cross-entropy"),
    "optimizer": ("adam", "adamw", "sgd"),
    "adam_epsilon": ("corrected", "uncorrected"),
    "schedule": ("exponential", "cosine", "linear"),
    "schedule_per": ("epoch", "step"),
    "latent_clip": ("after-step", "before-forward", "none"),
    "precision": ("float32", "bf16", "bits"),
}

NOT_AUGMENTED = ("digits", "mnist", "fashion-mnist", "tinyshakespeare", "war-and-peace")
"""Data sets that are not mirrored and cropped unless a recipe says so: texts, and images that are small, centred and
of one orientation."""

RECIPES = {
    # Anderson & Berg 2018: squared hinge, Adam, 1e-3 -> 3e-7 exponentially over 500 epochs of batches of 50,
    # no augmentation, the last 500 training images held out. Shuffled, latent weights clipped after the step
    # and validation in evaluation mode: the original did none of these.
    "anderson-berg-2018": Recipe(
        data="cifar-10",
        validation=500,
        flip=False,
        crop_padding=0,
        epochs=500,
        batch_size=50,
        loss="squared-hinge",
        learning_rate=1e-3,
        final_learning_rate=3e-7,
        schedule="exponential",
        schedule_per="epoch",
        gradient_clip=1.0,
    ),
    # The usual choices for such networks today: augmentation, cross-entropy, a cosine that ends at 0. How rate,
    # loss, schedule and surrogate were chosen: experiments/tune_recipe.py, docs/recipe.md. They are the defaults.
    "modern": Recipe(data="cifar-10"),
    # The binary network for CIFAR-10 that two cores train in 2 h 15: VGG-small, three quarters of its width, on bits.
    # 99 % of its multiply-accumulates are binary. How it was chosen: docs/recipe.md.
    "two-cores": Recipe(
        data="cifar-10",
        model="vgg-small",
        widths=(96, 96, 192, 192, 384, 384),
        epochs=68,
        learning_rate=2e-3,
        label_smoothing=0.1,
        precision="bits",
    ),
    # Ardakani et al. 2019 (arXiv 1809.11086), on text: levels drawn at random, batch norm in the recurrent layer,
    # Adam, 200 epochs of batches of 64 sequences of 100. Here all steps share the statistics, and evaluation is
    # deterministic. The authors' code starts from orthogonal matrices and clips each step of a binary weight to
    # +-W0; this recipe does neither.
    "ardakani-2019": Recipe(
        data="war-and-peace",
        model="lstm",
        hidden=(512,),
        norm="batch",
        weights="random-levels",
        epochs=200,
        batch_size=64,
        learning_rate=2e-3,
        final_learning_rate=1e-3,
        schedule="exponential",
        latent_clip="none",
        reestimate_images=640,
    ),
    # Hou et al. 2019 (NeurIPS): Adam, batches of 64 sequences of 100, gradients clipped at 5, weight normalisation.
    "hou-2019": Recipe(
        data="war-and-peace",
        model="lstm",
        hidden=(512,),
        norm="weight",
        weights="sign",
        epochs=200,
        batch_size=64,
        learning_rate=2e-3,
        final_learning_rate=2e-5,
        schedule="exponential",
        gradient_norm=5.0,
    ),
    # BitNet b1.58 (Ma et al. 2024, arXiv 2402.17764) at the size of nanoGPT's character model, with its training.
    "bitnet": Recipe(
        data="tinyshakespeare",
        model="gpt",
        method="bitnet",
        levels=3,
        length=256,
        dropout=0.2,
        epochs=80,
        batch_size=64,
        optimizer="adamw",
        learning_rate=1e-3,
        final_learning_rate=1e-4,
        warmup=2,
        gradient_norm=1.0,
        latent_clip="none",
        reestimate_images=0,
    ),
}
"""Named recipes: starting points whose every field can be changed."""

_checking = True


def method_defaults(method: str, base: Recipe | None = None) -> dict[str, Any]:
    """The defaults of a recipe's options with a method; what the method sets where they are None is left out.

    Raises:
        HypersignError: an unknown method.
    """
    check_choice("method", method, METHODS)
    base = RECIPES["modern"] if base is None else base
    return {**base.as_dict(), **METHODS[method].defaults(), "method": method}
