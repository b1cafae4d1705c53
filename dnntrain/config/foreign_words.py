"""List settings for words of other trainers: Lightning, timm, ultralytics, Hugging Face, Keras.

    epochs=3, --epochs 3, trainer.max_epochs=3      train.duration=3ep
    gpus=2                                          parallel=ddp launch.nproc=2
    optimizer=AdamW                                 optim=adamw

This module only lists candidates. `translate.py` offers the first that the configuration accepts.
"""

from __future__ import annotations

import re

#: Words on the left, separated by blanks; the settings on the right. `{}` is the value as typed, and
#: the example behind `|` replaces it if there is none, or if the settings do not accept it.
_TABLE = """
epochs epoch max_epochs num_epochs n_epochs nepochs total_epochs num_train_epochs -> train.duration={}ep | 10
train_epochs nb_epoch -> train.duration={}ep | 10
steps max_steps num_steps n_steps total_steps train_steps iterations iters max_iters -> train.duration={}step | 1000
max_iter num_iterations -> train.duration={}step | 1000
max_time time time_limit -> train.duration={}s | 3600
lr learning_rate lr0 base_lr blr init_lr initial_lr max_lr learningrate -> optim.lr={} | 0.01
weight_decay wd decay l2 l2_reg weightdecay -> optim.weight_decay={} | 0.01
momentum -> optim=sgd optim.momentum={} | 0.9
nesterov -> optim=nesterov
beta1 adam_beta1 b1 -> optim=adamw optim.beta1={} | 0.9
beta2 adam_beta2 b2 -> optim=adamw optim.beta2={} | 0.999
adam_epsilon opt_eps -> optim=adamw optim.eps={} | 1e-8
layer_decay llrd -> optim.layer_decay={} | 0.75
batch_size batch bs batchsize train_batch_size per_device_train_batch_size -> train.batch_size={} | 64
total_batch_size global_batch_size b -> train.batch_size={} | 64
eval_batch_size val_batch_size validation_batch_size test_batch_size -> eval.batch_size={} | 256
per_device_eval_batch_size vb -> eval.batch_size={} | 256
auto_scale_batch_size auto_find_batch_size -> train.micro_batch_size=16
gradient_accumulation_steps accumulate_grad_batches grad_accum_steps accum_steps -> train.micro_batch_size=16
grad_accumulation accumulate nbs -> train.micro_batch_size=16
warmup_epochs num_warmup_epochs warmup -> sched.warmup={}ep | 5
warmup_steps num_warmup_steps warmup_iters -> sched.warmup={}step | 500
warmup_ratio warmup_proportion -> sched.warmup=5%
warmup_lr -> sched.warmup=5% sched.warmup_start_factor=0.01
min_lr lr_min eta_min final_lr lrf lr_end -> sched=cosine sched.end_factor=0.01
decay_rate gamma lr_gamma -> sched=step sched.gamma={} | 0.1
decay_epochs lr_step_size lr_step step_size -> sched=step sched.step_size={}ep | 30
milestones lr_steps decay_milestones -> sched=multistep sched.milestones=[30ep,60ep]
cooldown_epochs -> sched.cooldown={}ep | 5
cos_lr cosine -> sched=cosine
label_smoothing smoothing label_smoothing_factor -> reg=[label_smoothing] reg.label_smoothing.smoothing={} | 0.1
mixup mixup_alpha -> +augment=[mixup] augment.mixup.alpha={} | 0.2
cutmix cutmix_alpha -> +augment=[cutmix] augment.cutmix.alpha={} | 1.0
mixup_prob -> +augment=[mixup] augment.mixup.probability={} | 0.5
reprob erasing random_erase random_erasing -> +augment=[random_erasing] augment.random_erasing.probability={} | 0.25
cutout -> +augment=[random_erasing] augment.random_erasing.probability={} | 0.25
aa auto_augment autoaugment randaug rand_aug -> +augment=[randaugment]
trivialaugment -> +augment=[trivial_augment]
hflip fliplr horizontal_flip random_flip -> augment.flip.probability={} | 0.5
vflip flipud vertical_flip -> +augment=[vertical_flip] augment.vertical_flip.probability={} | 0.5
degrees rotation random_rotation rotate -> +augment=[rotation] augment.rotation.max_degrees={} | 15
perspective random_perspective -> +augment=[perspective]
color_jitter colorjitter jitter -> +augment=[color_jitter] augment.color_jitter.brightness={} | 0.4
hsv_h hue -> +augment=[color_jitter] augment.color_jitter.hue={} | 0.05
hsv_s saturation -> +augment=[color_jitter] augment.color_jitter.saturation={} | 0.4
hsv_v brightness -> +augment=[color_jitter] augment.color_jitter.brightness={} | 0.4
no_aug no_augment -> augment=[]
augment_data data_augmentation augmentation augmentations use_augmentation -> augment=[crop,flip]
aug_repeats -> +augment=[repeated_augment] augment.repeated_augment.copies={} | 2
random_crop crop_padding -> augment.crop.padding={} | 4
random_resized_crop rrc scale -> data=image_folder data.root=FOLDER data.random_resized_crop=true
drop dropout dropout_rate drop_rate drop_prob -> +reg=[dropout] reg.dropout.probability={} | 0.1
drop_path drop_path_rate stochastic_depth droppath -> +reg=[drop_path] reg.drop_path.probability={} | 0.1
drop_block drop_block_rate -> +reg=[dropblock] reg.dropblock.probability={} | 0.1
sam -> +reg=[sam]
l1 l1_reg -> +reg=[l1] reg.l1.coefficient={} | 1e-5
clip_grad clip max_norm max_grad_norm gradient_clip_val clip_norm -> +reg=[grad_clip] reg.grad_clip.max={} | 1.0
grad_clip_norm clip_grad_norm clipnorm grad_clip gradient_clipping -> +reg=[grad_clip] reg.grad_clip.max={} | 1.0
clip_value clipvalue -> +reg=[grad_clip] reg.grad_clip.max={} | 1.0
clip_mode gradient_clip_algorithm -> +reg=[grad_clip] reg.grad_clip.mode={} | norm
model_ema ema use_ema -> +average=[ema]
model_ema_decay ema_decay -> +average=[ema] average.ema.decay={} | 0.999
swa use_swa stochastic_weight_avg -> +average=[swa]
early_stopping early_stop earlystopping use_early_stopping -> +monitor=[early_stopping]
patience early_stopping_patience patience_epochs -> +monitor=[early_stopping] monitor.early_stopping.patience={} | 5
workers num_workers dataloader_num_workers n_workers nw num_data_workers j -> data.num_workers={} | 4
imgsz img_size image_size input_size img crop_size -> data=image_folder data.root=FOLDER data.image_size={} | 224
train_crop_size resolution -> data=image_folder data.root=FOLDER data.image_size={} | 224
data_dir data_path dataset_path data_root train_dir root image_folder -> data=image_folder data.root={} | FOLDER
folder datadir -> data=image_folder data.root={} | FOLDER
val_split validation_split val_ratio val_fraction val_size valid_pct test_size split_ratio -> data.val_fraction={} | 0.1
limit_train_batches max_train_samples fraction subset num_samples train_size -> train.max_examples={} | 1000
max_eval_samples max_val_samples limit_val_batches limit_test_batches -> eval.max_examples={} | 1000
in_memory -> data.pipeline=resident
cache cache_data cache_images -> data.pipeline=cached
fast_dev_run dry_run smoke_test quick sanity -> debug=fast
overfit_batches overfit -> debug=overfit
ckpt_path resume_from_checkpoint resume_path restore -> resume={} | auto
weights checkpoint ckpt finetune_from init_checkpoint initial_checkpoint load load_from -> init_from={} | runs/NAME/ID
model_path -> init_from={} | runs/NAME/ID
output output_dir out_dir outdir save_dir default_root_dir project logdir log_dir -> run_dir={} | runs/mine
logging_dir exp_dir workdir work_dir dir -> run_dir={} | runs/mine
exist_ok overwrite overwrite_output_dir -> resume=never
run_name exp_name experiment_name exp -> name={} | mine
random_seed manual_seed seed_everything torch_seed random_state data_seed rng_seed -> seed={} | 0
deterministic benchmark -> seed=0
torch_compile torchcompile jit -> train.compile=on
no_compile -> train.compile=off
gradient_checkpointing grad_checkpointing activation_checkpointing -> train.activation_checkpointing=full
enable_checkpointing_grad -> train.activation_checkpointing=full
log_every_n_steps logging_steps log_interval print_freq log_freq log_steps verbose_step -> log.every={}step | 20
log_every_n_epochs -> log.every={}ep | 1
check_val_every_n_epoch validation_freq val_freq eval_freq eval_every val_every validate_every -> eval.every={}ep | 1
val_interval eval_interval -> eval.every={}ep | 1
val_check_interval eval_steps -> eval.every={}step | 100
evaluation_strategy eval_strategy save_strategy -> eval.every=1ep
save_steps save_freq -> checkpoint.every={}step | 500
save_period save_every every_n_epochs checkpoint_interval checkpoint_freq save_interval -> checkpoint.every={}ep | 1
save_total_limit save_top_k checkpoint_hist keep_checkpoints -> checkpoint.keep_last={} | 2
metric_for_best_model eval_metric -> eval.metric={} | accuracy
load_best_model_at_end restore_best_weights save_best_only -> eval.weights=best
tb tensorboard -> +track=[tensorboard]
wandb comet neptune use_wandb log_wandb -> +track=[mlflow]
mlflow -> +track=[mlflow]
amp use_amp mixed_precision_training autocast bf16 bfloat16 half_precision -> precision=bf16
fp16 half float16 -> precision=fp16
fp32 float32 no_amp -> precision=fp32
use_cpu no_cuda cpu no_gpu -> device=cpu
cuda gpu use_gpu use_cuda -> device=cuda
mps -> device=mps
nproc nproc_per_node num_processes world_size ddp distributed multi_gpu multigpu -> parallel=ddp launch.nproc={} | 2
data_parallel num_ranks -> parallel=ddp launch.nproc={} | 2
fsdp deepspeed zero sharded_ddp zero_stage -> parallel=fsdp
num_nodes nodes nnodes num_machines -> launch=slurm launch.nodes={} | 2
find_unused_parameters -> parallel=ddp parallel.static_graph=false
sync_bn sync_batchnorm syncbn dist_bn -> norm=sync model=resnet20
freeze freeze_backbone freeze_layers freeze_base head_only linear_probe -> train.freeze=["*","!head.*"]
unfreeze unfreeze_at unfreeze_epoch unfreeze_at_epoch -> train.freeze=["*","!head.*"] train.unfreeze_at={}ep | 2
freeze_bn freeze_batch_norm -> norm=frozen model=resnet20
channels_last memory_format -> train.channels_last=on
teacher teacher_model -> distill=kd distill.teacher={} | runs/NAME/ID
temperature kd_temperature -> distill=kd distill.teacher=runs/NAME/ID distill.temperature={} | 4
qat quantize -> quant=qat
int8 -> quant=int8_static
pretrained -> model=torchvision model.name=resnet18 model.weights=DEFAULT
nc n_classes -> data=image_folder data.root=FOLDER
criterion loss loss_fn loss_function -> task=classification
metrics metric -> eval.metric={} | accuracy
"""

#: Words whose value is a choice of a group.
_GROUP_WORDS = {
    "data": "dataset data_set dataset_name ds train_data train_dataset",
    "model": "arch architecture model_name backbone net network a model_name_or_path model_type encoder",
    "optim": "optimizer opt optimizer_name optim_name",
    "sched": "lr_scheduler scheduler lr_schedule schedule lr_scheduler_type scheduler_type lr_decay_type",
    "precision": "dtype mixed_precision torch_dtype",
    "parallel": "strategy distributed_strategy",
    "track": "logger report_to loggers tracker",
    "distill": "distillation",
    "quant": "quantization",
    "task": "task_name mode",
    "launch": "launcher",
    "device": "accelerator devices gpus num_gpus n_gpu n_gpus ngpus gpu_ids gpu_id cuda_visible_devices",
}


def _read_table() -> dict[str, tuple[str, str]]:
    table: dict[str, tuple[str, str]] = {}
    for line in _TABLE.strip().splitlines():
        words, _, text = line.partition(" -> ")
        settings, _, example = text.partition(" | ")
        table |= dict.fromkeys(words.split(), (settings, example))
    return table


SETTING_WORDS = _read_table()
GROUP_OF_WORD = {word: group for group, words in _GROUP_WORDS.items() for word in words.split()}


def is_foreign_word(key: str) -> bool:
    """Return whether other trainers have a setting of this name."""
    return key.lower() in SETTING_WORDS or key.lower() in GROUP_OF_WORD


def list_setting_candidates(word: str, value: str | None) -> list[list[str]]:
    """Return the settings that `word=value` may mean, best first; `value` is None for a bare flag.

    `word` is a key of `SETTING_WORDS`.
    """
    settings, example = SETTING_WORDS[word]
    if "{}" not in settings:
        is_off = value is not None and value.lower() in ("false", "no", "off", "none", "null", "0")
        return [] if is_off else [settings.split(" ")]
    values = [text for text in (value, _format_number(value), example) if text]
    return [[part.replace("{}", text) for part in settings.split(" ")] for text in values]


def list_device_candidates(value: str | None, *, is_number: bool = False) -> list[list[str]]:
    """Return the settings for a device, a number of devices or a list of them.

    `is_number`: a lone number is the number of a device, not a count.
    """
    text = (value or "").strip("[]'\" ").lower()
    numbers = re.findall(r"\d+", text) if re.fullmatch(r"[\d, ]+", text) else []
    if is_number and len(numbers) == 1:
        return [[f"device=cuda:{numbers[0]}"]]
    if len(numbers) > 1 or (numbers and int(numbers[0]) > 1):
        return [["parallel=ddp", f"launch.nproc={len(numbers) if len(numbers) > 1 else numbers[0]}"]]
    if text in ("-1", "all"):
        return [["parallel=ddp"]]
    names = {"gpu": "cuda", "cuda": "cuda", "1": "cuda", "true": "cuda", "cpu": "cpu", "0": "cpu", "false": "cpu"}
    return [[f"device={names.get(text, text if text == 'mps' else 'auto')}"]]


def _format_number(value: str | None) -> str:
    """Return a whole number without a decimal point: `10.0` → `10`."""
    match = re.fullmatch(r"(\d+)\.0*", value or "")
    return match[1] if match else ""
