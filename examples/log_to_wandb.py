"""Logs a comparison to Weights & Biases: `tritia compare --callback log_to_wandb:log`."""

import wandb

runs = {}


def log(record):
    """Logs what one optimizer has reached with one seed after one epoch."""
    key = record.optimizer, record.seed
    if key not in runs:
        runs[key] = wandb.init(
            group=record.optimizer,
            name=f"{record.optimizer} {record.seed}",
            config=record.setting,
            reinit="create_new",
        )
    runs[key].log(record.metrics, step=record.epoch)
