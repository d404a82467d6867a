"""Every field of a training run, with its default, unit and meaning; the other configurations change a few of them.

    flair-jax train --config=cc3m_recap --config.batch_size=512 --workdir=runs/cc3m

Fields are locked: a field that does not exist, or a value of another type, is an error. `extra` is for your own.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The hyper-parameters of FLAIR's CC3M-recap run, and settings that suit one machine."""
    c = ml_collections.ConfigDict()
    _model_and_length(c)
    _loss_and_optimizer(c)
    _devices_and_data(c)
    _what_is_kept(c)
    _your_own(c)
    c.lock()
    c.extra.unlock()
    c.evaluations.unlock()
    return c


def get_evaluation(**changes: str | int) -> ml_collections.ConfigDict:
    """The fields of an evaluation while training, some of them changed.

    c.evaluations.imagenet = get_evaluation(task="classify", dataset="imagenet", dir="~/imagenet", every_steps=5000)
    """
    e = ml_collections.ConfigDict()
    e.every_steps = 0  # 0: never
    e.task = "retrieval"  # as in `flair-jax evaluate`: "retrieval", "classify", "segment", "point", "choose"
    e.dataset = "coco"  # as there
    e.dir = "~/datasets/coco"
    e.mode = "text-conditioned"
    e.top_k = 128
    e.templates = ""  # of "classify" and "segment", as there; "": the set's own
    e.batch_size = 256
    e.lock()
    e.update(changes)
    return e


def _model_and_length(c: ml_collections.ConfigDict) -> None:
    """The model, its initial weights, and the length of training."""
    # Model
    c.model = "ViT-B-16-FLAIR"  # a preset's name, or a JSON file in the PyTorch release's form, as checkpoints have
    c.init = ""  # checkpoint to start from: a folder of FLAIR or CLIP's towers, or an hf:// name; "": random
    c.resume = ""  # training checkpoint of the PyTorch release (epoch_N.pt) that goes on here, with AdamW's state
    c.lock = ()  # towers that keep their weights, as in LiT: "image", "text"
    c.unlocked_groups = ml_collections.ConfigDict()  # of these, what is trained all the same, counted from the end
    c.unlocked_groups.image = 0  # 1: the projection; 2: the last layer and LayerNorm too; each more: a layer more
    c.unlocked_groups.text = 0
    c.patch_dropout = 0.0  # share of the patches that each image is trained without, drawn anew in every step
    c.dtype = "bfloat16"  # compute dtype; parameters, softmax, statistics and loss are float32
    c.remat = "none"  # rematerialisation of the towers in the backward pass: "none", "dots", "attention", "full"
    c.unroll = 1  # layers in each step of the layer loop; changes speed only
    c.attention = "auto"  # who computes the towers' attention: "auto", "xla", "cudnn", "pallas"; docs/attention.md
    c.residual_dtype = "float32"  # of the towers' residual stream; "bfloat16" needs less traffic (docs/model.md)
    c.seed = 0  # of initialisation, order, crops and captions

    # Length and batch
    c.batch_size = 1024  # images in a step, over all devices and processes
    c.captions_per_image = 8  # K
    c.epochs = 32.0  # passes over the data; the number of steps follows
    c.steps = 0  # if not 0: the number of steps, whatever `epochs` says
    c.accumulation_steps = 1  # GradCache: parts in which the towers see a batch; the loss is over all of it

    # Captions without padding, several in a row; changes speed and memory only (docs/packing.md)
    c.packing = ml_collections.ConfigDict()
    c.packing.row_tokens = 0  # tokens of a row, such as 128; 0: each caption padded to a row of its own
    c.packing.tokens_per_caption = 45.0  # rows for so many on average; `flair-jax data stats` says how many yours need


def _loss_and_optimizer(c: ml_collections.ConfigDict) -> None:
    """The loss and the optimiser."""
    # Loss
    c.loss = ml_collections.ConfigDict()
    c.loss.terms = ("tcs", "mps")  # text-conditioned and multi-positive sigmoid
    c.loss.weights = ()  # a factor for each term, whose sum is the loss; (): their mean
    c.loss.group_size = 128  # images that draw captions from each other, as on one GPU of the original; 0: all
    c.loss.pairs_per_block = 8192  # (image, caption) pairs pooled at once by a device; changes memory and speed only

    # Optimiser (docs/optimizers.md)
    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "adamw"  # as published; or "lion", "muon" (AdamW for all but matrices), "adafactor"
    c.optimizer.learning_rate = 5e-4  # its peak
    c.optimizer.schedule = "cosine"  # to 0; or "constant", or "constant-cooldown"
    c.optimizer.warmup_steps = 2000  # of linear warm-up
    c.optimizer.cooldown_steps = 0  # of "constant-cooldown": linear to 0 at the end
    c.optimizer.b1 = 0.9
    c.optimizer.b2 = 0.98
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.5  # not of biases, LayerNorms, the class token and the logit scale and bias
    c.optimizer.clip_norm = 0.0  # gradients are scaled down to this norm; 0: never
    c.optimizer.layer_decay = 1.0  # factor of the learning rate from each layer of a tower to the one below it
    c.optimizer.image_rate = 1.0  # factor of the image tower's learning rate; `lock` keeps its weights
    c.optimizer.text_rate = 1.0  # and of the text tower's
    c.optimizer.ema_decay = 0.0  # of the moving average of the parameters that is evaluated and exported; 0: none


def _devices_and_data(c: ml_collections.ConfigDict) -> None:
    """Devices and training data."""
    # Devices: sizes of the mesh's axes; -1: the rest of the devices
    c.mesh = ml_collections.ConfigDict()
    c.mesh.data = -1  # batch sharded, parameters replicated
    c.mesh.fsdp = 1  # batch sharded, parameters sharded and all-gathered when used
    c.mesh.tensor = 1  # layers sharded: heads and hidden units

    # Training data: TFDS data sets with features `image` and `captions` (sentences) or `caption`, or WebDataset tars
    c.data = ml_collections.ConfigDict()
    c.data.name = "recaptioned/cc3m"  # or "cc3m/{0000..0331}.tar", or a URL; several joined by `::`
    c.data.dir = "~/tensorflow_datasets"  # TFDS's folder; relative paths of tars start here
    c.data.split = "train"  # of TFDS data sets
    c.data.index_dir = ""  # where the indexes of tars are; "": beside them, or in ~/.cache/flair_jax/tars
    c.data.weights = ()  # relative share of each set in the stream; (): by their sizes
    c.data.epoch_samples = 0  # samples in an epoch; 0: every sample of every set once
    c.data.workers = 4  # worker processes that decode, for each process of the run; 0: its own threads
    c.data.merged_sentences = 3  # at most so many sentences of a record are joined to a caption
    c.data.crop_scale = (0.9, 1.0)  # share of an image's area that a random crop keeps, from and to


def _what_is_kept(c: ml_collections.ConfigDict) -> None:
    """Checkpoints, metrics, evaluations and compiled programs."""
    # Checkpoints, in WORKDIR/checkpoints
    c.checkpoint = ml_collections.ConfigDict()
    c.checkpoint.every_steps = 1000
    c.checkpoint.keep = 2  # newest
    c.checkpoint.keep_every_steps = 0  # and those at multiples of this step for good; 0: none

    # Metrics, in WORKDIR/metrics.jsonl and for TensorBoard in WORKDIR
    c.log_every_steps = 50
    c.profile_steps = ()  # such as (20, 24): traces these steps for TensorBoard's profiler (docs/health.md); (): none
    c.wandb_project = ""  # Weights & Biases too (extra `wandb`); "": no

    # Evaluation while training; further ones, of any task, each by a name of your choice: see `get_evaluation`
    c.evaluation = get_evaluation()
    c.evaluations = ml_collections.ConfigDict()

    # Compiled programs are kept here and found again by the next run; "": nowhere
    c.compilation_cache = "~/.cache/flair_jax/compiled"


def _your_own(c: ml_collections.ConfigDict) -> None:
    """Your own objects and fields."""
    # Functions of the run's settings, each of which makes an object to train with instead of the standard one: see
    # `flair_jax.train.train`
    c.factories = ml_collections.ConfigDict()
    c.factories.model = None  # a flair_jax.Flair
    c.factories.optimizer = None  # an optax.GradientTransformation
    c.factories.loss = None  # a flair_jax.train.Loss
    c.factories.sources = None  # training samples: a list of flair_jax.data.Source

    # Fields of your own for those functions, which read them from `settings.extra`; new names are allowed here
    c.extra = ml_collections.ConfigDict()
