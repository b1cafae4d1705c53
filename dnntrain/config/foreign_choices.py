"""List choices for names of other trainers: networks of libraries, folders, optimizers, schedules.

Each function returns candidates, best first, as lists of settings.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

#: The classification models of torchvision, which is not imported here.
_TORCHVISION_TEXT = (
    "alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169 "
    "densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 "
    "efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 "
    "maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small "
    "regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf "
    "regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf "
    "regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d "
    "resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 "
    "squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 "
    "vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2"
)
TORCHVISION_NAMES = tuple(_TORCHVISION_TEXT.split())

#: Short names of networks, simplified.
_NETWORK_WORDS = {
    "resnet": "resnet18",
    "vgg": "vgg16",
    "vit": "vit_b_16",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "mobilenet": "mobilenet_v3_small",
    "mobilenetv3": "mobilenet_v3_small",
    "squeezenet": "squeezenet1_1",
    "inception": "inception_v3",
    "convnext": "convnext_tiny",
    "swin": "swin_t",
    "xception": "resnet50",
    "yolo": "resnet18",
}

#: Names of choices by a simplified name, in `simplify_word`'s form.
_NAMES: dict[str, dict[str, str]] = {
    "optim": {
        **dict.fromkeys(("rmsprop", "rmsproptf", "adamwtorch", "adamwtorchfused", "fusedadamw", "adagrad"), "adamw"),
        **dict.fromkeys(("adadelta", "nadam", "nadamw", "adabelief", "adamp", "auto", "adamax"), "adamw"),
        **dict.fromkeys(("adamw8bit", "adamwbnb8bit", "adam8bit", "pagedadamw8bit"), "adamw_8bit"),
        **dict.fromkeys(("momentum", "sgdnesterov", "nag"), "nesterov"),
        **dict.fromkeys(("asgd", "sgdm", "sgdp", "gd", "lookahead"), "sgd"),
        "schedulefree": "schedule_free",
        "lionw": "lion",
    },
    "sched": {
        **dict.fromkeys(("cosineannealinglr", "cosineannealing", "cosinelr", "cosinedecay", "cos"), "cosine"),
        **dict.fromkeys(("cosinewithrestarts", "cosineannealingwarmrestarts", "sgdr"), "cosine_restarts"),
        **dict.fromkeys(("steplr", "steps"), "step"),
        **dict.fromkeys(("multisteplr", "piecewise", "piecewiseconstant"), "multistep"),
        **dict.fromkeys(("linearlr", "lineardecay", "linearwithwarmup"), "linear"),
        **dict.fromkeys(("onecyclelr", "onecycle", "cycliclr", "cyclic"), "one_cycle"),
        **dict.fromkeys(("exponentiallr", "exp", "exponentialdecay"), "exponential"),
        **dict.fromkeys(("reducelronplateau", "reduceonplateau"), "plateau"),
        **dict.fromkeys(("polynomiallr", "poly", "polylr", "polynomialdecay"), "polynomial"),
        **dict.fromkeys(("constantlr", "constantwithwarmup", "none", "fixed"), "constant"),
        **dict.fromkeys(("noam", "rsqrt", "inversesqrtlr"), "inverse_sqrt"),
        **dict.fromkeys(("warmupstabledecay", "trapezoidal"), "wsd"),
        "sequentiallr": "sequence",
    },
    "precision": {
        **dict.fromkeys(("16", "16mixed", "float16", "half", "16true", "mixedfloat16"), "fp16"),
        **dict.fromkeys(("bf16mixed", "bfloat16", "bf16true", "mixed", "amp", "mixedbfloat16"), "bf16"),
        **dict.fromkeys(("32", "32true", "float32", "full", "no", "none", "64", "highest"), "fp32"),
    },
    "parallel": {
        **dict.fromkeys(("ddpspawn", "dp", "dataparallel", "distributeddataparallel", "horovod", "mirrored"), "ddp"),
        **dict.fromkeys(("deepspeed", "zero", "fsdp2", "fullshard", "deepspeedstage3", "deepspeedstage2"), "fsdp"),
        **dict.fromkeys(("none", "singledevice", "no"), "single"),
    },
    "track": {
        **dict.fromkeys(("wandb", "comet", "neptune", "clearml", "aim", "mlflowlogger"), "mlflow"),
        **dict.fromkeys(("tb", "tensorboardlogger", "tboard", "tensorboardx"), "tensorboard"),
    },
    "augment": {
        **dict.fromkeys(("hflip", "fliplr", "horizontalflip", "randomhorizontalflip"), "flip"),
        **dict.fromkeys(("randomcrop", "randomresizedcrop", "cropping"), "crop"),
        **dict.fromkeys(("autoaugment", "randaug", "augmix", "auto"), "randaugment"),
        **dict.fromkeys(("jitter", "randomcolorjitter", "hsv"), "color_jitter"),
        **dict.fromkeys(("vflip", "flipud", "verticalflip", "randomverticalflip"), "vertical_flip"),
        **dict.fromkeys(("rotate", "randomrotation", "degrees"), "rotation"),
        "randomperspective": "perspective",
        **dict.fromkeys(("cutout", "erasing", "randomerase", "coarsedropout"), "random_erasing"),
        "trivialaugmentwide": "trivial_augment",
    },
    "reg": {
        **dict.fromkeys(("clip", "gradclipnorm", "gradientclipping", "clipgrad"), "grad_clip"),
        **dict.fromkeys(("stochasticdepth", "droppath"), "drop_path"),
        **dict.fromkeys(("asam",), "sam"),
    },
    "average": {"modelema": "ema", "polyak": "ema", "stochasticweightaveraging": "swa"},
    "norm": {
        **dict.fromkeys(("syncbn", "syncbatchnorm"), "sync"),
        **dict.fromkeys(("gn", "groupnorm"), "group"),
        **dict.fromkeys(("ln", "layernorm"), "layer"),
        **dict.fromkeys(("bn", "batchnorm", "batch"), "none"),
    },
    "quant": {
        **dict.fromkeys(("int8", "ptq", "static", "8bit"), "int8_static"),
        **dict.fromkeys(("dynamic", "dynamicint8"), "int8_dynamic"),
        **dict.fromkeys(("fp8", "float8dynamic"), "float8"),
    },
    "distill": {"kl": "kd", "hinton": "kd", "soft": "kd", "at": "attention_transfer", "hint": "fitnet"},
    "task": {"classify": "classification", "imageclassification": "classification", "train": "classification"},
    "launch": {"torchrun": "local", "accelerate": "local", "none": "local", "pytorch": "local", "submitit": "slurm"},
    "monitor": {"earlystop": "early_stopping", "nan": "non_finite", "gradnorm": "gradient_norm"},
}

#: Names that other trainers download, or that name a format.
_FOLDER_WORDS = ("imagenet", "imagefolder", "folder", "imagenette", "imagewoof", "custom", "images", "own", "coco")


def simplify_word(word: str) -> str:
    """Return the letters and digits of a name in lower case: `CosineAnnealingLR`, `cosine-annealing_lr`."""
    return re.sub(r"[^a-z0-9]", "", word.lower())


def list_named_candidates(group: str, name: str, single: bool) -> list[list[str]]:
    """Return the candidates of a group whose names other trainers spell otherwise."""
    known = _NAMES.get(group, {}).get(simplify_word(name.rpartition(".")[2]))
    if known is None:
        return []
    return [[f"{group}={known}"]] if single else [[f"+{group}=[{known}]"], [f"{group}=[{known}]"]]


def list_network_candidates(name: str) -> list[list[str]]:
    """Return the networks that a name or a file may mean."""
    path = Path(name)
    if path.suffix == ".py":
        return [["model=custom", f"model.file={name}"]]
    base = name.rpartition("/")[2]
    if is_folder(name) or (path.suffix in (".pt", ".pth", ".safetensors") and path.is_file()):
        return [[f"init_from={name}"]]
    candidates: list[list[str]] = []
    for word in dict.fromkeys((base, base.partition(".")[0])):
        if match := _find_torchvision_name(word):
            candidates.append(["model=torchvision", f"model.name={match}"])
        elif match := _find_timm_name(word):
            candidates.append(["model=timm", f"model.name={match}"])
    letters = simplify_word(base.partition(".")[0])
    if match := _NETWORK_WORDS.get("yolo" if letters.startswith("yolo") else letters):
        candidates.append(["model=torchvision", f"model.name={match}"])
    return candidates


def list_data_candidates(name: str) -> list[list[str]]:
    """Return the data sets that a name or a folder may mean."""
    if is_folder(name):
        return [["data=image_folder", f"data.root={name}"]]
    if any(simplify_word(name).startswith(word) for word in _FOLDER_WORDS) or "/" in name:
        return [["data=image_folder", f"data.root={name if '/' in name else 'FOLDER'}"]]
    return []


def is_folder(name: str) -> bool:
    """Return whether `name` is the path of a folder."""
    try:
        return bool(name) and Path(name).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):
        return False


def _find_torchvision_name(word: str) -> str | None:
    by_letters = {simplify_word(name): name for name in TORCHVISION_NAMES}
    return by_letters.get(simplify_word(word))


def _find_timm_name(word: str) -> str | None:
    """Return the name of timm's model, found in its source; None if it is not installed."""
    name = word.lower().replace("-", "_")
    try:
        spec = find_spec("timm")
    except (ImportError, ValueError):
        return None
    folders = spec.submodule_search_locations if spec else None
    definition = f"def {name}(pretrained".encode()
    files = (file for folder in folders or () for file in Path(folder, "models").glob("*.py"))
    return name if name.isidentifier() and any(definition in file.read_bytes() for file in files) else None
